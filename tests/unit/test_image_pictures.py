"""Orientation, pages and the formats that are decoded in a subprocess, against their known pixels."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumocam.image import DamagedImage, MultiFrame, NotAnImage, TooLarge, TooSmall, load_radiograph
from tests.images import GREYS, GREYS_8_OF_12, Array, chunk, dicom, encode, greys, png, refused, saved


def profile_chunk(name: bytes, exif: bytes, kind: bytes) -> bytes:
    """ImageMagick's text of an EXIF block: its name, its length and hexadecimal lines of 36 bytes."""
    lines = [exif.hex().encode()[i : i + 72] for i in range(0, 2 * len(exif), 72)]
    text = b"\n" + name + b"\n" + b"%8d" % len(exif) + b"\n" + b"\n".join(lines) + b"\n"
    keyword = b"Raw profile type " + name + b"\0"
    if kind == b"tEXt":
        return chunk(kind, keyword + text)
    return chunk(kind, keyword + (b"\0" if kind == b"zTXt" else b"\1\0\0\0") + zlib.compress(text))


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
@pytest.mark.parametrize("name", [b"exif", b"APP1"])
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("samples", [GREYS[..., None], greys(16)[..., None], np.stack([greys(16)] * 3, 2)])
def test_imagemagicks_raw_exif_turns_a_png(kind: bytes, name: bytes, behind: bool, samples: Array) -> None:
    data = png(samples, 2 if samples.shape[2] == 3 else 0)
    at = len(data) - 12 if behind else 33
    expected = np.rot90(load_radiograph(data).pixels, -1)
    turned = load_radiograph(data[:at] + profile_chunk(name, oriented(6), kind) + data[at:])
    np.testing.assert_array_equal(turned.pixels, expected)
    assert turned.steps[-1] == "rotated by EXIF orientation"


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"no exif at all", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_a_raw_profile_that_is_no_exif_turns_nothing(exif: bytes) -> None:
    data = png(GREYS[..., None], 0)
    with_profile = data[:33] + profile_chunk(b"exif", exif, b"tEXt") + data[33:]
    np.testing.assert_array_equal(load_radiograph(with_profile).pixels, GREYS)


def tiff(*images: tuple[Array, int], old: bool = False) -> bytes:
    """Pages of 8 or 16 bits, each with its NewSubfileType, or with the older SubfileType."""
    data = b"II*\0" + bytes(4)
    link = 4
    for pixels, kind in images:
        start = len(data)
        data += pixels.tobytes()
        directory = len(data) + len(data) % 2
        height, width = pixels.shape
        tags = [(256, width), (257, height), (258, 8 * pixels.itemsize), (259, 1), (262, 1), (273, start), (277, 1)]
        tags += [(278, height), (279, pixels.nbytes)]
        tags = [(255, 2 if kind & 1 else 1) if old else (254, kind), *tags]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        data = data.ljust(directory, b"\0") + struct.pack("<H", len(tags)) + entries + bytes(4)
        data = data[:link] + struct.pack("<I", directory) + data[link + 4 :]
        link = len(data) - 4
    return data


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("pixels", [GREYS, greys(16)])
def test_a_tiff_with_thumbnails_is_its_main_page(pixels: Array, old: bool) -> None:
    small = pixels[::4, ::4].copy()
    expected = load_radiograph(tiff((pixels, 0))).pixels
    several = (((pixels, 0), (small, 1)), ((small, 1), (pixels, 0)), ((small, 1), (pixels, 0), (small, 1)))
    for order in several:
        radiograph = load_radiograph(tiff(*order, old=old))
        np.testing.assert_array_equal(radiograph.pixels, expected)
        assert "thumbnail" in radiograph.steps[0]


def test_a_tiff_of_several_main_pages_is_refused() -> None:
    for data in (tiff((GREYS, 0), (GREYS, 0)), tiff((GREYS, 2), (GREYS, 2), (GREYS, 1)), tiff(*[(GREYS, 1)] * 30)):
        refused(data, MultiFrame, "multi_frame", "TIFF")


def colour(pixels: Array) -> Image.Image:
    return Image.fromarray(np.stack([pixels] * 3, 2))


def heif(picture: Image.Image, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC is read with the package pillow-heif only")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("no_jp2", [False, True])
def test_jpeg_2000(no_jp2: bool) -> None:
    for pixels, expected in ((GREYS, GREYS), (greys(16), np.rint(greys(16) / 257)), (greys(12), GREYS_8_OF_12)):
        radiograph = load_radiograph(encode(pixels, "JPEG2000", no_jp2=no_jp2))
        np.testing.assert_array_equal(radiograph.pixels, expected)
        assert radiograph.source_format == "JPEG2000"
    rgb = load_radiograph(encode(colour(GREYS), "JPEG2000", no_jp2=no_jp2))
    np.testing.assert_array_equal(rgb.pixels, GREYS)
    assert rgb.steps == ("colour converted to grey",)


def test_avif() -> None:
    radiograph = load_radiograph(encode(colour(GREYS), "AVIF", quality=95))
    assert np.abs(radiograph.pixels - GREYS.astype(int)).mean() < 2
    assert radiograph.source_format == "AVIF"
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = load_radiograph(encode(colour(GREYS), "AVIF", quality=95, exif=exif))
    assert turned.pixels.shape == GREYS.T.shape
    assert np.abs(turned.pixels - np.rot90(GREYS, -1).astype(int)).mean() < 2
    assert turned.steps[-1] == "rotated by EXIF orientation"


def test_heic() -> None:
    radiograph = load_radiograph(heif(colour(GREYS), quality=95))
    assert np.abs(radiograph.pixels - GREYS.astype(int)).mean() < 2
    assert radiograph.source_format == "HEIF"


def test_heic_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heif(colour(GREYS))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    refused(data, NotAnImage, "not_an_image", "HEIC", "Save it as JPEG")


@pytest.mark.slow
def test_limits_of_what_is_decoded_in_a_subprocess() -> None:
    grey, rgb = encode(GREYS, "JPEG2000"), encode(colour(GREYS), "JPEG2000")
    refused(grey, TooLarge, "too_large", "80 x 96", max_pixels=7679)
    assert load_radiograph(grey, max_pixels=7680).width == 80
    for data in (rgb, encode(colour(GREYS), "AVIF")):
        refused(data, TooLarge, "too_large", "80 x 96", max_pixels=4 * 7680 - 1)
        assert load_radiograph(data, max_pixels=4 * 7680).width == 80
        refused(data[: len(data) // 2], DamagedImage, "damaged_image")
    refused(encode(GREYS[:60], "JPEG2000"), TooSmall, "too_small", "80 x 60")
    animation = encode(colour(GREYS), "AVIF", save_all=True, append_images=[colour(GREYS[::-1])])
    refused(animation, MultiFrame, "multi_frame", "AVIF")


def test_the_limits_of_bytes_and_pixels_can_be_raised() -> None:
    large = np.kron(greys(12, 160, 130), np.ones((28, 26), np.uint16))
    data = saved(dicom(large, 12))
    assert len(data) > 30_000_000
    refused(data, TooLarge, "too_large")
    radiograph = load_radiograph(data, max_bytes=40_000_000)
    assert radiograph.pixels.shape == large.shape
