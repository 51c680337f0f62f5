"""Pictures, sources and refusals of `load_radiograph`, against their known pixels."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumocam.image import (
    Blank,
    DamagedImage,
    MultiFrame,
    NotAnImage,
    TooLarge,
    TooSmall,
    load_radiograph,
    stored,
)
from tests.images import (
    GREYS,
    GREYS_8_OF_12,
    Array,
    dicom,
    encode,
    greys,
    png,
    refused,
    saved,
    tiff16_big_endian,
)

# Pictures


@pytest.mark.parametrize(
    ("data", "source_format"),
    [
        (encode(GREYS, "PNG"), "PNG"),
        (encode(GREYS, "TIFF"), "TIFF"),
        (encode(GREYS, "TIFF", compression="tiff_lzw"), "TIFF"),
        (encode(GREYS, "BMP"), "BMP"),
        (encode(np.stack([GREYS] * 3, 2), "WEBP", lossless=True), "WEBP"),
        (encode(GREYS, "GIF"), "GIF"),
        (encode(Image.fromarray(GREYS).convert("P"), "PNG"), "PNG"),
        (encode(Image.fromarray(GREYS).convert("LA"), "PNG"), "PNG"),
        (encode(Image.fromarray(GREYS).convert("RGBA"), "PNG"), "PNG"),
        (png(GREYS[..., None].astype(np.uint16) * 257, 0), "PNG"),
        (png(GREYS[..., None].astype(np.uint16), 0), "PNG"),
        (encode(GREYS.astype(np.uint16) * 257, "TIFF"), "TIFF"),
        (tiff16_big_endian(GREYS.astype(np.uint16) * 257), "TIFF"),
        (encode(GREYS.astype(np.int32) * 257, "TIFF"), "TIFF"),
        (encode((GREYS / 255).astype(np.float32), "TIFF"), "TIFF"),
        (encode((GREYS * 1000.0 - 3e5).astype(np.float32), "TIFF"), "TIFF"),
    ],
)
def test_a_lossless_picture_keeps_every_pixel(data: bytes, source_format: str) -> None:
    radiograph = load_radiograph(data)
    np.testing.assert_array_equal(radiograph.pixels, GREYS)
    assert radiograph.source_format == source_format


@pytest.mark.parametrize(("file_format", "tolerance"), [("JPEG", 3), ("WEBP", 4)])
def test_a_lossy_picture_stays_close(file_format: str, tolerance: int) -> None:
    radiograph = load_radiograph(encode(np.stack([GREYS] * 3, 2), file_format, quality=95))
    assert radiograph.source_format == file_format
    assert np.abs(radiograph.pixels - GREYS.astype(float)).mean() < tolerance


def test_an_8_bit_grey_jpeg_is_passed_through_without_any_step() -> None:
    data = encode(GREYS, "JPEG", quality=92)
    radiograph = load_radiograph(data)
    np.testing.assert_array_equal(radiograph.pixels, np.asarray(Image.open(io.BytesIO(data))))
    assert radiograph.steps == ()


def test_one_bit_becomes_black_and_white() -> None:
    pixels = load_radiograph(encode(Image.fromarray(GREYS > 128), "PNG")).pixels
    np.testing.assert_array_equal(pixels, np.where(GREYS > 128, 255, 0))


def test_12_bits_in_16_use_the_full_scale_of_12() -> None:
    radiograph = load_radiograph(png(greys(12)[..., None], 0))
    np.testing.assert_array_equal(radiograph.pixels, GREYS_8_OF_12)
    assert radiograph.steps == ("12 bit scaled to 8 bit",)


def test_a_narrow_range_in_16_bits_is_stretched() -> None:
    narrow = 20000 + greys(12)
    radiograph = load_radiograph(encode(narrow, "TIFF"))
    np.testing.assert_array_equal(radiograph.pixels, GREYS_8_OF_12)
    assert radiograph.steps == ("stretched from 20000..24095 to 8 bit",)


@pytest.mark.parametrize(("channels", "colour_type"), [(3, 2), (4, 6), (2, 4)])
def test_16_bit_colour_and_alpha_png_keep_their_low_byte(channels: int, colour_type: int) -> None:
    """Pillow reads only the upper byte of these, which leaves a 12-bit image 16 grey levels."""
    samples = np.repeat(greys(12)[..., None], channels, 2)
    if channels in (2, 4):
        samples[..., -1] = 65535
    radiograph = load_radiograph(png(samples, colour_type))
    np.testing.assert_array_equal(radiograph.pixels, GREYS_8_OF_12)


def test_16_bit_alpha_darkens_towards_black() -> None:
    alpha = np.full_like(greys(16), 32768)
    radiograph = load_radiograph(png(np.stack([greys(16), alpha], 2), 4))
    expected = np.rint(greys(16) * (32768 / 65535)) * 255 / 65535
    assert np.abs(radiograph.pixels - expected).max() <= 0.51
    assert "transparency laid on black" in radiograph.steps


@pytest.mark.parametrize("packed", [1, 5])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_tiff_keeps_its_low_byte(packed: int, channels: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV, which grad-cam brings along, writes the 16-bit colour TIFF")
    samples = np.repeat(greys(12)[..., None], channels, 2)
    samples[..., 3:] = 65535
    data = cv2.imencode(".tiff", samples, [cv2.IMWRITE_TIFF_COMPRESSION, packed])[1].tobytes()
    np.testing.assert_array_equal(load_radiograph(data).pixels, GREYS_8_OF_12)


def test_transparency_is_laid_on_black() -> None:
    alpha = np.where(np.arange(80) < 40, 255, 0).astype(np.uint8) * np.ones_like(GREYS)
    radiograph = load_radiograph(encode(Image.fromarray(np.stack([GREYS, alpha], 2)), "PNG"))
    np.testing.assert_array_equal(radiograph.pixels, np.where(alpha > 0, GREYS, 0))
    assert radiograph.steps == ("transparency laid on black",)


def test_colour_becomes_rec_601_grey() -> None:
    rgb = np.stack([GREYS, GREYS[::-1], GREYS[:, ::-1]], 2)
    radiograph = load_radiograph(encode(rgb, "PNG"))
    assert np.abs(radiograph.pixels - rgb @ (0.299, 0.587, 0.114)).max() <= 0.51
    assert radiograph.steps == ("colour converted to grey",)


def test_cmyk_becomes_grey() -> None:
    ink = np.zeros((*GREYS.shape, 4), np.uint8)
    ink[..., 3] = 255 - GREYS
    radiograph = load_radiograph(encode(Image.fromarray(ink, "CMYK"), "TIFF"))
    np.testing.assert_array_equal(radiograph.pixels, GREYS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_is_zero_tiff_is_turned_over(dtype: type) -> None:
    """Pillow turns 8 bits over by itself, 16 and 32 not."""
    negative: Array = (255 - GREYS).astype(dtype) * (1 if dtype is np.uint8 else 257)
    data = bytearray(encode(negative, "TIFF"))
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    data[at] = 0
    np.testing.assert_array_equal(load_radiograph(bytes(data)).pixels, GREYS)


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
    radiograph = load_radiograph(encode(GREYS, file_format, exif=exif, **options))
    expected = undo[orientation - 1](GREYS)
    assert radiograph.pixels.shape == expected.shape
    assert np.abs(radiograph.pixels - expected.astype(int)).max() <= (3 if file_format == "JPEG" else 0)
    assert radiograph.steps == (("rotated by EXIF orientation",) if orientation > 1 else ())


def test_of_a_phones_mpo_the_first_picture_is_read() -> None:
    second = Image.fromarray(255 - GREYS)
    radiograph = load_radiograph(encode(GREYS, "MPO", save_all=True, append_images=[second], quality=100))
    assert radiograph.source_format == "MPO"
    assert np.abs(radiograph.pixels - GREYS.astype(int)).max() <= 3


# Sources


def test_path_bytes_stream_pillow_and_array_give_the_same(tmp_path: Path) -> None:
    data = encode(GREYS, "PNG")
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as raw:
        sources: list[Any] = [
            path,
            str(path),
            data,
            io.BytesIO(data),
            raw,
            Image.open(path),
            Image.fromarray(GREYS),
            GREYS,
        ]
        radiographs = [load_radiograph(source) for source in sources]
    for radiograph in radiographs:
        np.testing.assert_array_equal(radiograph.pixels, GREYS)
    assert [radiograph.source_format for radiograph in radiographs] == [*["PNG"] * 6, "PIL", "array"]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (greys(12), GREYS_8_OF_12),
        (GREYS.astype(">u2") * 257, GREYS),
        (GREYS / 255, GREYS),
        (GREYS.astype(np.float32), GREYS),
        (np.stack([GREYS] * 3, 2), GREYS),
        (np.dstack([GREYS, GREYS, GREYS, np.full_like(GREYS, 255)]), GREYS),
    ],
)
def test_arrays(array: Array, expected: Array) -> None:
    np.testing.assert_array_equal(load_radiograph(array).pixels, expected)


@pytest.mark.parametrize("shape", [(96,), (96, 80, 2), (1, 96, 80), (96, 80, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    refused(np.zeros(shape, np.int16), NotAnImage, "not_an_image", str(shape), "int16", "(H, W) uint8")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_become_background(value: float) -> None:
    array = GREYS / 255
    array[3:7, 4] = value
    expected = GREYS.copy()
    expected[3:7, 4] = 0
    radiograph = load_radiograph(array)
    np.testing.assert_array_equal(radiograph.pixels, expected)
    assert "not finite" in " ".join(radiograph.steps)
    array[20:] = value
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
    source = GREYS.copy()
    radiograph = load_radiograph(source)
    with pytest.raises(ValueError, match="read-only"):
        radiograph.pixels[0, 0] = 1
    source[:] = 0
    np.testing.assert_array_equal(radiograph.pixels, GREYS)
    assert (radiograph.width, radiograph.height) == (80, 96)
    assert radiograph.to_pil().mode == "L"
    np.testing.assert_array_equal(np.asarray(radiograph.to_pil()), GREYS)


# Refusals


def test_what_is_no_picture() -> None:
    refused(b"", NotAnImage, "not_an_image", "empty", "Accepted are JPEG")
    refused(b"%PDF-1.7 " + bytes(500), NotAnImage, "not_an_image", "Accepted are JPEG", "PNG")
    refused(None, NotAnImage, "not_an_image", "NoneType", "Accepted are JPEG")
    refused(io.StringIO("text"), NotAnImage, "not_an_image", "StringIO", "binary")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "BMP", "WEBP"])
def test_a_picture_cut_short_is_damaged(file_format: str) -> None:
    data = encode(GREYS, file_format)
    refused(
        data[: len(data) // 2], DamagedImage, "damaged_image", file_format, "truncated or damaged", "Export it again"
    )
    refused(data[:14], DamagedImage, "damaged_image", file_format)


def test_a_lazy_pillow_image_cut_short_is_damaged() -> None:
    data = encode(GREYS, "JPEG")
    refused(Image.open(io.BytesIO(data[: len(data) // 2])), DamagedImage, "damaged_image", "JPEG")


def test_too_many_bytes(tmp_path: Path) -> None:
    data = encode(GREYS, "BMP")
    (tmp_path / "image.bmp").write_bytes(data)
    for source in (data, io.BytesIO(data), tmp_path / "image.bmp"):
        refused(source, TooLarge, "too_large", "more than the 1,000 bytes", "lower resolution", max_bytes=1000)
    assert load_radiograph(data, max_bytes=len(data)).width == 80


@pytest.mark.parametrize("source", [encode(GREYS, "PNG"), saved(dicom(GREYS)), GREYS, Image.fromarray(GREYS)])
def test_too_many_pixels(source: Any) -> None:
    refused(source, TooLarge, "too_large", "80 x 96", "at most 7,679", "lower resolution", max_pixels=7679)
    assert load_radiograph(source, max_pixels=7680).height == 96


@pytest.mark.parametrize(
    "bomb",
    [
        png(GREYS[..., None], 0, (60000, 60000)),
        png(GREYS[..., None], 0, (12000, 12000)),
        png(greys(16)[..., None], 0, (12000, 12000)),
        tiff16_big_endian(greys(16), (60000, 60000)),
        encode(GREYS, "GIF")[:6] + struct.pack("<HH", 60000, 60000) + encode(GREYS, "GIF")[10:],
        saved(dicom(GREYS, Rows=60000, Columns=60000)),
        saved(dicom(GREYS, Rows=60000, Columns=60000)).replace(b"DX", b"CR"),
    ],
)
def test_a_bomb_is_refused_by_its_header(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda _self: pytest.fail("decoded"))
    monkeypatch.setattr(stored, "pixel_array", lambda *_args, **_options: pytest.fail("decoded"))
    refused(bomb, TooLarge, "too_large", "Export it at a lower resolution")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_a_side_under_64_is_too_small(file_format: str) -> None:
    refused(encode(GREYS[:, :63], file_format), TooSmall, "too_small", "63 x 96", "at least 64", "original")
    assert load_radiograph(encode(GREYS[:64, :64], file_format)).width == 64


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_several_pictures_in_one_file(file_format: str) -> None:
    data = encode(GREYS, file_format, save_all=True, append_images=[Image.fromarray(255 - GREYS)])
    refused(data, MultiFrame, "multi_frame", file_format, "several pictures", "one image")


@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_grey_level_is_blank(level: int) -> None:
    flat = np.full_like(GREYS, level)
    flat[:3, :3] = 255 - level // 2  # a corner mark does not make it an image
    refused(encode(flat, "PNG"), Blank, "blank", f"grey level {level}", "Check the export")
