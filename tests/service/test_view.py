"""What the page is given: the numbers and maps of `Prediction`, what was measured, and files that do no harm."""

import base64
import csv
import io
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import view
from pneumocam import Classifier, Prediction, predict
from tests.conftest import EXAMPLES

FILM = next(film for film in EXAMPLES if "bacteria" in film.name)


@pytest.fixture(scope="module")
def prediction(bundled: Classifier) -> Prediction:
    return predict(bundled, FILM)


def test_a_row_has_every_operating_points_answer_and_every_classs_map(
    bundled: Classifier, prediction: Prediction
) -> None:
    row = json.loads(json.dumps(view.row(bundled, "film.jpeg", prediction)))
    assert row["name"] == "film.jpeg"
    assert row["points"] == {
        name: json.loads(json.dumps(predict(bundled.at(name), FILM).to_dict())) for name in bundled.operating_points
    }
    assert list(row["maps"]) == ["NORMAL", "BACTERIAL", "VIRAL", "PNEUMONIA"]
    for target, cam in row["maps"].items():
        expected = prediction.explain(target).cam
        np.testing.assert_allclose(cam, expected / expected.max(), atol=1e-5)
    with Image.open(FILM) as film:
        assert row["image"] == {"format": "JPEG", "width": film.width, "height": film.height, "steps": []}
        assert row["size"] == list(film.size)
        assert row["box"] == [0, 0, *film.size]


def test_an_empty_map_is_none(bundled: Classifier) -> None:
    for film in EXAMPLES:
        prediction = predict(bundled, film)
        maps = view.row(bundled, film.name, prediction)["maps"]
        assert {name for name, cam in maps.items() if cam is None} == {
            name for name in maps if prediction.explain(name).is_empty
        }


@pytest.mark.parametrize(("size", "expected"), [((900, 300), (512, 171)), ((100, 400), (100, 400))])
def test_a_picture_keeps_its_aspect_and_is_never_enlarged(
    bundled: Classifier, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    with Image.open(FILM) as film:
        radiograph = predict(bundled, film.convert("L").resize(size)).radiograph
    assert radiograph
    kind, data = view.picture(radiograph, 512).split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert (picture.mode, picture.size) == ("L", expected)


def test_the_band_is_where_the_model_says_that_it_does_not_know(bundled: Classifier) -> None:
    for name, point in bundled.operating_points.items():
        facts = view.facts(bundled)["points"][name]
        middle = math.log(point.threshold / (1 - point.threshold))
        for edge, side in zip(facts["band"], (-1, 1), strict=True):
            assert math.log(edge / (1 - edge)) - middle == pytest.approx(side * point.uncertain_log_odds)


def test_what_was_measured_is_told_at_its_own_threshold_only(bundled: Classifier) -> None:
    measured = (bundled.metrics or {})["operating_points"]
    for name, point in view.facts(bundled)["points"].items():
        assert point["measured"] == {key: measured[name][key]["value"] for key in point["measured"]}
    moved = {name: replace(point, threshold=point.threshold / 2) for name, point in bundled.operating_points.items()}
    foreign = replace(bundled, metrics={"operating_points": [1, 2], "n": 3})
    for other in (replace(bundled, operating_points=moved), replace(bundled, metrics=None), foreign):
        assert [point["measured"] for point in view.facts(other)["points"].values()] == [None] * 3


@pytest.mark.parametrize(
    ("content", "code"), [(b"Dear radiologist " * 20, "not_an_image"), (None, "unreadable_file"), (b"", "not_an_image")]
)
def test_what_cannot_be_read_is_rejected_with_its_reason(
    bundled: Classifier, tmp_path: Path, content: bytes | None, code: str
) -> None:
    if content is not None:
        (tmp_path / "film").write_bytes(content)
    prediction = view.answered(bundled, partial(predict, bundled), str(tmp_path / "film"))
    row = view.row(bundled, "film", prediction)
    assert row.keys() == {"name", "point", "points"}
    assert {answer["reason"]["code"] for answer in row["points"].values()} == {code}
    assert {answer["operating_point"]["name"] for answer in row["points"].values()} == set(bundled.operating_points)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        *(("+1", "'+1"), ("-1", "'-1"), ("@x", "'@x"), ("\t=1", "'=1"), ("a\rb\n=1", "a b =1"), ('a,"b', 'a,"b')),
    ],
)
def test_no_cell_is_a_formula(bundled: Classifier, prediction: Prediction, name: str, cell: str) -> None:
    table = view.table([view.row(bundled, name, prediction)], "balanced")
    (row,) = csv.DictReader(io.StringIO(table, newline=""))
    assert row["path"] == cell
    assert row["p_pneumonia"] == f"{prediction.p_pneumonia:.6f}"


def test_names_in_the_archive_are_harmless_and_distinct(
    bundled: Classifier, prediction: Prediction, tmp_path: Path
) -> None:
    names = ["../../etc/passwd", "C:\\films\\a.png", "a.png", "=b.png", "胸片.png", "...", "x" * 300 + ".png"]
    rows = [view.row(bundled, name, prediction) for name in names]
    archive = tmp_path / "films.zip"
    view.archive(archive, rows, [prediction] * len(rows), "screening", opacity=0.3, colour_map="viridis")
    with zipfile.ZipFile(archive) as file:
        stems = [n.removeprefix("overlays/").removesuffix(".overlay.png") for n in file.namelist() if "overlays/" in n]
        assert stems == ["passwd", "a.png", "a.png.2", "_b.png", "胸片.png", "film", "x" * 116 + ".png"]
        assert json.loads(file.read("predictions/passwd.json"))["operating_point"]["name"] == "screening"
        with Image.open(file.open("overlays/film.overlay.png")) as overlay:
            expected = prediction.at("screening").overlay(opacity=0.3, colour_map="viridis")
            np.testing.assert_array_equal(np.asarray(overlay), np.asarray(expected))


def test_the_examples_are_told_with_their_true_labels_and_the_models_answers(bundled: Classifier) -> None:
    examples = view.examples(bundled)
    assert [x["file"] for x in examples] == [film.name for film in EXAMPLES]
    assert sum(x["gallery"] for x in examples) == 6
    for example in examples:
        assert example["truth"] == ("NORMAL" if example["file"].startswith("NORMAL") else "BACTERIAL")
        assert example["label"] == predict(bundled, view.example_path(example["file"])).label


def test_a_model_of_two_classes_has_two_maps(make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle("test_resnet", labels=("NORMAL", "PNEUMONIA"), crop_mode="border")
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    row = view.row(classifier, "film", predict(classifier, FILM))
    assert list(row["maps"]) == view.facts(classifier)["targets"] == ["NORMAL", "PNEUMONIA"]
    assert row["box"][1] < 0  # the map reaches beyond the film, where the preprocessing pads
