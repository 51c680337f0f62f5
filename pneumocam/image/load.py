"""Any upload -> a checked 8-bit grayscale radiograph, or one of the errors of `pneumocam.image.errors`.

A DICOM's patient, dates and identifiers are never parsed, and nothing of an upload is logged, warned or quoted.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

from pneumocam.image.decoder import Bounded
from pneumocam.image.dicom import from_dicom
from pneumocam.image.errors import (
    EXPENSIVE,
    DamagedImage,
    InternalError,
    MultiFrame,
    NotAnImage,
    RadiographError,
    TooLarge,
    check_contrast,
    check_size,
)
from pneumocam.image.grayscale import flatten, flatten_deep, to_uint8
from pneumocam.image.headers import check_exif, check_jpeg, check_tiff
from pneumocam.image.sandbox import silenced

_ACCEPTED = "Accepted are JPEG, PNG, TIFF, BMP, WebP, single-frame GIF and DICOM"
_SIGNATURE = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG)|(?P<TIFF>II[*+]\x00|MM\x00[*+])|(?P<BMP>BM)|(?P<WEBP>RIFF....WEBP)|"
    rb"(?P<GIF>GIF8)",
    re.DOTALL,
)
_DICOM_WITHOUT_PREAMBLE = re.compile(
    rb"[\x02\x08]\x00[\x00-\x18]\x00(?:[A-Z]{2}|..\x00\x00)|\x00\x08\x00[\x00-\x18][A-Z]{2}", re.DOTALL
)

Array = NDArray[Any]
Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Array
Decoded = tuple[NDArray[np.uint8], str, list[str]]  # pixels (H, W), source format, steps


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A checked grayscale film, without anything about the patient.

    Attributes:
        pixels: (H, W) uint8 in 0..255, read-only, upright; brighter is denser ("bone white").
        source_format: what it was read from: "JPEG", "MPO", "PNG", "TIFF", "BMP", "WEBP", "GIF", "DICOM", "PIL",
            "array".
        steps: what was done to get there, in order and in words; empty when the pixels are as they came.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    source_format: str
    steps: tuple[str, ...]

    def __repr__(self) -> str:
        steps = f", {len(self.steps)} steps" if self.steps else ""
        return f"Radiograph({self.source_format}, {self.width} x {self.height} pixels{steps})"

    def _repr_html_(self) -> str:
        from pneumocam.notebook import radiograph_html

        return radiograph_html(self)

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def to_pil(self) -> Image.Image:
        """A copy of the film as a Pillow image of mode "L"."""
        return Image.fromarray(self.pixels)


def load_radiograph(source: Source, *, max_bytes: int = 20_000_000, max_pixels: int = 64_000_000) -> Radiograph:
    """Read one film from a path, encoded bytes, a binary stream, a Pillow image or an array.

    Bytes and pixels are bounded before anything is decoded. Safe to call from several threads.

    Args:
        source: JPEG, PNG, TIFF, BMP, WebP, GIF or DICOM as path, bytes or stream (read from where it stands, and not
            closed); a Pillow image; or an array, (H, W) uint8, uint16 or float, or (H, W, 3 or 4) uint8 RGB(A).
        max_bytes: most encoded bytes that are read.
        max_pixels: most pixels, width times height, that are decoded; a quarter of them in WebP, run-length encoded
            BMP, CMYK, Lab, more than 8 bits a channel of colour and more than 16 of grey, where each takes several
            times the memory or time; and in a DICOM of more than 16 bits a pixel.

    Returns:
        The film as 8-bit grayscale, upright, brighter where denser.

    Raises:
        RadiographError: one of its subclasses, if this is not one whole, readable, large enough radiograph.
        InternalError: if the service failed, not the image; the same image may be read later.
        OSError: if a path cannot be opened (FileNotFoundError, IsADirectoryError, PermissionError).
    """
    if isinstance(source, np.ndarray):
        decoded = _from_array(source, max_pixels)
    elif isinstance(source, Image.Image):
        decoded = _guarded(_from_picture, source, max_pixels, what=source.format or "PIL")
    else:
        data = _read(source, max_bytes)
        if data[128:132] == b"DICM" or _DICOM_WITHOUT_PREAMBLE.match(data):
            decoded = _guarded(_from_dicom, data, max_pixels, what="DICOM")
        elif signature := _SIGNATURE.match(data):
            decoded = _guarded(_from_encoded, data, str(signature.lastgroup), max_pixels, what=signature.lastgroup)
        else:
            raise NotAnImage(f"The upload is no picture that is known here. {_ACCEPTED}; save it as PNG.")
    pixels, source_format, steps = decoded
    steps += check_contrast(pixels)
    pixels.setflags(write=False)
    return Radiograph(pixels, source_format, tuple(steps))


def _read(source: str | os.PathLike[str] | bytes | BinaryIO, max_bytes: int) -> bytes:
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.stat().st_size > max_bytes:
            raise _too_many_bytes(max_bytes)
        with path.open("rb") as stream:
            return _read(stream, max_bytes)
    data = source if isinstance(source, bytes) else _read_stream(source, max_bytes)
    if not data:
        raise NotAnImage(f"The upload is empty. {_ACCEPTED}; choose the file again.")
    if len(data) > max_bytes:
        raise _too_many_bytes(max_bytes)
    return data


def _read_stream(stream: BinaryIO, max_bytes: int) -> bytes:
    """At most `max_bytes` + 1 bytes, however few a raw stream hands over at a time."""
    data = bytearray()
    while len(data) <= max_bytes:
        chunk = stream.read(max_bytes + 1 - len(data)) if hasattr(stream, "read") else None
        if not isinstance(chunk, bytes):
            kind = type(stream).__name__
            raise NotAnImage(f"A {kind} came, and no bytes can be read from it. {_ACCEPTED}, opened in binary mode.")
        if not chunk:
            break
        data += chunk
    return bytes(data)


def _too_many_bytes(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"The file has more than the {max_bytes:,} bytes that are accepted. Export it at a lower resolution or "
        "compress it as JPEG."
    )


def _guarded(decode: Callable[..., Decoded], *args: object, what: str | None) -> Decoded:
    """Let no decoder's own exception out: what it says can quote the file."""
    failure: RadiographError
    try:
        with silenced:
            return decode(*args)
    except (RadiographError, InternalError):
        raise
    except MemoryError:
        raise InternalError("There is not enough memory to read this image now. Try again later.") from None
    except Image.DecompressionBombError:
        failure = TooLarge(f"The {what} claims far more pixels than are accepted. Export it at a lower resolution.")
    except Exception:
        failure = DamagedImage(
            f"The {what} is truncated or damaged, or of a rare variant, and cannot be decoded. Export it again, or "
            "save the picture as PNG."
        )
    # Raised out here so that __context__ keeps nothing of the decoder's words either.
    raise failure


def _from_array(array: Array, max_pixels: int) -> Decoded:
    plane = array.ndim == 2 and (array.dtype.kind == "f" or array.dtype.newbyteorder("=") in (np.uint8, np.uint16))
    if not plane and not (array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8):
        raise NotAnImage(
            f"An array of shape {array.shape} and dtype {array.dtype} came. Accepted are (H, W) uint8, uint16 or "
            "float, and (H, W, 3 or 4) uint8; convert it."
        )
    check_size(array.shape[1], array.shape[0], max_pixels)
    pixels, steps = to_uint8(array) if plane else flatten(Image.fromarray(array))
    return pixels, "array", steps


def _from_dicom(data: bytes, max_pixels: int) -> Decoded:
    pixels, steps = from_dicom(data, max_pixels)
    return pixels, "DICOM", steps


def _from_encoded(data: bytes, file_format: str, max_pixels: int) -> Decoded:
    if file_format == "JPEG":
        check_jpeg(data)
    if file_format == "TIFF":
        check_tiff(data)
    picture = _open(data, file_format)
    if file_format == "GIF":
        picture = _open(_cut_behind(data, picture.tile[0].offset), file_format)
    picture.info.pop("Raw profile type exif", None)  # an EXIF block that nobody has checked
    return _from_picture(picture, max_pixels, data)


def _open(data: bytes, file_format: str) -> ImageFile.ImageFile:
    stream = Bounded(data, steps=5000)
    picture = Image.open(stream, formats=[file_format])
    # A run-length encoded BMP is read pixel by pixel.
    stream.steps = 2_000_000 if file_format == "BMP" else 10_000 + len(data) // 64
    return picture


def _cut_behind(data: bytes, offset: int) -> bytes:
    """A GIF until a little behind its first picture, which begins there.

    Pillow looks for a second through all that follows, and copies a comment anew with each 255 bytes that it grows by.
    """
    while offset < len(data) and data[offset]:
        offset += 1 + data[offset]
    return data[: offset + 100_000]


def _from_picture(picture: Image.Image, max_pixels: int, data: bytes = b"") -> Decoded:
    # The further pictures of a phone's MPO are previews and depth maps of the first.
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise MultiFrame(
            f"The {picture.format} holds several pictures; one film is accepted at a time. Save the one you mean "
            "as a file of its own."
        )
    check_size(*picture.size, max_pixels // (EXPENSIVE if _is_expensive(picture) else 1))
    came_turned = _orientation(picture) > 1
    deep = _read_deep(data, picture.format) if data and picture.format in ("PNG", "TIFF") else None
    picture.load()
    pixels, steps = _grey(picture, deep)
    # Pillow has turned a TIFF by now, and then no longer says that it needs turning.
    if (orientation := _orientation(picture)) > 1:
        film = Image.fromarray(pixels)
        film.getexif()[ExifTags.Base.Orientation] = orientation
        pixels = np.array(ImageOps.exif_transpose(film))
    if came_turned:
        steps.append("rotated by EXIF orientation")
    return pixels, picture.format or "PIL", steps


def _is_expensive(picture: Image.Image) -> bool:
    """Whether a pixel takes several times the usual memory, or time, on its way."""
    deep = len(picture.getbands()) > 1 and ";16" in _raw_mode(picture)
    run_lengths = picture.format == "BMP" and picture.info.get("compression") in (1, 2)  # undone in Python
    return deep or run_lengths or picture.format == "WEBP" or picture.mode in ("I", "F", "CMYK", "LAB")


def _raw_mode(picture: Image.Image) -> str:
    """How the file's samples lie, in Pillow's terms; empty when all are loaded."""
    tiles = getattr(picture, "tile", None)
    args = (tiles[0].args if tiles else None) or ("",)
    return str(args if isinstance(args, str) else args[0])


def _orientation(picture: Image.Image) -> int:
    if isinstance(exif := picture.info.get("exif"), bytes):
        check_exif(exif)
    value = picture.getexif().get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _grey(picture: Image.Image, deep: Array | None) -> tuple[NDArray[np.uint8], list[str]]:
    if deep is not None:
        return flatten_deep(deep)
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return flatten(picture)
    # Pillow inverts WhiteIsZero for up to 8 bits only.
    negative = getattr(picture, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0
    pixels, steps = to_uint8(np.asarray(picture), negative=negative)
    return pixels, steps + ["inverted (WhiteIsZero)"] * negative


def _read_deep(data: bytes, file_format: str) -> Array | None:
    """(H, W, C) uint16 of a picture with 16 bits in each of several channels, else None.

    Pillow keeps the upper byte of these alone, so a second reading, told the other byte order, fetches the lower.
    """
    upper, lower = (_open(data, file_format) for _ in range(2))
    match = re.fullmatch("(RGB|RGBA|RGBX|LA);16([BLN])", _raw_mode(upper))
    if not match:
        return None
    args: Any = upper.tile[0].args
    # The four bytes of grey and alpha come as they are when taken for RGBA.
    other = "RGBA" if match[1] == "LA" else f"{match[1]};16{'L' if match[2] == 'B' else 'B'}"
    lower.tile = [tile._replace(args=other if isinstance(args, str) else (other, *args[1:])) for tile in lower.tile]
    if match[1] == "LA":
        return np.array(lower).view(">u2")
    deep: Array = np.array(upper, np.uint16) * 256 + np.array(lower)
    return deep
