"""The audit catches a model that reads files, and lets one pass that reads the picture."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumocam import load_radiograph
from train.audit import (
    COUNTERFACTUALS,
    RE_ENCODINGS,
    baseline,
    blocks,
    counterfactuals,
    file_facts,
    spectrum,
    surroundings,
    variants,
)
from train.data.surroundings import SIDE, burned_in

NAMES = ("NORMAL", "PNEUMONIA")


def image(width: int = 192, height: int = 128, seed: int = 0) -> Image.Image:
    """A smooth picture with a little noise, nowhere black or white."""
    across = np.sin(np.linspace(0, 6, width)) * 40
    pixels = 120 + across[None] + np.linspace(-20, 20, height)[:, None]
    noise = np.random.default_rng(seed).normal(0, 4, (height, width))
    return Image.fromarray((pixels + noise).clip(10, 245).astype(np.uint8))


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def quality_tables(quality: int) -> list[int]:
    file = io.BytesIO()
    image().save(file, "JPEG", quality=quality)
    return list(Image.open(file).quantization[0])  # type: ignore[attr-defined]


# --- the counterfactual images


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *((name, (192, 128)) for name in ("PNG", "JPEG 95", "JPEG 30", "blurred", "stretched histogram")),
        ("half size", (96, 64)),
        ("double size", (384, 256)),
        ("squashed", (128, 128)),
        ("padded", (192, 192)),
        ("own class's encoding, small", (224, 224)),
    ],
)
def test_a_counterfactual_has_the_size_it_says(name: str, size: tuple[int, int]) -> None:
    assert opened(COUNTERFACTUALS[name](image(), True)).size == size


def test_half_a_size_is_never_too_small_to_be_read() -> None:
    assert opened(COUNTERFACTUALS["half size"](image(120, 80), True)).size == (96, 64)
    assert opened(COUNTERFACTUALS["half size"](image(64, 64), True)).size == (64, 64)


def test_png_changes_no_pixel_and_jpeg_more_the_lower_its_quality() -> None:
    original = np.asarray(image(), dtype=float)
    changes = [
        np.abs(np.asarray(opened(COUNTERFACTUALS[name](image(), False)), dtype=float) - original).mean()
        for name in ("PNG", "JPEG 95", "JPEG 75", "JPEG 50", "JPEG 30")
    ]
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert changes[1] > 0


def test_a_square_image_is_squashed_and_padded_too() -> None:
    square = image(90, 90)
    assert opened(COUNTERFACTUALS["squashed"](square, True)).size == (120, 90)
    padded = opened(COUNTERFACTUALS["padded"](square, True))
    assert padded.size == (120, 90)
    assert np.asarray(padded)[:, :14].max() == 0
    assert np.asarray(padded)[:, 16:104].min() > 0


def test_blur_takes_detail_away_and_stretching_fills_the_range() -> None:
    original = np.asarray(image(), dtype=float)
    blurred = np.asarray(opened(COUNTERFACTUALS["blurred"](image(), True)), dtype=float)
    assert np.abs(np.diff(blurred)).mean() < 0.95 * np.abs(np.diff(original)).mean()
    stretched = np.asarray(opened(COUNTERFACTUALS["stretched histogram"](image(), True)))
    assert (stretched.min(), stretched.max()) == (0, 255)


def test_flat_highlights_and_shadows_leave_the_other_half_as_it_was() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(64).reshape(64, 256, order="F"))
    bright, dark = (
        np.asarray(opened(COUNTERFACTUALS[f"flat {part}"](ramp, True)), dtype=int)[0]
        for part in ("highlights", "shadows")
    )
    assert bright[:128].tolist() == list(range(128))
    assert dark[128:].tolist() == list(range(128, 256))
    for flat in (bright[128:], dark[:128]):
        assert np.polyfit(np.arange(128), flat, 1)[0] == pytest.approx(0.3, abs=0.01)
    assert (bright[-1], dark[0]) == (166, 89)


@pytest.mark.parametrize(
    ("pneumonia", "other", "size", "quality"),
    [
        (False, False, (1686, 1379), 95),
        (True, False, (1195, 820), 75),
        (False, True, (1195, 820), 75),
        (True, True, (1686, 1379), 95),
    ],
)
def test_the_classes_encodings_are_given_and_exchanged(
    pneumonia: bool, other: bool, size: tuple[int, int], quality: int
) -> None:
    whose = "other" if other else "own"
    large = opened(COUNTERFACTUALS[f"{whose} class's encoding"](image(), pneumonia))
    small = opened(COUNTERFACTUALS[f"{whose} class's encoding, small"](image(), pneumonia))
    assert (large.size, small.size) == (size, (224, 224))
    for picture in (large, small):
        assert list(picture.quantization[0]) == quality_tables(quality)  # type: ignore[attr-defined]


# --- what it says of models


@pytest.fixture
def images(tmp_path: Path) -> tuple[list[Path], np.ndarray, list[int]]:
    """Twenty images, the ill ones darker; both classes saved alike, so that only counterfactuals tell by the file."""
    labels = np.arange(20) % 2
    paths = []
    for i, ill in enumerate(labels):
        path = tmp_path / f"{i}.jpeg"
        image(seed=i).point(lambda x, ill=ill: x - 30 * ill).save(path, quality=85)
        paths.append(path)
    return paths, labels, list(range(20))


def by_brightness(encoded: Iterable[bytes], _: str) -> np.ndarray:
    middle = [np.asarray(opened(data).resize((3, 3), Image.Resampling.BOX))[1, 1] for data in encoded]
    return np.array([0.9 if grey < 105 else 0.1 for grey in middle])


def by_compression(encoded: Iterable[bytes], _: str) -> np.ndarray:
    p = []
    for data in encoded:
        tables = getattr(opened(data), "quantization", {})
        p.append(0.9 if tables and np.mean(tables[0]) > 10 else 0.1)
    return np.array(p)


def audited(
    answer: Callable[..., np.ndarray],
    images: tuple[list[Path], np.ndarray, list[int]],
    *,
    uncertain: Iterable[int] = (),
) -> dict[str, Any]:
    paths, labels, groups = images
    original = answer((path.read_bytes() for path in paths), "")
    doubtful = np.isin(np.arange(len(paths)), list(uncertain))
    ill, sources = labels == 1, ["a" if i < 10 else "b" for i in range(len(paths))]
    files = {name: variants(name, paths, ill.tolist()) for name in COUNTERFACTUALS}
    return counterfactuals(
        answer, files, ill, groups, sources, original=original, threshold=0.5, uncertain=doubtful, resamples=20
    )


def test_a_reader_of_pictures_passes(images: tuple[list[Path], np.ndarray, list[int]]) -> None:
    report = audited(by_brightness, images)
    assert list(report["by_name"]) == ["original", *COUNTERFACTUALS]
    assert report["any_re_encoding"]["flips"]["value"] == 0
    for name in RE_ENCODINGS:
        assert report["by_name"][name]["auroc"]["value"] == 1
        assert report["by_name"][name]["shift_95th_percentile"] == 0


def test_a_reader_of_files_is_caught(images: tuple[list[Path], np.ndarray, list[int]]) -> None:
    report = audited(by_compression, images)
    assert report["by_name"]["original"]["auroc"]["value"] == 0.5
    assert report["by_name"]["own class's encoding"]["auroc"]["value"] == 1
    assert report["by_name"]["other class's encoding"]["auroc"]["value"] == 0
    worst = report["worst"]
    assert worst["auroc"]["value"] == worst["sensitivity"]["value"] == worst["specificity"]["value"] == 0
    assert worst["ece"]["value"] == pytest.approx(0.9)  # it is as sure as that, and always wrong
    assert str(worst["auroc"]["counterfactual"]).startswith("other class's encoding")
    assert worst["flips"]["value"] == 1
    assert report["any_re_encoding"]["flips"]["value"] == 1
    assert report["by_name"]["PNG"]["shift_median"] == pytest.approx(0.8)


def test_flips_are_counted_apart_for_the_answers_that_were_sure(
    images: tuple[list[Path], np.ndarray, list[int]],
) -> None:
    def fooled_by_three(encoded: Iterable[bytes], caption: str) -> np.ndarray:
        encoded = list(encoded)
        return np.hstack([by_compression(encoded[:3], caption), by_brightness(encoded[3:], caption)])

    for uncertain, expected in ((range(3), 0), (range(2), 1 / 18), (range(3, 20), 1), (range(20), None)):
        report = audited(fooled_by_three, images, uncertain=uncertain)
        flips, by_name = report["any_re_encoding"], report["by_name"]
        assert flips["flips"]["value"] == 3 / 20
        each = np.mean([by_name[name]["flips"]["value"] for name in RE_ENCODINGS])
        assert 0 < each < 3 / 20
        assert flips["flips_of_each"]["value"] == pytest.approx(each)
        assert flips["flips_of_each_of_sure"]["value"] == (expected and pytest.approx(each / (3 / 20) * expected))
        assert flips["flips_of_sure"]["value"] == (expected and pytest.approx(expected))
        assert [flips["by_source"][name]["flips"]["value"] for name in ("a", "b")] == [3 / 10, 0]


def test_variants_are_made_of_the_images_at_the_paths(images: tuple[list[Path], np.ndarray, list[int]]) -> None:
    paths, labels, _ = images
    made = list(variants("PNG", paths[:3], labels[:3].tolist()))
    for path, data in zip(paths, made, strict=False):
        assert (load_radiograph(data).pixels == load_radiograph(path).pixels).all()


# --- the same lungs in other surroundings


@pytest.fixture
def consoles(tmp_path: Path) -> tuple[list[Path], list[bool]]:
    """Eight images, the ill ones with text in a corner, on a background as bright as their number."""
    paths, ill = [], [i % 2 == 1 for i in range(8)]
    for i in range(8):
        pixels = np.full((SIDE, SIDE), 40 + 5 * i, np.uint8)
        pixels[90:130, 90:130] += np.arange(40, dtype=np.uint8)
        if ill[i]:
            for k in range(4):
                pixels[8:28, 4 + 8 * k : 8 + 8 * k] = 250
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths, ill


def seen(name: str, consoles: tuple[list[Path], list[bool]], **options: Any) -> list[np.ndarray]:
    given: dict[str, Any] = {"sources": ["one"] * 8, "lungs": [None] * 8} | options
    made = surroundings(name, *consoles, given["sources"], given["lungs"])
    return [load_radiograph(data).pixels for data in made]


def test_text_is_removed_and_exchanged_between_classes(consoles: tuple[list[Path], list[bool]]) -> None:
    before = [load_radiograph(path).pixels for path in consoles[0]]
    removed = seen("text removed", consoles)
    assert not any(burned_in(pixels).found for pixels in removed)
    assert all(np.array_equal(a[60:], b[60:]) for a, b in zip(removed, before, strict=True))
    exchanged = seen("other class's text", consoles)
    assert [burned_in(pixels).found for pixels in exchanged] == [not ill for ill in consoles[1]]


def test_text_of_another_source_is_not_pasted(consoles: tuple[list[Path], list[bool]]) -> None:
    apart = ["ill" if ill else "well" for ill in consoles[1]]
    assert not any(burned_in(pixels).found for pixels in seen("other class's text", consoles, sources=apart))


def test_the_outside_of_the_other_class_surrounds_the_same_lungs(consoles: tuple[list[Path], list[bool]]) -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[80:140, 80:140] = True
    before = [load_radiograph(path).pixels for path in consoles[0]]
    after = seen("other class's outside", consoles, lungs=[mask] * 7 + [None])
    for i in range(7):
        assert np.array_equal(after[i][90:130, 90:130], before[i][90:130, 90:130])
        number = (int(after[i][200, 110]) - 40) / 5
        assert number % 2 != i % 2
    assert np.array_equal(after[7], before[7])


# --- baselines


def test_file_facts_are_those_of_the_file(tmp_path: Path) -> None:
    image().save(tmp_path / "image.jpeg", quality=50)
    image().save(tmp_path / "image.png")
    jpeg, png = file_facts(tmp_path / "image.jpeg"), file_facts(tmp_path / "image.png")
    assert jpeg[:3] == png[:3] == [192, 128, 1.5]
    assert jpeg[3] == (tmp_path / "image.jpeg").stat().st_size / (192 * 128)
    assert jpeg[4] == np.mean(quality_tables(50))
    assert png[4] == 0


def test_the_spectrum_has_a_wave_in_its_band() -> None:
    wave = 128 + 100 * np.sin(2 * np.pi * 41 * np.arange(192) / 192)
    bands = spectrum(Image.fromarray(np.tile(wave, (192, 1)).astype(np.uint8)))
    assert bands.shape == (24,)
    assert bands.argmax() == 10  # bands of 3.98 cycles, from 0.5


def test_blocks_know_a_texture_and_not_its_place() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(50, 200, (192, 192)).astype(np.uint8)
    moved = np.roll(pixels, (16, 40), axis=(0, 1))
    there, here = blocks(Image.fromarray(moved)), blocks(Image.fromarray(pixels))
    assert here.shape == (63,)
    np.testing.assert_allclose(here, there)
    smooth = Image.fromarray(pixels).resize((48, 48)).resize((192, 192))
    assert np.abs(blocks(smooth) - here).max() > 1


def test_a_baseline_is_as_good_as_its_features_and_a_model_may_follow_it() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    groups = list(np.arange(200) // 2 % 50 + 50 * labels)  # two images a patient
    telling = labels + rng.normal(0, 0.7, 200)
    report = baseline(telling[:, None], labels, groups, NAMES, answers=telling, resamples=50)
    assert report is not None
    assert report["n"] == 200
    assert 0.7 < report["auroc"]["low"] < report["auroc"]["value"] < 0.95
    assert report["dependence"]["low"] > 0.5

    unrelated = baseline(rng.normal(size=(200, 3)), labels, groups, NAMES, answers=telling, resamples=50)
    assert unrelated is not None
    assert 0.35 < unrelated["auroc"]["value"] < 0.65
    assert unrelated["dependence"]["low"] < 0 < unrelated["dependence"]["high"]


def test_patients_are_not_on_both_sides_of_a_baseline() -> None:
    rng = np.random.default_rng(0)
    patients = np.arange(200) // 10  # ten images a patient, each patient with features of his own
    labels = patients % 2
    features = rng.normal(size=(20, 5))[patients] + rng.normal(0, 1e-3, (200, 5))
    report = baseline(features, labels, patients.tolist(), NAMES, answers=labels.astype(float), resamples=10)
    assert report is not None
    assert report["auroc"]["value"] < 0.9  # images of one patient on both sides would give 1


def test_too_few_patients_have_no_baseline() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1, 1])
    assert baseline(np.ones((7, 1)), labels, list(range(7)), NAMES, answers=np.ones(7)) is None
