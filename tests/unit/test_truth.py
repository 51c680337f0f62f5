"""The bundled model on sixteen raw radiographs, through the command line, whatever they were saved as."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pneumocam import Classifier, predict
from pneumocam.cli import main
from tests.conftest import EXAMPLES


def as_they_are(image: Path, folder: Path) -> None:
    (folder / image.name).write_bytes(image.read_bytes())


def as_png(image: Path, folder: Path) -> None:
    with Image.open(image) as picture:
        picture.save(folder / f"{image.stem}.png")


def as_small_jpeg(image: Path, folder: Path) -> None:
    with Image.open(image) as picture:
        picture.save(folder / image.name, quality=50)


def at_half_size(image: Path, folder: Path) -> None:
    with Image.open(image) as picture:
        picture.resize((picture.width // 2, picture.height // 2)).save(folder / f"{image.stem}.png")


def with_flat_highlights(image: Path, folder: Path) -> None:
    from train.audit import COUNTERFACTUALS  # slow to import

    with Image.open(image) as picture:
        (folder / f"{image.stem}.png").write_bytes(COUNTERFACTUALS["flat highlights"](picture.convert("L"), False))


@pytest.mark.slow
@pytest.mark.usefixtures("bundled")  # without it, the failure is the model's absence and not the command's
@pytest.mark.parametrize(
    ("save", "mistakes"),
    [(as_they_are, 1), (as_png, 1), (as_small_jpeg, 1), (at_half_size, 1), (with_flat_highlights, 2)],
)
def test_fifteen_of_sixteen_are_told_apart_and_no_mistake_is_a_sure_one(
    save: Callable[[Path, Path], None], mistakes: int, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for image in EXAMPLES:
        save(image, images)
    assert main(["score", str(images), "--out", str(tmp_path / "answers.csv")]) == 0
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert sum("bacteria" in row["path"] for row in rows) == 8
    wrong = [row for row in rows if (row["label"] != "NORMAL") != ("bacteria" in row["path"])]
    assert len(wrong) <= mistakes, wrong
    assert all(row["status"] == "uncertain" for row in wrong), wrong


@pytest.mark.slow
def test_the_same_image_saved_in_another_way_keeps_its_probability(bundled: Classifier, tmp_path: Path) -> None:
    shifts = []
    for image in EXAMPLES:
        as_small_jpeg(image, tmp_path)
        before, after = predict(bundled, image).p_pneumonia, predict(bundled, tmp_path / image.name).p_pneumonia
        assert before is not None
        assert after is not None
        shifts.append(abs(before - after))
    assert sum(shift < 0.1 for shift in shifts) >= 15, shifts
