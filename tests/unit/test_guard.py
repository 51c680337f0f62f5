"""The bundled guard: real radiographs pass, turned and inverted ones are corrected, other pictures are refused."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import sklearn.datasets
from matplotlib import colormaps
from PIL import Image, ImageFilter
from pydantic import ValidationError

from pneumocam import (
    Batcher,
    BundleError,
    Classifier,
    NotAChestRadiograph,
    Radiograph,
    load_radiograph,
    predict,
    predict_many,
)
from pneumocam.bundle import GuardThresholds, read_guard
from pneumocam.guard import GRID, Guard, detail, outline
from tests.conftest import EXAMPLES, ROOT

pytestmark = pytest.mark.slow  # most tests run the guard and the network on several images


@pytest.fixture(scope="module")
def guard(bundled: Classifier) -> Guard:
    assert bundled.guard
    return bundled.guard


def with_limits(classifier: Classifier, **limits: Any) -> Classifier:
    """The same classifier, whose guard has other limits."""
    assert classifier.guard
    thresholds = classifier.guard.thresholds.model_copy(update=limits)
    return replace(classifier, guard=replace(classifier.guard, thresholds=thresholds))


def other_pictures() -> Iterator[tuple[str, Image.Image]]:
    """Pictures of installed packages and of this project, which the guard was not fitted on."""
    for name, pixels in zip(("temple", "flower"), sklearn.datasets.load_sample_images().images, strict=True):
        yield name, Image.fromarray(pixels)
    yield "portrait", Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    yield "screenshot", Image.open(ROOT / "docs" / "page.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (400, 300), np.uint8)
    yield "noise", Image.fromarray(noise)
    yield "smooth noise", Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6))
    yield "gradient", Image.linear_gradient("L")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_real_radiographs_pass_as_they_are(guard: Guard, path: Path) -> None:
    radiograph = load_radiograph(path)
    found = guard(radiograph)
    assert (found.refusal, found.warnings) == (None, ())
    assert found.radiograph is radiograph


@pytest.mark.parametrize("path", [EXAMPLES[0], EXAMPLES[-1]], ids=lambda path: path.stem)
def test_every_pose_is_corrected_and_told(bundled: Classifier, path: Path) -> None:
    upright = load_radiograph(path)
    expected = predict(bundled, upright)
    for turns, inverted in product(range(4), (False, True)):
        posed = np.rot90(upright.pixels, turns)
        prediction = predict(bundled, np.ascontiguousarray(255 - posed if inverted else posed))
        assert prediction.radiograph
        np.testing.assert_array_equal(prediction.radiograph.pixels, upright.pixels)
        assert len(prediction.radiograph.steps) == bool(turns) + inverted
        assert prediction.probabilities == expected.probabilities


@pytest.mark.parametrize("picture", list(other_pictures()), ids=lambda pair: pair[0])
def test_other_pictures_are_refused_even_if_forced(bundled: Classifier, picture: tuple[str, Image.Image]) -> None:
    for force in (False, True):
        with pytest.raises(NotAChestRadiograph) as caught:
            predict(bundled, picture[1], force=force)
        assert caught.value.code == "not_a_chest_radiograph"
        assert not caught.value.can_be_forced


def test_strong_colours_are_refused_and_a_tint_is_not(bundled: Classifier) -> None:
    grey = load_radiograph(EXAMPLES[0])
    expected = predict(bundled, grey).probabilities["NORMAL"]
    for tint in ((255, 235, 190), (190, 215, 255)):  # sepia, and the blue of a light box
        tinted = np.rint(grey.pixels[..., None] * (np.array(tint) / 255)).astype(np.uint8)
        assert predict(bundled, tinted).probabilities["NORMAL"] == pytest.approx(expected, abs=0.02)
    marked = np.stack([grey.pixels] * 3, 2)
    marked[100:300, 100:400] = (255, 0, 0)
    assert load_radiograph(marked).colour == pytest.approx(marked[100:300, 100:400].size / marked.size, abs=0.01)
    predict(bundled, marked)
    rainbow = colormaps["jet"](grey.pixels, bytes=True)[..., :3]
    with pytest.raises(NotAChestRadiograph) as caught:
        predict(bundled, rainbow, force=True)
    assert not caught.value.can_be_forced


def test_a_border_case_can_be_forced(bundled: Classifier) -> None:
    strict = with_limits(bundled, chest=900.0)
    with pytest.raises(NotAChestRadiograph) as caught:
        predict(strict, EXAMPLES[0])
    assert caught.value.can_be_forced
    forced = predict(strict, EXAMPLES[0], force=True)
    assert forced.probabilities == predict(bundled, EXAMPLES[0]).probabilities
    assert (forced.status, [one.code for one in forced.warnings]) == ("uncertain", ["not_a_chest_radiograph"])
    (rejected,) = predict_many(strict, EXAMPLES[:1])
    assert rejected.reason
    assert rejected.reason.can_be_forced
    (streamed,) = predict_many(strict, EXAMPLES[:1], force=True)
    assert streamed.to_dict() == forced.to_dict()


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ({"lateral": -900.0}, "lateral_view"),
        ({"cut_off": -900.0}, "cut_off"),
        ({"edges": (1.0, 1.0, 1.0, -1.0)}, "cut_off"),
        ({"poor_quality": -900.0}, "poor_quality"),
        ({"detail": (0.0, 0.1)}, "poor_quality"),
        ({"detail": (900.0, 1000.0)}, "poor_quality"),
        ({"distance": 0.01}, "unlike_training"),
    ],
)
def test_a_warning_makes_the_prediction_uncertain_and_changes_no_probability(
    bundled: Classifier, limit: dict[str, Any], code: str
) -> None:
    certain = predict(bundled, EXAMPLES[8])
    warned = predict(with_limits(bundled, **limit), EXAMPLES[8])
    assert (certain.status, warned.status) == ("ok", "uncertain")
    assert [warning.code for warning in warned.warnings] == [code]
    assert warned.reason == warned.warnings[0]
    assert warned.to_dict()["warnings"] == [{"code": code, "message": warned.reason.message}]
    assert warned.probabilities == certain.probabilities
    other = next(name for name in bundled.operating_points if name != bundled.operating_point.name)
    assert warned.at(other).warnings == warned.warnings


def test_a_blurred_radiograph_is_never_ok(guard: Guard) -> None:
    for path in EXAMPLES:
        image = load_radiograph(path).to_pil()
        found = guard(load_radiograph(image.filter(ImageFilter.GaussianBlur(image.width / 20))))
        assert found.refusal or "poor_quality" in {warning.code for warning in found.warnings}


def test_blur_and_noise_that_a_small_thumbnail_hides_are_told(guard: Guard) -> None:
    rng = np.random.default_rng(0)
    for path in EXAMPLES:
        image = load_radiograph(path).to_pil()
        blurred = image.filter(ImageFilter.GaussianBlur(0.008 * max(image.size)))
        noisy = (np.asarray(image) + rng.normal(0, 120, (image.height, image.width))).clip(0, 255).astype(np.uint8)
        for damaged in (blurred, Image.fromarray(noisy)):
            found = guard(load_radiograph(damaged))
            assert found.refusal or "poor_quality" in {warning.code for warning in found.warnings}


def test_detail_does_not_depend_on_pose_size_or_brightness() -> None:
    pixels = load_radiograph(EXAMPLES[0]).pixels
    value = detail(pixels)
    for changed in (255 - pixels, np.rot90(pixels), pixels // 2, pixels.repeat(2, 0).repeat(2, 1)):
        assert detail(np.ascontiguousarray(changed)) == pytest.approx(value, rel=0.1)
    assert detail(np.full((50, 60), 90, np.uint8)) == 0
    assert detail(np.zeros((1, 1), np.uint8)) == 0


def test_lungs_that_are_cut_off_are_told(guard: Guard) -> None:
    told = {}
    for edge, turns in (("top", 1), ("bottom", 3), ("left", 0), ("right", 2)):
        told[edge] = 0
        for path in EXAMPLES:
            radiograph = load_radiograph(path)
            lungs = guard(radiograph).lungs
            assert lungs is not None
            inside = np.rot90(lungs > 0.5, turns).sum(0)
            pixels = np.rot90(radiograph.pixels, turns)
            gone = int((inside.cumsum() < 0.4 * inside.sum()).sum())  # columns of the lung map
            left = np.rot90(pixels[:, gone * pixels.shape[1] // GRID :], -turns)
            found = guard(load_radiograph(np.ascontiguousarray(left)))
            told[edge] += bool(found.refusal) or "cut_off" in {warning.code for warning in found.warnings}
    assert told["top"] >= 5  # no more, because the training images have lungs at the top edge too
    assert told["bottom"] >= 14
    assert told["left"] == told["right"] == len(EXAMPLES)


def test_one_lung_alone_is_refused(guard: Guard) -> None:
    for path in EXAMPLES:
        image = load_radiograph(path).to_pil()
        half = image.crop((0, 0, image.width // 2, image.height))
        assert guard(load_radiograph(half)).refusal


def test_two_lung_fields_are_outlined_inside_the_image(guard: Guard) -> None:
    radiograph = load_radiograph(EXAMPLES[0])
    lungs = guard(radiograph).lungs
    assert lungs is not None
    polygons = outline(lungs, radiograph.width, radiograph.height)
    assert len(polygons) == 2
    points = np.array([point for polygon in polygons for point in polygon])
    assert points.min() >= 0
    assert (points <= (radiograph.width, radiograph.height)).all()
    middles = sorted(np.mean([x for x, _ in polygon]) / radiograph.width for polygon in polygons)
    assert middles[0] < 0.5 < middles[1]


def test_lung_fields_at_the_edge_are_closed_polygons() -> None:
    polygons = outline(np.ones((32, 32), np.float32), 320, 640)
    assert len(polygons) == 1
    assert polygons[0][0] == polygons[0][-1]


def test_the_batcher_asks_the_guard_too(bundled: Classifier) -> None:
    classify = Batcher(bundled)
    upright = load_radiograph(EXAMPLES[0])
    turned = Radiograph(np.ascontiguousarray(np.rot90(upright.pixels)), "PNG", ())
    assert classify(turned).probabilities == predict(bundled, upright).probabilities
    with pytest.raises(NotAChestRadiograph):
        classify(np.random.default_rng(1).integers(0, 256, (300, 300), np.uint8))


def test_a_bundle_without_a_guard_predicts_unchecked(tmp_path: Path, bundled: Classifier) -> None:
    folder = shutil.copytree(ROOT / "model", tmp_path / "bundle", ignore=shutil.ignore_patterns("guard.*"))
    classifier = Classifier.from_pretrained(f"local-dir:{folder}")
    assert classifier.guard is None
    assert predict(classifier, EXAMPLES[0]).lungs is None
    assert predict(classifier, EXAMPLES[0]).probabilities == predict(bundled, EXAMPLES[0]).probabilities


@pytest.mark.parametrize("missing", ["guard.json", "guard.safetensors"])
def test_half_a_guard_is_no_bundle(tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(ROOT / "model", tmp_path / "bundle", ignore=shutil.ignore_patterns(missing))
    with pytest.raises(BundleError, match=missing):
        Classifier.from_pretrained(f"local-dir:{folder}")


def test_the_guard_is_small_and_its_limits_are_checked() -> None:
    assert (ROOT / "model" / "guard.safetensors").stat().st_size <= 1_000_000
    description = read_guard(ROOT / "model")
    assert description
    with pytest.raises(ValidationError):
        GuardThresholds.model_validate(description.thresholds.model_dump() | {"lung_area": (0.1, 2.0)})
