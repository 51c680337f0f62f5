"""The bundled model on sixteen raw radiographs, through the command line, whatever they were saved as."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pneumocam import Classifier, predict
from pneumocam.cli import main
from tests.conftest import EXAMPLES
from train.audit import COUNTERFACTUALS


def as_they_are(film: Path, folder: Path) -> None:
    (folder / film.name).write_bytes(film.read_bytes())


def as_png(film: Path, folder: Path) -> None:
    with Image.open(film) as picture:
        picture.save(folder / f"{film.stem}.png")


def as_small_jpeg(film: Path, folder: Path) -> None:
    with Image.open(film) as picture:
        picture.save(folder / film.name, quality=50)


def with_flat_highlights(film: Path, folder: Path) -> None:
    with Image.open(film) as picture:
        (folder / f"{film.stem}.png").write_bytes(COUNTERFACTUALS["flat highlights"](picture.convert("L"), False))


@pytest.mark.slow
@pytest.mark.usefixtures("bundled")  # without it, the failure is the model's absence and not the command's
@pytest.mark.parametrize("save", [as_they_are, as_png, as_small_jpeg, with_flat_highlights])
def test_fourteen_of_sixteen_are_told_apart_and_no_mistake_is_a_sure_one(
    save: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    films = tmp_path / "films"
    films.mkdir()
    for film in EXAMPLES:
        save(film, films)
    assert main(["score", str(films), "--out", str(tmp_path / "answers.csv")]) == 0
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert sum("bacteria" in row["path"] for row in rows) == 8
    wrong = [row for row in rows if (row["label"] != "NORMAL") != ("bacteria" in row["path"])]
    assert len(wrong) <= 2, wrong
    assert all(row["status"] == "uncertain" for row in wrong), wrong


@pytest.mark.slow
def test_the_same_film_saved_in_another_way_keeps_its_probability(bundled: Classifier, tmp_path: Path) -> None:
    shifts = []
    for film in EXAMPLES:
        as_small_jpeg(film, tmp_path)
        before, after = predict(bundled, film).p_pneumonia, predict(bundled, tmp_path / film.name).p_pneumonia
        assert before is not None
        assert after is not None
        shifts.append(abs(before - after))
    assert sum(shift < 0.1 for shift in shifts) >= 15, shifts
