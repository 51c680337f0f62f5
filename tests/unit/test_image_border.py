"""A frame around a radiograph changes neither its pixels for the network nor, so, its prediction."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFilter

from pneumocam import Classifier, load_radiograph, predict
from pneumocam.image import Radiograph, without_border
from tests.conftest import EXAMPLES

PLAIN = EXAMPLES[4]  # has no flat row or column at any side


def padded(radiograph: Radiograph, share: float, grey: int) -> Radiograph:
    height, width = radiograph.pixels.shape
    margins = (round(share * height),) * 2, (round(share * width),) * 2
    return replace(radiograph, pixels=np.pad(radiograph.pixels, margins, constant_values=grey))


@pytest.mark.parametrize("path", EXAMPLES[1::4], ids=lambda path: path.stem)
def test_a_radiograph_without_border_keeps_its_pixels(path: Path) -> None:
    radiograph = load_radiograph(path)
    assert without_border(radiograph) is radiograph


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("share", [0.005, 0.05, 0.2])
def test_a_frame_is_cut_off_and_said(share: float, grey: int) -> None:
    radiograph = load_radiograph(PLAIN)
    found = without_border(padded(radiograph, share, grey))
    assert found.steps[:-1] == radiograph.steps
    cut = re.findall(r"[0-9]+", found.steps[-1])
    top, left = round(share * radiograph.height), round(share * radiograph.width)
    above, below, before, behind = (int(n) - m for n, m in zip(cut, (top, top, left, left), strict=True))
    assert 0 <= min(above, below, before, behind) <= max(above, below, before, behind) <= 4  # rows unlike the others
    inside = radiograph.pixels[above : radiograph.height - below, before : radiograph.width - behind]
    np.testing.assert_array_equal(found.pixels, inside)


def test_noise_and_a_marker_in_the_border_do_not_keep_it() -> None:
    radiograph = load_radiograph(PLAIN)
    framed = padded(radiograph, 0.1, 20)
    noisy = framed.pixels.copy()
    margin = round(0.1 * radiograph.height)
    noisy[:margin] += np.random.default_rng(0).integers(0, 6, noisy[:margin].shape, dtype=np.uint8)
    noisy[5:25, 5:25] = 255
    found = without_border(replace(framed, pixels=noisy))
    assert abs(found.height - radiograph.height) <= 4
    assert abs(found.width - radiograph.width) <= 4


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_blurred_edge_is_cut_off_too(grey: int) -> None:
    radiograph = load_radiograph(PLAIN)
    framed = padded(radiograph, 0.1, grey).to_pil().filter(ImageFilter.GaussianBlur(1))
    data = io.BytesIO()
    framed.save(data, "JPEG", quality=60)
    found = without_border(load_radiograph(data.getvalue()))
    assert 0 <= radiograph.height - found.height <= 24
    assert 0 <= radiograph.width - found.width <= 24
    changes = np.abs(np.diff(found.pixels.astype(int), axis=0)).mean(1)
    assert changes[[0, 1, -2, -1]].max() < 2.5 * np.median(changes)


@pytest.mark.parametrize("patient", ["NORMAL2-IM-1427", "person1949", "person1954"])
def test_a_marker_beside_the_border_stays_whole(patient: str) -> None:
    """Each has an R that begins 10 to 20 pixels from the left, on black."""
    radiograph = load_radiograph(next(path for path in EXAMPLES if path.name.startswith(patient)))
    assert radiograph.width - without_border(radiograph).width <= 4


def test_a_very_narrow_border_and_a_small_chest_stay_as_they_are() -> None:
    radiograph = load_radiograph(PLAIN)
    for framed in (padded(radiograph, 0.002, 0), padded(radiograph, 1.0, 0)):
        assert without_border(framed) is framed


def test_a_frame_does_not_change_the_prediction(bundled: Classifier) -> None:
    radiograph = load_radiograph(PLAIN)
    plain, framed = predict(bundled, radiograph), predict(bundled, padded(radiograph, 0.1, 0))
    assert framed.probabilities == pytest.approx(plain.probabilities, abs=0.02)
    assert framed.to_dict()["image"]["steps"][-1].startswith("cut off a flat border: ")
