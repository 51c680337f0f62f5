"""Every format, encoding and refusal of `load_radiograph`, on films made here, against their known pixels."""

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from pneumocam.image import (
    Blank,
    DamagedImage,
    MultiFrame,
    NotAnImage,
    NotARadiograph,
    Radiograph,
    RadiographError,
    TooLarge,
    TooSmall,
    UnsupportedDicom,
    load_radiograph,
    sandbox,
)

Array = NDArray[Any]
SECRET = "Roentgen^Anna"


def film(bits: int = 8, height: int = 96, width: int = 80) -> Array:
    """A gradient with a brighter disc in it, over the full range of `bits`; no two orientations look alike."""
    y, x = np.mgrid[0:height, 0:width]
    levels = 0.5 * x / width + 0.3 * y / height + 0.2 * ((x - 50) ** 2 + (y - 30) ** 2 < 400)
    levels = (levels - levels.min()) / np.ptp(levels)
    grey: Array = np.rint(levels * (2**bits - 1))
    return grey.astype(np.uint8 if bits <= 8 else np.uint16)


FILM = film()
FILM_8_OF_12 = np.rint(film(12) * (255 / 4095)).astype(np.uint8)


def encode(picture: Array | Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples: Array, colour_type: int, size: tuple[int, int] | None = None) -> bytes:
    """A PNG of any depth and colour type, (H, W, C) samples, which Pillow itself cannot write."""
    height, width = samples.shape[:2]
    depth = 8 * samples.dtype.itemsize
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff16_big_endian(pixels: Array, size: tuple[int, int] | None = None) -> bytes:
    width, height = size or pixels.shape[::-1]
    tags = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 8 + 2 + 8 * 12 + 4),
        (277, 1),
        (278, height),
    ]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    return b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4) + pixels.astype(">u2").tobytes()


def dicom(pixels: Array, bits: int = 0, **tags: Any) -> Dataset:
    """An uncompressed radiograph, with more tags on top; PatientName is `SECRET`."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid.UID("1.2.826.0.1.3680043.2")
    dataset.Modality, dataset.PatientName, dataset.PatientID = "DX", SECRET, SECRET
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def by_gdcm(pixels: Array, bits: int, syntax: int, folder: Path) -> bytes:
    (folder / "plain.dcm").write_bytes(saved(dicom(pixels, bits)))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(folder / "packed.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return (folder / "packed.dcm").read_bytes()


def encapsulated(codestream: bytes, syntax: str, pixels: Array, bits: int = 0, **tags: Any) -> bytes:
    dataset = dicom(pixels, bits, **tags)
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    return saved(dataset)


def compressed(pixels: Array, syntax: str, bits: int = 0, **options: Any) -> bytes:
    dataset = dicom(pixels, bits)
    dataset.compress(syntax, generate_instance_uid=False, **options)
    return saved(dataset)


def refused(source: Any, kind: type[RadiographError], code: str, *said: str, **limits: int) -> RadiographError:
    with pytest.raises(RadiographError) as caught:
        load_radiograph(source, **limits)
    error = caught.value
    assert type(error) is kind
    assert (error.code, str(error)) == (code, error.message)
    assert error.__cause__ is None
    assert error.__context__ is None
    for words in said:
        assert words in error.message
    return error


# Pictures


@pytest.mark.parametrize(
    ("data", "source_format"),
    [
        (encode(FILM, "PNG"), "PNG"),
        (encode(FILM, "TIFF"), "TIFF"),
        (encode(FILM, "TIFF", compression="tiff_lzw"), "TIFF"),
        (encode(FILM, "BMP"), "BMP"),
        (encode(np.stack([FILM] * 3, 2), "WEBP", lossless=True), "WEBP"),
        (encode(FILM, "GIF"), "GIF"),
        (encode(Image.fromarray(FILM).convert("P"), "PNG"), "PNG"),
        (encode(Image.fromarray(FILM).convert("LA"), "PNG"), "PNG"),
        (encode(Image.fromarray(FILM).convert("RGBA"), "PNG"), "PNG"),
        (png(FILM[..., None].astype(np.uint16) * 257, 0), "PNG"),
        (png(FILM[..., None].astype(np.uint16), 0), "PNG"),
        (encode(FILM.astype(np.uint16) * 257, "TIFF"), "TIFF"),
        (tiff16_big_endian(FILM.astype(np.uint16) * 257), "TIFF"),
        (encode(FILM.astype(np.int32) * 257, "TIFF"), "TIFF"),
        (encode((FILM / 255).astype(np.float32), "TIFF"), "TIFF"),
        (encode((FILM * 1000.0 - 3e5).astype(np.float32), "TIFF"), "TIFF"),
    ],
)
def test_a_lossless_picture_keeps_every_pixel(data: bytes, source_format: str) -> None:
    radiograph = load_radiograph(data)
    np.testing.assert_array_equal(radiograph.pixels, FILM)
    assert radiograph.source_format == source_format


@pytest.mark.parametrize(("file_format", "tolerance"), [("JPEG", 3), ("WEBP", 4)])
def test_a_lossy_picture_stays_close(file_format: str, tolerance: int) -> None:
    radiograph = load_radiograph(encode(np.stack([FILM] * 3, 2), file_format, quality=95))
    assert radiograph.source_format == file_format
    assert np.abs(radiograph.pixels - FILM.astype(float)).mean() < tolerance


def test_an_8_bit_grey_jpeg_is_passed_through_without_any_step() -> None:
    data = encode(FILM, "JPEG", quality=92)
    radiograph = load_radiograph(data)
    np.testing.assert_array_equal(radiograph.pixels, np.asarray(Image.open(io.BytesIO(data))))
    assert radiograph.steps == ()


def test_one_bit_becomes_black_and_white() -> None:
    pixels = load_radiograph(encode(Image.fromarray(FILM > 128), "PNG")).pixels
    np.testing.assert_array_equal(pixels, np.where(FILM > 128, 255, 0))


def test_12_bits_in_16_use_the_full_scale_of_12() -> None:
    radiograph = load_radiograph(png(film(12)[..., None], 0))
    np.testing.assert_array_equal(radiograph.pixels, FILM_8_OF_12)
    assert radiograph.steps == ("12 bit scaled to 8 bit",)


def test_a_narrow_range_in_16_bits_is_stretched() -> None:
    narrow = 20000 + film(12)
    radiograph = load_radiograph(encode(narrow, "TIFF"))
    np.testing.assert_array_equal(radiograph.pixels, FILM_8_OF_12)
    assert radiograph.steps == ("stretched from 20000..24095 to 8 bit",)


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (4, 6), (2, 4)])
def test_16_bit_colour_and_alpha_png_keep_their_low_byte(channels: int, colour_type: int) -> None:
    """Pillow reads only the upper byte of these, which leaves a 12-bit film 16 grey levels."""
    samples = np.repeat(film(12)[..., None], channels, 2)
    if channels in (2, 4):
        samples[..., -1] = 65535
    radiograph = load_radiograph(png(samples, colour_type))
    np.testing.assert_array_equal(radiograph.pixels, FILM_8_OF_12)


def test_16_bit_alpha_darkens_towards_black() -> None:
    alpha = np.full_like(film(16), 32768)
    radiograph = load_radiograph(png(np.stack([film(16), alpha], 2), 4))
    expected = np.rint(film(16) * (32768 / 65535)) * 255 / 65535
    assert np.abs(radiograph.pixels - expected).max() <= 0.51
    assert "transparency laid on black" in radiograph.steps


@pytest.mark.parametrize("packed", [1, 5])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_tiff_keeps_its_low_byte(packed: int, channels: int) -> None:
    cv2 = pytest.importorskip("cv2")
    samples = np.repeat(film(12)[..., None], channels, 2)
    samples[..., 3:] = 65535
    data = cv2.imencode(".tiff", samples, [cv2.IMWRITE_TIFF_COMPRESSION, packed])[1].tobytes()
    np.testing.assert_array_equal(load_radiograph(data).pixels, FILM_8_OF_12)


def test_transparency_is_laid_on_black() -> None:
    alpha = np.where(np.arange(80) < 40, 255, 0).astype(np.uint8) * np.ones_like(FILM)
    radiograph = load_radiograph(encode(Image.fromarray(np.stack([FILM, alpha], 2)), "PNG"))
    np.testing.assert_array_equal(radiograph.pixels, np.where(alpha > 0, FILM, 0))
    assert radiograph.steps == ("transparency laid on black",)


def test_colour_becomes_rec_601_grey() -> None:
    rgb = np.stack([FILM, FILM[::-1], FILM[:, ::-1]], 2)
    radiograph = load_radiograph(encode(rgb, "PNG"))
    assert np.abs(radiograph.pixels - rgb @ (0.299, 0.587, 0.114)).max() <= 0.51
    assert radiograph.steps == ("colour converted to grey",)


def test_cmyk_becomes_grey() -> None:
    ink = np.zeros((*FILM.shape, 4), np.uint8)
    ink[..., 3] = 255 - FILM
    radiograph = load_radiograph(encode(Image.fromarray(ink, "CMYK"), "TIFF"))
    np.testing.assert_array_equal(radiograph.pixels, FILM)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_is_zero_tiff_is_turned_over(dtype: type) -> None:
    """Pillow turns 8 bits over by itself, 16 and 32 not."""
    negative: Array = (255 - FILM).astype(dtype) * (1 if dtype is np.uint8 else 257)
    data = bytearray(encode(negative, "TIFF"))
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data[at] = 0
    np.testing.assert_array_equal(load_radiograph(bytes(data)).pixels, FILM)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_undone(orientation: int, file_format: str) -> None:
    undo: list[Callable[[Array], Array]] = [
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[::-1],
        lambda a: a.T,
        lambda a: np.rot90(a, -1),
        lambda a: np.rot90(a, 2).T,
        lambda a: np.rot90(a),
    ]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 100} if file_format == "JPEG" else {}
    radiograph = load_radiograph(encode(FILM, file_format, exif=exif, **options))
    expected = undo[orientation - 1](FILM)
    assert radiograph.pixels.shape == expected.shape
    assert np.abs(radiograph.pixels - expected.astype(int)).max() <= (3 if file_format == "JPEG" else 0)
    assert radiograph.steps == (("rotated by EXIF orientation",) if orientation > 1 else ())


def test_of_a_phones_mpo_the_first_picture_is_read() -> None:
    second = Image.fromarray(255 - FILM)
    radiograph = load_radiograph(encode(FILM, "MPO", save_all=True, append_images=[second], quality=100))
    assert radiograph.source_format == "MPO"
    assert np.abs(radiograph.pixels - FILM.astype(int)).max() <= 3


# Sources


def test_path_bytes_stream_pillow_and_array_give_the_same(tmp_path: Path) -> None:
    data = encode(FILM, "PNG")
    path = tmp_path / "film.png"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as raw:
        sources: list[Any] = [
            path,
            str(path),
            data,
            io.BytesIO(data),
            raw,
            Image.open(path),
            Image.fromarray(FILM),
            FILM,
        ]
        films = [load_radiograph(source) for source in sources]
    for radiograph in films:
        np.testing.assert_array_equal(radiograph.pixels, FILM)
    assert [radiograph.source_format for radiograph in films] == [*["PNG"] * 6, "PIL", "array"]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (film(12), FILM_8_OF_12),
        (FILM.astype(">u2") * 257, FILM),
        (FILM / 255, FILM),
        (FILM.astype(np.float32), FILM),
        (np.stack([FILM] * 3, 2), FILM),
        (np.dstack([FILM, FILM, FILM, np.full_like(FILM, 255)]), FILM),
    ],
)
def test_arrays(array: Array, expected: Array) -> None:
    np.testing.assert_array_equal(load_radiograph(array).pixels, expected)


@pytest.mark.parametrize("shape", [(96,), (96, 80, 2), (1, 96, 80), (96, 80, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    refused(np.zeros(shape, np.int16), NotAnImage, "not_an_image", str(shape), "int16", "(H, W) uint8")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_arrays_with_values_that_are_no_numbers_are_refused(value: float) -> None:
    array = FILM / 255
    array[3, 4] = value
    refused(array, DamagedImage, "damaged_image", "not finite", "Replace")


def test_a_stream_is_read_no_further_than_one_byte_past_the_limit() -> None:
    asked: list[int] = []

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            asked.append(size)
            return b"\xff" * min(size, 7)

    refused(Endless(), TooLarge, "too_large", "100 bytes", "JPEG", max_bytes=100)
    assert sum(min(size, 7) for size in asked) == 101


def test_a_missing_path_is_an_ordinary_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_radiograph(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        load_radiograph(tmp_path)


def test_a_radiograph_cannot_be_written_to_nor_shares_memory() -> None:
    source = FILM.copy()
    radiograph = load_radiograph(source)
    with pytest.raises(ValueError, match="read-only"):
        radiograph.pixels[0, 0] = 1
    source[:] = 0
    np.testing.assert_array_equal(radiograph.pixels, FILM)
    assert (radiograph.width, radiograph.height) == (80, 96)
    assert radiograph.to_pil().mode == "L"
    np.testing.assert_array_equal(np.asarray(radiograph.to_pil()), FILM)


# Refusals


def test_what_is_no_picture() -> None:
    refused(b"", NotAnImage, "not_an_image", "empty", "Accepted are JPEG")
    refused(b"%PDF-1.7 " + bytes(500), NotAnImage, "not_an_image", "Accepted are JPEG", "PNG")
    refused(None, NotAnImage, "not_an_image", "NoneType", "Accepted are JPEG")
    refused(io.StringIO("text"), NotAnImage, "not_an_image", "StringIO", "binary")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_a_picture_cut_short_is_damaged(file_format: str) -> None:
    data = encode(FILM, file_format)
    refused(
        data[: len(data) // 2], DamagedImage, "damaged_image", file_format, "truncated or damaged", "Export it again"
    )
    refused(data[:14], DamagedImage, "damaged_image", file_format)


def test_a_lazy_pillow_image_cut_short_is_damaged() -> None:
    data = encode(FILM, "JPEG")
    refused(Image.open(io.BytesIO(data[: len(data) // 2])), DamagedImage, "damaged_image", "JPEG")


def test_too_many_bytes(tmp_path: Path) -> None:
    data = encode(FILM, "BMP")
    (tmp_path / "film.bmp").write_bytes(data)
    for source in (data, io.BytesIO(data), tmp_path / "film.bmp"):
        refused(source, TooLarge, "too_large", "more than the 1,000 bytes", "lower resolution", max_bytes=1000)
    assert load_radiograph(data, max_bytes=len(data)).width == 80


@pytest.mark.parametrize("source", [encode(FILM, "PNG"), saved(dicom(FILM)), FILM, Image.fromarray(FILM)])
def test_too_many_pixels(source: Any) -> None:
    refused(source, TooLarge, "too_large", "80 x 96", "at most 7,679", "lower resolution", max_pixels=7679)
    assert load_radiograph(source, max_pixels=7680).height == 96


@pytest.mark.parametrize(
    "bomb",
    [
        png(FILM[..., None], 0, (60000, 60000)),
        png(FILM[..., None], 0, (12000, 12000)),
        png(film(16)[..., None], 0, (12000, 12000)),
        tiff16_big_endian(film(16), (60000, 60000)),
        encode(FILM, "GIF")[:6] + struct.pack("<HH", 60000, 60000) + encode(FILM, "GIF")[10:],
        saved(dicom(FILM, Rows=60000, Columns=60000)),
        saved(dicom(FILM, Rows=60000, Columns=60000)).replace(b"DX", b"CR"),
    ],
)
def test_a_bomb_is_refused_by_its_header(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda _self: pytest.fail("decoded"))
    monkeypatch.setattr(sandbox, "pixel_array", lambda *_args, **_options: pytest.fail("decoded"))
    refused(bomb, TooLarge, "too_large", "Export it at a lower resolution")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_a_side_under_64_is_too_small(file_format: str) -> None:
    refused(encode(FILM[:, :63], file_format), TooSmall, "too_small", "63 x 96", "at least 64", "original")
    assert load_radiograph(encode(FILM[:64, :64], file_format)).width == 64


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_pictures_in_one_file(file_format: str) -> None:
    data = encode(FILM, file_format, save_all=True, append_images=[Image.fromarray(255 - FILM)])
    refused(data, MultiFrame, "multi_frame", file_format, "several pictures", "one film")


@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_grey_level_is_blank(level: int) -> None:
    flat = np.full_like(FILM, level)
    flat[:3, :3] = 255 - level // 2  # a corner mark does not make it a film
    refused(encode(flat, "PNG"), Blank, "blank", f"grey level {level}", "Check the export")


# DICOM


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_lossless_dicom(bits: int, syntax: uid.UID) -> None:
    dataset = dicom(film(bits), bits)
    if syntax == uid.RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    radiograph = load_radiograph(saved(dataset))
    np.testing.assert_array_equal(radiograph.pixels, np.rint(film(bits) * (255 / (2**bits - 1))))
    assert radiograph.source_format == "DICOM"


def test_big_endian_dicom(tmp_path: Path) -> None:
    data = by_gdcm(film(12), 12, gdcm.TransferSyntax.ExplicitVRBigEndian, tmp_path)
    np.testing.assert_array_equal(load_radiograph(data).pixels, FILM_8_OF_12)


@pytest.mark.parametrize(("quality", "tolerance"), [(0, 0), (4, 3)])
@pytest.mark.parametrize("bits", [8, 16])
def test_jpeg_2000_dicom(bits: int, quality: int, tolerance: int) -> None:
    options = {"quality_mode": "rates", "quality_layers": [quality], "irreversible": True} if quality else {}
    stream = encode(film(bits), "JPEG2000", no_jp2=True, **options)
    syntax = uid.JPEG2000 if quality else uid.JPEG2000Lossless
    pixels = load_radiograph(encapsulated(stream, syntax, film(bits))).pixels
    assert np.abs(pixels - np.rint(film(bits) * (255 / (2**bits - 1)))).max() <= tolerance


def test_jpeg_baseline_dicom_is_what_pillow_decodes() -> None:
    stream = encode(FILM, "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(stream)))
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        np.testing.assert_array_equal(load_radiograph(encapsulated(stream, syntax, FILM)).pixels, expected)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEGLSNearLossless])
def test_jpeg_ls_dicom(syntax: uid.UID) -> None:
    near = {"jls_error": 3} if syntax == uid.JPEGLSNearLossless else {}
    data = compressed(film(12), syntax, 12, encoding_plugin="pyjpegls", **near)
    assert np.abs(load_radiograph(data).pixels - FILM_8_OF_12.astype(int)).max() <= len(near)


@pytest.mark.parametrize(
    ("name", "bits", "tolerance"),
    [
        ("JPEGLosslessProcess14", 8, 0),
        ("JPEGLosslessProcess14_1", 16, 0),
        ("JPEGExtendedProcess2_4", 12, 1),
    ],
)
def test_jpeg_that_only_gdcm_reads(name: str, bits: int, tolerance: int, tmp_path: Path) -> None:
    data = by_gdcm(film(bits), bits, getattr(gdcm.TransferSyntax, name), tmp_path)
    assert name.split("Process")[0][4:] in pydicom.dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID.name
    difference = load_radiograph(data).pixels - np.rint(film(bits) * (255 / (2**bits - 1)))
    assert np.abs(difference).max() <= tolerance


def test_a_codestream_that_aborts_gdcm_is_damaged_and_leaves_the_process_alive(tmp_path: Path) -> None:
    """GDCM ends in std::terminate on this, which took the whole server down before it ran apart."""
    data = bytearray(by_gdcm(FILM, 8, gdcm.TransferSyntax.JPEGLosslessProcess14, tmp_path))
    data[data.rindex(b"\xff\xd8") + 15] = 0
    refused(bytes(data), DamagedImage, "damaged_image", "DICOM", "Export it again")


def test_a_codestream_larger_than_its_header_is_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "pixel_array", lambda *_args, **_options: pytest.fail("decoded"))
    large = film(8, 192, 160)
    jls = pydicom.dcmread(io.BytesIO(compressed(large, uid.JPEGLSLossless, encoding_plugin="pyjpegls")))
    for data in (
        encapsulated(encode(large, "JPEG"), uid.JPEGBaseline8Bit, FILM),
        encapsulated(encode(np.stack([FILM] * 3, 2), "JPEG"), uid.JPEGBaseline8Bit, FILM),
        encapsulated(encode(large, "JPEG2000", no_jp2=True), uid.JPEG2000Lossless, FILM),
        encapsulated(next(pydicom.encaps.generate_frames(jls.PixelData, number_of_frames=1)), uid.JPEGLSLossless, FILM),
    ):
        refused(data, DamagedImage, "damaged_image", "differ in size", "Export it again")


def test_pydicoms_own_12_bit_jpeg() -> None:
    """A bone scan from another encoder, passed off as a radiograph: it has to look like a body on black."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "JPGExtended.dcm"
    dataset = pydicom.dcmread(path)
    dataset.Modality = "OT"
    for keyword in ("WindowCenter", "WindowWidth"):
        dataset.pop(keyword, None)
    pixels = load_radiograph(saved(dataset)).pixels
    assert pixels.shape == (1024, 256)
    assert np.median(pixels) < 10
    assert pixels.max() > 60


def test_monochrome1_is_the_inverse_of_monochrome2() -> None:
    for bits, tags in ((8, {}), (12, {}), (12, {"WindowCenter": 1800, "WindowWidth": 2500})):
        bright = load_radiograph(saved(dicom(film(bits), bits, **tags)))
        dark = load_radiograph(saved(dicom(film(bits), bits, PhotometricInterpretation="MONOCHROME1", **tags)))
        np.testing.assert_array_equal(dark.pixels, 255 - bright.pixels)
        assert dark.steps == (*bright.steps, "inverted (MONOCHROME1)")


def linear(x: Array, centre: float, width: float) -> Array:
    """PS3.3 C.11.2.1.2.1, onto 0..255."""
    inside = ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255
    low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return np.where(x <= low, 0, np.where(x > high, 255, inside))


def linear_exact(x: Array, centre: float, width: float) -> Array:
    """PS3.3 C.11.2.1.3.2, onto 0..255."""
    inside = ((x - centre) / width + 0.5) * 255
    return np.where(x <= centre - width / 2, 0, np.where(x > centre + width / 2, 255, inside))


def sigmoid(x: Array, centre: float, width: float) -> Array:
    """PS3.3 C.11.2.1.3.1, onto 0..255."""
    return 255 / (1 + np.exp(-4 * (x - centre) / width))


@pytest.mark.parametrize("function", [linear, linear_exact, sigmoid])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1024), (0.5, 300)])
def test_window(function: Callable[..., Array], signed: bool, slope: float, intercept: float) -> None:
    stored = film(12).astype(np.int16) - 2048 if signed else film(12)
    values = stored * float(slope) + intercept
    centre, width = float(np.round(values.mean())), float(np.round(np.ptp(values) / 2))
    tags = {"WindowCenter": [centre, 5], "WindowWidth": [width, 6], "VOILUTFunction": function.__name__.upper()}
    radiograph = load_radiograph(saved(dicom(stored, 12, RescaleSlope=slope, RescaleIntercept=intercept, **tags)))
    np.testing.assert_array_equal(radiograph.pixels, np.rint(function(values, centre, width)))
    assert radiograph.steps == ("VOI window applied",)


@pytest.mark.parametrize("width", [0, -5, "?", "nan"])
def test_a_window_that_makes_no_sense_is_left_out(width: Any) -> None:
    data = saved(dicom(film(12), 12, WindowCenter=2000, WindowWidth=77777))
    radiograph = load_radiograph(data.replace(b"77777", f"{width:<5}".encode()))
    np.testing.assert_array_equal(radiograph.pixels, FILM_8_OF_12)
    assert radiograph.steps == ("12 bit scaled to 8 bit", "unusable VOI window ignored")


@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_voi_lut(depth: int, syntax: uid.UID) -> None:
    """pydicom 3.0 wraps around in tables of 8 bits with more than 256 entries."""
    table = np.rint((np.arange(4096) / 4095) ** 2 * (2**depth - 1)).astype(np.uint16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, depth])
    item.add_new("LUTData", "OW", table.tobytes())
    dataset = dicom(film(12), 12, VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
    dataset.file_meta.TransferSyntaxUID = syntax
    radiograph = load_radiograph(saved(dataset))
    np.testing.assert_array_equal(radiograph.pixels, np.rint(table[film(12)] * (255 / (2**depth - 1))))
    assert radiograph.steps[0] == "VOI LUT applied"


def test_modality_lut_comes_before_the_window() -> None:
    table = (4095 - np.arange(4096)).astype(np.uint16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "US", table.tolist())
    item.ModalityLUTType = "US"
    data = saved(dicom(film(12), 12, ModalityLUTSequence=[item], WindowCenter=1000, WindowWidth=1500))
    np.testing.assert_array_equal(load_radiograph(data).pixels, np.rint(linear(table[film(12)], 1000, 1500)))


def test_signed_and_rescaled_without_a_window_are_stretched() -> None:
    signed = film(12).astype(np.int16) - 2048
    np.testing.assert_array_equal(load_radiograph(saved(dicom(signed, 12))).pixels, FILM_8_OF_12)
    shifted = load_radiograph(saved(dicom(film(12), 12, RescaleSlope=1, RescaleIntercept=-500)))
    np.testing.assert_array_equal(shifted.pixels, FILM_8_OF_12)
    same = load_radiograph(saved(dicom(FILM // 3, RescaleSlope=1, RescaleIntercept=0)))
    np.testing.assert_array_equal(same.pixels, FILM // 3)


def test_overlay_bits_above_the_stored_ones_are_masked() -> None:
    drawn = film(12) | np.where(np.arange(80) % 7 == 0, 0x8000, 0).astype(np.uint16)
    np.testing.assert_array_equal(load_radiograph(saved(dicom(drawn, 12))).pixels, FILM_8_OF_12)


def test_colour_dicom_becomes_grey() -> None:
    rgb = np.stack([FILM, FILM[::-1], FILM[:, ::-1]], 2)
    expected = np.asarray(Image.fromarray(rgb).convert("L"))
    np.testing.assert_array_equal(load_radiograph(saved(dicom(rgb))).pixels, expected)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    radiograph = load_radiograph(saved(dicom(ybr, PhotometricInterpretation="YBR_FULL")))
    assert np.abs(radiograph.pixels - expected.astype(int)).max() <= 2
    jpeg = encapsulated(
        encode(np.stack([FILM] * 3, 2), "JPEG", quality=95),
        uid.JPEGBaseline8Bit,
        rgb,
        PhotometricInterpretation="YBR_FULL_422",
    )
    assert np.abs(load_radiograph(jpeg).pixels - FILM.astype(int)).mean() < 3
    wide = np.stack([film(16)] * 3, 2)
    np.testing.assert_array_equal(load_radiograph(saved(dicom(wide))).pixels, np.rint(film(16) / 257))


def test_dicom_without_preamble_or_transfer_syntax() -> None:
    whole = saved(dicom(film(12), 12))
    without_meta = whole[132 + 12 + struct.unpack_from("<I", whole, 140)[0] :]
    for data in (whole[132:], without_meta):
        radiograph = load_radiograph(data)
        np.testing.assert_array_equal(radiograph.pixels, FILM_8_OF_12)
        assert radiograph.source_format == "DICOM"


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "OT"])
def test_radiograph_modalities_are_accepted(modality: str) -> None:
    assert load_radiograph(saved(dicom(FILM, Modality=modality))).source_format == "DICOM"


@pytest.mark.parametrize(
    ("modality", "said"), [("CT", "has CT"), ("MR", "has MR"), ("", "no modality"), ("ANNA", "an unknown modality")]
)
def test_other_modalities_are_refused(modality: str, said: str) -> None:
    error = refused(saved(dicom(FILM, Modality=modality)), NotARadiograph, "not_a_radiograph", said, "CR, DX, RG, OT")
    assert "ANNA" not in error.message


def test_dicoms_that_are_no_single_film() -> None:
    report = dicom(FILM)
    del report.PixelData
    refused(saved(report), NotARadiograph, "not_a_radiograph", "no pixel data", "Upload the film")
    two = saved(dicom(np.stack([FILM, FILM])[0], NumberOfFrames=2))
    refused(two, MultiFrame, "multi_frame", "several frames", "single frame")
    refused(saved(dicom(FILM[:60])), TooSmall, "too_small", "80 x 60")
    whole = saved(dicom(FILM))
    refused(whole[:-1000], DamagedImage, "damaged_image", "DICOM", "truncated")


def test_unsupported_encodings_are_refused() -> None:
    future = encapsulated(b"1234", uid.HTJ2KLossless, FILM)
    unknown = future.replace(uid.HTJ2KLossless.encode(), b"1.2.840.10008.1.2.4.999")
    for data in (future, unknown, encapsulated(b"1234", uid.MPEG2MPML, FILM)):
        error = refused(data, UnsupportedDicom, "unsupported_dicom", "compressed", "PNG")
        assert "1.2.840" not in error.message
    palette = saved(dicom(FILM, PhotometricInterpretation="PALETTE COLOR"))
    refused(palette, UnsupportedDicom, "unsupported_dicom", "palette", "PNG")


def test_deflated_dicom_is_refused_before_it_is_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dicom(FILM)
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    data = saved(dataset)
    monkeypatch.setattr(zlib, "decompress", lambda *_args: pytest.fail("inflated"))
    refused(data, UnsupportedDicom, "unsupported_dicom", "deflated", "uncompressed DICOM")


# Privacy


@pytest.mark.parametrize(
    "spoilt", ["", "Rows", "PixelData", "WindowWidth", "Modality", "TransferSyntaxUID", "BitsStored"]
)
def test_nothing_of_the_patient_gets_out(
    spoilt: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dicom(film(12), 12, WindowCenter=2000, WindowWidth=3000, StudyDate=SECRET, PatientAge=SECRET)
        dataset.add_new("RescaleSlope", "LO", SECRET)
        if spoilt == "TransferSyntaxUID":
            dataset.file_meta.TransferSyntaxUID = uid.UID(SECRET)
        elif spoilt == "PixelData":
            dataset.PixelData = SECRET.encode()
        elif spoilt:
            dataset.add_new(spoilt, "LO", SECRET)
        path = tmp_path / f"{SECRET}.dcm"
        dataset.save_as(path, implicit_vr=False, little_endian=True)
    data = b"\0" * 128 + b"DICM" + path.read_bytes().split(b"DICM", 1)[-1]
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        seen = [str(load_or_error(source)) for source in (data, path)]
    assert not warned
    told = " ".join([*seen, caplog.text, *capfd.readouterr()])
    for part in (*SECRET.split("^"), str(tmp_path)):
        assert part not in told


def test_what_decoders_log_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    """pydicom logs the words of a failed decoder as an error; Pillow logs each TIFF tag for debugging."""
    caplog.set_level(logging.DEBUG)
    stream = encode(FILM, "JPEG")
    broken = stream[: stream.index(b"\xff\xc0") + 40]
    refused(encapsulated(broken, uid.JPEGBaseline8Bit, FILM), DamagedImage, "damaged_image", "DICOM")
    assert caplog.records == []
    tiff = encode(FILM, "TIFF", artist=SECRET)
    caplog.clear()
    load_radiograph(tiff)
    assert SECRET not in caplog.text


def load_or_error(source: Any) -> str:
    try:
        return repr(load_radiograph(source))
    except RadiographError as error:
        return f"{error!r} {error.message} {error.args} {error.__context__} {error.__cause__}"


def test_settings_of_the_process_are_as_before() -> None:
    def state() -> tuple[Any, ...]:
        mode = pydicom.config.settings._reading_validation_mode
        return list(warnings.filters), logging.getLogger("pydicom").level, logging.getLogger("PIL").level, mode

    before = state()
    for source in (saved(dicom(FILM)), saved(dicom(FILM, Modality="CT")), encode(FILM, "PNG")[:100]):
        load_or_error(source)
    assert state() == before


def test_threads_do_not_disturb_each_other() -> None:
    sources = [encode(FILM, "PNG"), saved(dicom(film(12), 12)), encode(FILM, "TIFF"), compressed(FILM, uid.RLELossless)]
    expected = [FILM, FILM_8_OF_12, FILM, FILM]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for i, radiograph in enumerate(pool.map(load_radiograph, sources * 25)):
            np.testing.assert_array_equal(radiograph.pixels, expected[i % 4])
    assert list(warnings.filters) == filters


# Damage of any kind

INTACT = {
    "jpeg": encode(FILM, "JPEG", exif=Image.Exif()),
    "progressive": encode(FILM, "JPEG", progressive=True),
    "png": encode(FILM, "PNG"),
    "png16": png(np.stack([film(16)] * 3, 2), 2),
    "tiff": encode(FILM, "TIFF"),
    "tiff-lzw": encode(film(16), "TIFF", compression="tiff_lzw"),
    "bmp": encode(FILM, "BMP"),
    "webp": encode(np.stack([FILM] * 3, 2), "WEBP"),
    "gif": encode(FILM, "GIF"),
    "dicom": saved(dicom(film(12), 12, WindowCenter=2000, WindowWidth=3000)),
    "dicom-rle": compressed(FILM, uid.RLELossless),
    "dicom-jpeg": encapsulated(encode(FILM, "JPEG"), uid.JPEGBaseline8Bit, FILM),
    "dicom-j2k": encapsulated(encode(FILM, "JPEG2000", no_jp2=True), uid.JPEG2000Lossless, FILM),
}


def check_damaged(data: bytes, cut: float, flips: list[tuple[float, int]]) -> None:
    """Cut and overwritten at fractions of its length, it is a whole film or a typed error, and nothing else."""
    damaged = bytearray(data[: max(1, round(cut * len(data)))])
    for place, value in flips:
        damaged[int(place * len(damaged))] = value
    try:
        radiograph = load_radiograph(bytes(damaged))
    except RadiographError:
        return
    assert isinstance(radiograph, Radiograph)
    assert radiograph.pixels.dtype == np.uint8
    assert min(radiograph.pixels.shape) >= 64


# Half of the flips go to the header, which decides most.
places = st.one_of(st.floats(0, 0.999), st.floats(0, 0.05))
damage = st.tuples(
    st.one_of(st.just(1.0), st.floats(0, 1)), st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)
)


@pytest.mark.parametrize("name", INTACT)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damage=damage)
def test_damage_ends_in_a_film_or_a_typed_error(name: str, damage: tuple[float, list[tuple[float, int]]]) -> None:
    check_damaged(INTACT[name], *damage)


JPEG_LS = compressed(FILM, uid.JPEGLSLossless, encoding_plugin="pyjpegls")


@settings(max_examples=3, deadline=None)
@given(place=st.floats(0.1, 0.9), value=st.integers(0, 255))
def test_damage_to_what_gdcm_decodes(place: float, value: int) -> None:
    check_damaged(JPEG_LS, 1.0, [(place, value)])
