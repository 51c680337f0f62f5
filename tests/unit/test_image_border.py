"""A frame around a radiograph changes neither its pixels for the network nor, so, its prediction."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumocam import Classifier, load_radiograph, predict
from pneumocam.image import Radiograph, without_border
from tests.conftest import EXAMPLES

PLAIN = EXAMPLES[1]  # has no flat row or column at any side


def padded(radiograph: Radiograph, share: float, grey: int) -> Radiograph:
    height, width = radiograph.pixels.shape
    margins = (round(share * height),) * 2, (round(share * width),) * 2
    return replace(radiograph, pixels=np.pad(radiograph.pixels, margins, constant_values=grey))


@pytest.mark.parametrize("path", EXAMPLES[1::4], ids=lambda path: path.stem)
def test_a_radiograph_without_border_keeps_its_pixels(path: Path) -> None:
    radiograph = load_radiograph(path)
    assert without_border(radiograph) is radiograph


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_a_frame_is_cut_off_and_said(share: float, grey: int) -> None:
    radiograph = load_radiograph(PLAIN)
    found = without_border(padded(radiograph, share, grey))
    np.testing.assert_array_equal(found.pixels, radiograph.pixels)
    top, left = round(share * radiograph.height), round(share * radiograph.width)
    assert found.steps == (
        *radiograph.steps,
        f"cut off a flat border: {top} px above, {top} below, {left} left, {left} right",
    )


def test_noise_and_a_marker_in_the_border_do_not_keep_it() -> None:
    radiograph = load_radiograph(PLAIN)
    framed = padded(radiograph, 0.1, 20)
    noisy = framed.pixels.copy()
    margin = round(0.1 * radiograph.height)
    noisy[:margin] += np.random.default_rng(0).integers(0, 6, noisy[:margin].shape, dtype=np.uint8)
    noisy[5:25, 5:25] = 255
    found = without_border(replace(framed, pixels=noisy))
    assert abs(found.height - radiograph.height) <= 2
    assert abs(found.width - radiograph.width) <= 2


def test_a_narrow_border_and_a_small_chest_stay_as_they_are() -> None:
    radiograph = load_radiograph(PLAIN)
    for framed in (padded(radiograph, 0.01, 0), padded(radiograph, 1.0, 0)):
        assert without_border(framed) is framed


def test_a_frame_does_not_change_the_prediction(bundled: Classifier) -> None:
    radiograph = load_radiograph(PLAIN)
    plain, framed = predict(bundled, radiograph), predict(bundled, padded(radiograph, 0.1, 0))
    assert framed.probabilities == plain.probabilities
    assert framed.to_dict()["image"]["steps"][-1].startswith("cut off a flat border: ")
