"""Modality and VOI transformations of DICOM, against renderings written here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset

from pneumocam.image import (
    load_radiograph,
)
from tests.images import (
    GREYS,
    GREYS_8_OF_12,
    Array,
    dicom,
    greys,
    saved,
)


def test_monochrome1_is_the_inverse_of_monochrome2() -> None:
    for bits, tags in ((8, {}), (12, {}), (12, {"WindowCenter": 1800, "WindowWidth": 2500})):
        bright = load_radiograph(saved(dicom(greys(bits), bits, **tags)))
        dark = load_radiograph(saved(dicom(greys(bits), bits, PhotometricInterpretation="MONOCHROME1", **tags)))
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
    stored = greys(12).astype(np.int16) - 2048 if signed else greys(12)
    values = stored * float(slope) + intercept
    centre, width = float(np.round(values.mean())), float(np.round(np.ptp(values) / 2))
    tags = {"WindowCenter": [centre, 5], "WindowWidth": [width, 6], "VOILUTFunction": function.__name__.upper()}
    radiograph = load_radiograph(saved(dicom(stored, 12, RescaleSlope=slope, RescaleIntercept=intercept, **tags)))
    np.testing.assert_array_equal(radiograph.pixels, np.rint(function(values, centre, width)))
    assert radiograph.steps == ("VOI window applied",)


@pytest.mark.parametrize("width", [0, -5, "?", "nan"])
def test_a_window_that_makes_no_sense_is_left_out(width: Any) -> None:
    data = saved(dicom(greys(12), 12, WindowCenter=2000, WindowWidth=77777))
    radiograph = load_radiograph(data.replace(b"77777", f"{width:<5}".encode()))
    np.testing.assert_array_equal(radiograph.pixels, GREYS_8_OF_12)
    ignored, scaled = radiograph.steps
    assert ignored.startswith("window 2000/")
    assert " ignored: its " in ignored
    assert scaled == "12 bit scaled to 8 bit"


@pytest.mark.parametrize("depth", [8, 12, 16])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_voi_lut(depth: int, syntax: uid.UID) -> None:
    """pydicom 3.0 wraps around in tables of 8 bits with more than 256 entries."""
    table = np.rint((np.arange(4096) / 4095) ** 2 * (2**depth - 1)).astype(np.uint16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, depth])
    item.add_new("LUTData", "OW", table.tobytes())
    dataset = dicom(greys(12), 12, VOILUTSequence=[item], WindowCenter=1, WindowWidth=2)
    dataset.file_meta.TransferSyntaxUID = syntax
    radiograph = load_radiograph(saved(dataset))
    np.testing.assert_array_equal(radiograph.pixels, np.rint(table[greys(12)] * (255 / (2**depth - 1))))
    assert radiograph.steps[0] == "VOI LUT applied"


def test_modality_lut_comes_before_the_window() -> None:
    table = (4095 - np.arange(4096)).astype(np.uint16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "US", table.tolist())
    item.ModalityLUTType = "US"
    data = saved(dicom(greys(12), 12, ModalityLUTSequence=[item], WindowCenter=1000, WindowWidth=1500))
    np.testing.assert_array_equal(load_radiograph(data).pixels, np.rint(linear(table[greys(12)], 1000, 1500)))


def test_signed_and_rescaled_without_a_window_are_stretched() -> None:
    signed = greys(12).astype(np.int16) - 2048
    np.testing.assert_array_equal(load_radiograph(saved(dicom(signed, 12))).pixels, GREYS_8_OF_12)
    shifted = load_radiograph(saved(dicom(greys(12), 12, RescaleSlope=1, RescaleIntercept=-500)))
    np.testing.assert_array_equal(shifted.pixels, GREYS_8_OF_12)
    same = load_radiograph(saved(dicom(GREYS // 3, RescaleSlope=1, RescaleIntercept=0)))
    np.testing.assert_array_equal(same.pixels, GREYS // 3)
