"""Hot pixels, markers, padding, collimators and overflow do not set the scale of grey levels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pneumocam.image import Blank, Radiograph, load_radiograph
from tests.conftest import EXAMPLES
from tests.images import GREYS, Array, dicom, encode, greys, refused, saved

NARROW, INNER = greys(12, 192, 160), greys(12, 144, 120)
PLAIN, INNER_PLAIN = (np.rint(values * (255 / 4095)).astype(np.uint8) for values in (NARROW, INNER))
INSIDE = (slice(24, -24), slice(20, -20))


def framed(value: int, noise: int = 0, dtype: Any = np.uint16, offset: int = 0) -> Array:
    """The image with a border of another value, 24 rows and 20 columns wide."""
    border = value + np.random.default_rng(0).integers(-noise, noise + 1, NARROW.shape)
    border[INSIDE] = INNER.astype(int) + offset
    return border.astype(dtype)


def spoilt(value: float, area: int = 1, dtype: Any = np.uint16, offset: int = 0) -> Array:
    """The image with a square of another value near its corner."""
    values = (NARROW.astype(np.float64) + offset).astype(dtype)
    values[10 : 10 + area, 12 : 12 + area] = value
    return values


def as_dicom(values: Array, **tags: Any) -> bytes:
    return saved(dicom(values, 16, **tags))


def differs(radiograph: Radiograph, plain: Array) -> int:
    """The largest difference inside of the border to the image without what is no tissue."""
    plain = plain if plain is INNER_PLAIN else plain[INSIDE]
    return int(np.abs(radiograph.pixels[INSIDE].astype(int) - plain).max())


@pytest.mark.parametrize("area", [1, 3, 12])
@pytest.mark.parametrize(
    ("value", "dtype", "offset"),
    [(65535, np.uint16, 0), (30000, np.uint16, 0), (0, np.uint16, 20000), (-32768, np.int16, 0), (32767, np.int16, 0)],
)
@pytest.mark.parametrize("write", [as_dicom, lambda values: encode(values.astype(np.int32), "TIFF")])
def test_a_hot_or_dead_pixel_or_a_marker(
    value: int, dtype: Any, offset: int, area: int, write: Callable[[Array], bytes]
) -> None:
    radiograph = load_radiograph(write(spoilt(value, area, dtype, offset)))
    assert differs(radiograph, PLAIN) == 0
    assert "left out of the scale" in radiograph.steps[0]
    assert radiograph.pixels[10, 12] == (255 if value > offset else 0)


@pytest.mark.parametrize("value", [1e6, -1e6, 1e30, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_float_out_of_range(value: float, dtype: Any) -> None:
    for scale in (1, 1 / 4095):
        values = spoilt(0, 1, dtype) * dtype(scale)
        values[30, 30] = value
        radiograph = load_radiograph(values)
        assert (np.abs(radiograph.pixels.astype(int) - PLAIN) > 0).sum() <= 2
        assert len(radiograph.steps) == 2


def test_many_hot_and_dead_pixels_of_any_value() -> None:
    rng = np.random.default_rng(0)
    values = np.tile(NARROW, (8, 8)) + 5000
    at = rng.integers(0, values.size, 200)
    values.flat[at] = rng.integers(0, 65536, at.size)
    expected = np.tile(PLAIN, (8, 8)).astype(int)
    wrong = np.abs(load_radiograph(as_dicom(values)).pixels - expected) > 6
    assert wrong.sum() <= at.size


@pytest.mark.parametrize(
    ("value", "noise", "dtype", "offset"),
    [
        (65535, 0, np.uint16, 0),
        (60000, 200, np.uint16, 0),
        (0, 0, np.uint16, 20000),
        (100, 90, np.uint16, 20000),
        (-2000, 0, np.int16, 0),
        (-32768, 0, np.int16, 0),
        (65236, 300, np.uint16, 0),
    ],
)
@pytest.mark.parametrize("negative", [False, True])
def test_a_border_that_is_not_declared(value: int, noise: int, dtype: Any, offset: int, negative: bool) -> None:
    values = framed(value, noise, dtype, offset)
    if negative:
        values = (2 * offset + 4095 - values.astype(int)).clip(-32768, 65535 if dtype is np.uint16 else 32767)
        values = values.astype(dtype)
    space = "MONOCHROME1" if negative else "MONOCHROME2"
    radiograph = load_radiograph(as_dicom(values, PhotometricInterpretation=space))
    assert differs(radiograph, INNER_PLAIN) <= 1
    assert radiograph.pixels[:24].max() == 0


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(
    ("value", "limit", "dtype"),
    [
        (65535, None, np.uint16),
        (0, None, np.uint16),
        (5000, None, np.uint16),
        (64000, 65535, np.uint16),
        (65535, 64000, np.uint16),
        (-2000, None, np.int16),
        (-32768, None, np.int16),
        (-5, -2000, np.int16),
        (32767, None, np.int16),
    ],
)
def test_declared_padding_becomes_background(value: int, limit: int | None, dtype: Any, negative: bool) -> None:
    offset = 1000  # so that no tissue has the padding's value
    for written in (value, limit if limit is not None else value):
        values = framed(written, 0, dtype, offset)
        if negative:
            values[INSIDE] = 2 * offset + 4095 - values[INSIDE].astype(int)
        tags: dict[str, Any] = {"PixelPaddingValue": value}
        tags |= {} if limit is None else {"PixelPaddingRangeLimit": limit}
        tags |= {"PhotometricInterpretation": "MONOCHROME1" if negative else "MONOCHROME2"}
        for window in ({}, {"WindowCenter": offset + 2048, "WindowWidth": 4096}):
            radiograph = load_radiograph(as_dicom(values, **tags, **window))
            outside = np.ones(values.shape, bool)
            outside[INSIDE] = False
            assert radiograph.pixels[outside].max() == 0
            assert "painted as background" in radiograph.steps[-1]
            tissue = load_radiograph(
                as_dicom(values[INSIDE], PhotometricInterpretation=tags["PhotometricInterpretation"], **window)
            )
            np.testing.assert_array_equal(radiograph.pixels[INSIDE], tissue.pixels)


@pytest.mark.parametrize(("value", "offset"), [(65535, 20000), (0, 30000), (65535, 0)])
@pytest.mark.parametrize("blur", [1, 3])
def test_the_blurred_edge_of_a_collimator_does_not_set_the_scale(value: int, offset: int, blur: int) -> None:
    edge = np.zeros((384, 320))
    edge[:48] = edge[-48:] = 1
    edge[:, :40] = edge[:, -40:] = 1
    edge = ndimage.gaussian_filter(edge, blur)
    tissue = np.pad(greys(12, 192, 160).astype(float), ((96, 96), (80, 80)), mode="edge") + offset
    values = np.rint(edge * value + (1 - edge) * tissue).astype(np.uint16)
    inside = load_radiograph(as_dicom(values)).pixels[112:-112, 96:-96].astype(float)
    plain = tissue[112:-112, 96:-96]
    assert np.ptp(inside) > 48  # of 256; 13 if the collimator sets the scale
    assert np.corrcoef(inside.ravel(), plain.ravel())[0, 1] > 0.99


def test_padding_outside_of_the_stored_bits_and_in_8_bits() -> None:
    values = NARROW.copy()
    values[:20] = 65535
    radiograph = load_radiograph(saved(dicom(values, 12, PixelPaddingValue=65535)))
    assert radiograph.pixels[:20].max() == 0
    np.testing.assert_array_equal(radiograph.pixels[20:], PLAIN[20:])
    eight = np.minimum(PLAIN, 250)
    padded = eight.copy()
    padded[:20] = 255
    radiograph = load_radiograph(saved(dicom(padded, PixelPaddingValue=255)))
    np.testing.assert_array_equal(radiograph.pixels, np.where(padded == 255, 0, eight))


def test_padding_without_a_sign_above_the_stored_bits() -> None:
    values = (NARROW.astype(int) - 2048).clip(-2000).astype(np.int16)
    values[:20] = -2048
    dataset = dicom(values, 12)
    dataset.add_new("PixelPaddingValue", "SS", 0x0800)
    assert load_radiograph(saved(dataset)).pixels[:20].max() == 0


def test_padding_that_would_cover_the_image_is_not_believed() -> None:
    data = as_dicom(NARROW, PixelPaddingValue=0, PixelPaddingRangeLimit=65535)
    radiograph = load_radiograph(data)
    np.testing.assert_array_equal(radiograph.pixels, PLAIN)
    assert radiograph.steps[0].startswith("padding ignored")


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_8_bit_examples_keep_their_pixels_in_every_container(path: Any) -> None:
    grey = np.asarray(Image.open(path).convert("L"))
    hot = grey.astype(np.uint16)
    hot[5, 5] = 65535
    for source in (path, encode(grey, "PNG"), saved(dicom(grey)), grey.astype(np.uint16) * 257, grey.astype(np.int32)):
        if isinstance(source, np.ndarray) and source.dtype == np.int32:
            source = encode(source, "TIFF")
        np.testing.assert_array_equal(load_radiograph(source).pixels, grey)
    assert (load_radiograph(hot).pixels != grey).sum() <= 1


def test_few_grey_levels_are_refused_or_reported() -> None:
    dark = refused(encode(GREYS // 16, "PNG"), Blank, "blank", "grey level", "needs contrast")
    assert dark.code == "blank"
    posterised = load_radiograph(encode(GREYS // 16 * 17, "PNG"))
    np.testing.assert_array_equal(posterised.pixels, GREYS // 16 * 17)
    assert posterised.steps == ("only 16 of 256 grey levels in use",)
    assert load_radiograph(encode(GREYS // 4, "PNG")).steps == ()
