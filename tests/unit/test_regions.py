"""Where a map lies and what is said about it: shares, boxes and words of made-up maps with known values."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pneumocam import Classifier, Saliency, predict
from pneumocam.gradcam import targets
from pneumocam.overlay import blend
from pneumocam.regions import STEADY, agreement, correlation, quality, regions, share_inside
from tests.conftest import EXAMPLES

Floats = NDArray[np.float32]


def planted(*cells: tuple[slice, slice, float], size: int = 8) -> Floats:
    heat = np.zeros((size, size), np.float32)
    for rows, columns, value in cells:
        heat[rows, columns] = value
    return heat


LEFT = planted((slice(0, 8), slice(0, 4), 1.0))  # the left half


def saliency(cam: Floats, *, scale: float | None = None, steadiness: float | None = 0.9) -> Saliency:
    return Saliency(cam, "VIRAL", (0, 0, 80, 80), (80, 80), scale=scale, lungs=LEFT, steadiness=steadiness)


def test_the_share_inside_is_that_of_the_energy() -> None:
    heat = planted((slice(0, 2), slice(0, 2), 0.75), (slice(6, 8), slice(6, 8), 0.25))
    assert share_inside(heat, LEFT > 0.5) == pytest.approx(0.75)
    assert share_inside(np.zeros_like(heat), LEFT > 0.5) == 0


def test_regions_are_boxes_in_pixels_with_peak_and_share() -> None:
    # Two blocks above half of the peak, and one below it that is no region.
    heat = planted(
        (slice(1, 3), slice(2, 5), 0.6), (slice(6, 8), slice(6, 8), 0.8), (slice(5, 6), slice(0, 4), 0.3), size=10
    )
    total = 6 * 0.6 + 4 * 0.8 + 4 * 0.3
    first, second = regions(heat, 1000, 500)
    assert (first.box, second.box) == ((200, 50, 500, 150), (600, 300, 800, 400))
    assert (first.score, first.share) == pytest.approx((0.6, 3.6 / total))
    assert (second.score, second.share) == pytest.approx((0.8, 3.2 / total))


def test_the_box_of_a_hot_cell_is_around_its_centre() -> None:
    (region,) = saliency(planted((slice(2, 3), slice(5, 6), 3.0))).regions  # the centre is at 55, 25
    left, top, right, bottom = region.box
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((55, 25), abs=1)
    assert (right - left, bottom - top) == pytest.approx((10, 10), abs=2)  # half of the peak is half a cell away
    assert region.score == pytest.approx(1, abs=0.1)
    # The part above 1/2 of the product of two tents has 3/4 - ln(2)/2 of their volume.
    assert region.share == pytest.approx(0.75 - np.log(2) / 2, abs=0.08)


@pytest.mark.parametrize(
    ("empty", "inside", "steadiness", "word"),
    [
        (True, 0.9, 0.9, "empty"),
        (False, 0.2, 0.9, "outside_lungs"),
        (False, 0.3, 0.9, "outside_lungs"),
        (False, 0.31, 0.9, "steady"),
        (False, 0.31, STEADY - 0.01, "unsteady"),
        (False, None, STEADY, "steady"),
        (False, 0.9, None, None),
    ],
)
def test_one_word(empty: bool, inside: float | None, steadiness: float | None, word: str | None) -> None:
    expected = None if inside is None else 0.3
    assert quality(empty=empty, inside=inside, expected=expected, steadiness=steadiness) == word


def test_a_map_knows_its_share_and_its_word() -> None:
    inner = saliency(planted((slice(3, 5), slice(1, 2), 2.0)))
    assert inner.expected_inside == pytest.approx(0.5)
    assert inner.inside == pytest.approx(1)
    assert (inner.quality, replace(inner, steadiness=0.1).quality) == ("steady", "unsteady")
    outer = saliency(planted((slice(3, 5), slice(6, 7), 2.0)))
    assert outer.inside == 0
    assert outer.quality == "outside_lungs"
    told = inner.to_dict()
    assert (told["target"], told["quality"], told["inside_lungs"], told["peak"]) == ("VIRAL", "steady", 1.0, 1.0)
    assert [len(region["box"]) for region in told["regions"]] == [4]
    assert "100% of it lies inside the lung fields (50% of the image)" in inner.sentences[-1]


def test_a_map_far_weaker_than_the_strongest_of_its_image_is_empty_and_dark() -> None:
    cam = planted((slice(3, 5), slice(1, 2), 2.0))
    weak = saliency(cam, scale=21.0)
    assert weak.is_empty
    assert weak.quality == "empty"
    assert weak.regions == ()
    assert weak.heatmap().max() == pytest.approx(2 / 21, rel=0.06)  # no pixel is at the cell's centre
    half = saliency(cam, scale=4.0)
    assert not half.is_empty
    assert half.heatmap().max() == pytest.approx(0.5, rel=0.06)
    assert half.relative() == (cam / 4).tolist()


def test_a_map_that_reaches_beyond_the_image_is_measured_on_the_image() -> None:
    wide = replace(saliency(np.ones((4, 4), np.float32)), box=(-80, 0, 80, 80))
    assert wide.inside == pytest.approx(0.5)
    right = replace(wide, cam=np.array([[5, 5, 0, 1]], np.float32))  # all but the last cell beyond the image or 0
    assert right.inside is not None
    assert right.inside < 0.5


def test_correlation_is_pearsons_and_0_for_a_constant_map() -> None:
    ramp = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert correlation(ramp, 2 * ramp + 1) == pytest.approx(1)
    assert correlation(ramp, ramp[::-1, ::-1]) == pytest.approx(-1)
    assert correlation(ramp, np.zeros_like(ramp)) == 0


def test_halves_of_the_channels_agree_if_each_channel_shows_the_same_and_else_not() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((6, 6), np.float32)
    weights = rng.random((16, 1, 1), np.float32)
    assert agreement(weights * one) == pytest.approx(1)
    # Bit 0 is the only one that parts the channels that show a place from those that show its opposite.
    opposed = np.where(np.arange(4)[:, None, None] % 2, one, one.max() - one)
    assert agreement(opposed) == pytest.approx((-1 + 0) / 2, abs=1e-5)
    noise = rng.standard_normal((1024, 6, 6)).astype(np.float32)
    assert agreement(noise) == pytest.approx(0, abs=0.15)
    assert agreement(noise[:1]) is None


def test_the_maps_of_an_image_share_a_scale_and_its_lungs(bundled: Classifier) -> None:
    prediction = predict(bundled, EXAMPLES[0])
    maps = prediction.maps
    assert tuple(maps) == targets(bundled)
    assert max(maps[label].peak for label in bundled.label_names) == pytest.approx(1)
    assert prediction.lungs is not None
    for one in maps.values():
        assert one.lungs is prediction.lungs
        assert one.heatmap().max() <= 1 + 1e-6
        for region in one.regions:
            left, top, right, bottom = region.box
            assert 0 <= left < right <= one.size[0]
            assert 0 <= top < bottom <= one.size[1]
    improbable = min(bundled.label_names, key=prediction.probability)
    assert prediction.probability(improbable) < 0.05
    assert maps[improbable].heatmap().max() < 0.3
    assert prediction.explain() is maps[str(prediction.label)]


def test_the_lung_fields_are_outlined_where_they_are(bundled: Classifier) -> None:
    prediction = predict(bundled, EXAMPLES[0])
    assert prediction.radiograph
    saliency = prediction.explain()
    image = prediction.radiograph.to_pil()
    outlined, plain = (np.asarray(blend(image, one), int) for one in (saliency, replace(saliency, lungs=None)))
    ys, xs = np.nonzero((outlined != plain).any(2))
    assert 0.002 < len(ys) / plain[..., 0].size < 0.05
    inside = np.argwhere(prediction.lungs > 0.5) / 32 if prediction.lungs is not None else np.empty((0, 2))
    for found, side, axis in ((ys, image.height, 0), (xs, image.width, 1)):
        assert found.min() / side == pytest.approx(inside[:, axis].min(), abs=1.5 / 32)
        assert found.max() / side == pytest.approx(inside[:, axis].max() + 1 / 32, abs=1.5 / 32)
