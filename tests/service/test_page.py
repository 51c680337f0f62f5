"""The page's JSON and downloads, made in Python."""

import csv
import io
import json
import math
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pneumocam import Classifier, Prediction, predict
from pneumocam.service import page
from tests.conftest import EXAMPLES, blind

IMAGE = EXAMPLES[0]


@pytest.fixture(scope="module")
def prediction(bundled: Classifier) -> Prediction:
    return predict(bundled, IMAGE)


def facts(classifier: Classifier) -> page.Json:
    return page.facts(classifier, None, 32, 20)


def test_maps_are_on_one_scale(bundled: Classifier, prediction: Prediction) -> None:
    row = page.row_of(prediction, "a")
    assert row["point"] == bundled.operating_point.name
    strongest = max(prediction.explain(label).cam.max() for label in bundled.label_names)
    for target, cells in row["maps"].items():
        saliency = prediction.explain(target)
        assert (cells is None) == saliency.is_empty
        if cells is not None:
            np.testing.assert_allclose(cells, saliency.cam / max(strongest, saliency.cam.max()), atol=1e-5)
        said = {"word": saliency.quality, "inside": saliency.inside, "expected": saliency.expected_inside}
        assert row["map_quality"][target] == said
    assert row["image"] == {"format": "JPEG", "width": row["size"][0], "height": row["size"][1], "steps": []}


def test_the_lung_fields_are_outlined_in_pixels_of_the_image(prediction: Prediction) -> None:
    row = page.row_of(prediction, "a")
    width, height = row["size"]
    assert len(row["lungs"]) == 2
    mask = Image.new("1", (width, height))
    for polygon in row["lungs"]:
        ImageDraw.Draw(mask).polygon(polygon, 1)
    share = prediction.explain().expected_inside
    assert np.asarray(mask).mean() == pytest.approx(share, abs=0.01)


def test_an_empty_map_is_none(bundled: Classifier) -> None:
    row = page.row_of(predict(blind(bundled), IMAGE), "a")
    assert set(row["maps"].values()) == {None}
    assert {one["word"] for one in row["map_quality"].values()} == {"empty"}
    assert "lungs" not in row


@pytest.mark.parametrize(("size", "expected"), [((900, 300), (512, 171)), ((100, 400), (100, 400))])
def test_a_picture_keeps_its_aspect_and_is_never_enlarged(
    bundled: Classifier, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    with Image.open(IMAGE) as image:
        radiograph = predict(bundled, image.convert("L").resize(size)).radiograph
    assert radiograph
    with Image.open(io.BytesIO(page.picture(radiograph, 512))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "L", expected)


def test_the_band_is_where_a_prediction_is_uncertain(bundled: Classifier) -> None:
    for name, point in bundled.operating_points.items():
        middle = math.log(point.threshold / (1 - point.threshold))
        for edge, side in zip(facts(bundled)["points"][name]["band"], (-1, 1), strict=True):
            assert math.log(edge / (1 - edge)) - middle == pytest.approx(side * point.uncertain_log_odds)


def test_what_was_measured_is_told_at_its_own_threshold_only(bundled: Classifier) -> None:
    measured = (bundled.metrics or {})["operating_points"]
    for name, point in facts(bundled)["points"].items():
        assert point["measured"] == {key: measured[name][key]["value"] for key in point["measured"]}
    moved = {name: replace(point, threshold=point.threshold / 2) for name, point in bundled.operating_points.items()}
    foreign = replace(bundled, metrics={"operating_points": [1, 2], "n": 3})
    for other in (replace(bundled, operating_points=moved), replace(bundled, metrics=None), foreign):
        assert [point["measured"] for point in facts(other)["points"].values()] == [None] * 3


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        *(("+1", "'+1"), ("-1", "'-1"), ("@x", "'@x"), ("\t=1", "'=1"), ("a\rb\n=1", "a b =1"), ('a,"b', 'a,"b')),
    ],
)
def test_no_cell_is_a_formula(prediction: Prediction, name: str, cell: str) -> None:
    rows = page.row_of(prediction, name)["table"]
    (row,) = csv.DictReader(io.StringIO(page.table([rows["balanced"]]), newline=""))
    assert row["path"] == cell
    assert row["p_pneumonia"] == f"{prediction.p_pneumonia:.6f}"


def test_names_in_the_archive_are_harmless_and_distinct(prediction: Prediction) -> None:
    names = ["../../etc/passwd", "C:\\x\\a.png", "a.png", "=b.png", "胸片.png", "...", "x" * 300 + ".png"]
    entries = [page.Entry({}, {"path": name, **prediction.to_dict()}, b"PNG") for name in names]
    with zipfile.ZipFile(io.BytesIO(page.archive(entries))) as file:
        stems = [n.removeprefix("overlays/").removesuffix(".overlay.png") for n in file.namelist() if "overlays/" in n]
        assert stems == ["passwd", "a.png", "a.png.2", "_b.png", "胸片.png", "image", "x" * 116 + ".png"]
        assert json.loads(file.read("predictions/passwd.json")) == entries[0].prediction


def test_the_examples_come_with_their_true_labels_and_the_models_predictions(bundled: Classifier) -> None:
    for example, thumbnail in page.examples(bundled):
        assert example["truth"] == ("NORMAL" if example["file"].startswith("NORMAL") else "BACTERIAL")
        assert example["label"] == predict(bundled, page.example(example["file"])).label
        with Image.open(io.BytesIO(thumbnail)) as image:
            assert max(image.size) == 320


def test_a_model_of_two_classes_has_two_maps(make_bundle: Callable[..., Path]) -> None:
    bundle = make_bundle("test_resnet", labels=("NORMAL", "PNEUMONIA"), crop_mode="border")
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    row = page.row_of(predict(classifier, IMAGE), "a")
    assert list(row["maps"]) == facts(classifier)["targets"] == ["NORMAL", "PNEUMONIA"]
    assert row["box"][1] < 0  # the map reaches beyond the image, where the preprocessing pads
