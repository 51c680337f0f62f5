"""Labels exchanged on purpose are found by networks that never saw them, and left out or put right on request."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from pneumocam import Classifier, predict
from tests.conftest import write_kaggle_folder
from train.data import DataError, LabelledImage, Manifest
from train.fit import Config as TrainingConfig
from train.fit import fit
from train.noise import Compare, Find, Folds, compare, find, folds, suspects_of, write_manifests

EXCHANGED = ("IM-0003-0001.jpeg", "IM-0010-0001.jpeg")  # normal images that the folder calls bacterial


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_kaggle_folder(tmp_path_factory.mktemp("mislabelled"), 24)
    for i, name in enumerate(EXCHANGED):
        shutil.move(
            data / "train" / "NORMAL" / name, data / "train" / "PNEUMONIA" / f"person{900 + i}_bacteria_{i}.jpeg"
        )
    return data


@pytest.fixture(scope="module")
def found(mislabelled: Path, trained: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the manifests, the runs of both folds and what was found."""
    out = tmp_path_factory.mktemp("noise")
    manifests = folds(Folds((str(mislabelled),), folds=2, out=out))
    quick = replace(trained, data=(str(mislabelled),), calibrate=False, epochs=2)
    for path in manifests:
        fit(replace(quick, manifest=path, out=out / path.stem))
    find(Find((out / "fold-0", out / "fold-1"), out))
    return out


def test_each_training_image_is_held_out_once_and_no_patient_is_in_two_folds(found: Path, mislabelled: Path) -> None:
    whole = Manifest.read(found / "all.csv", [mislabelled])
    parts = [Manifest.read(found / f"fold-{k}.csv", [mislabelled]) for k in (0, 1)]
    held = [image.path for part in parts for image in part.split("val")]
    assert sorted(held) == sorted(image.path for image in whole.split("train"))
    groups = [{image.group for image in part.split("val")} for part in parts]
    assert groups[0]
    assert groups[1]
    assert not groups[0] & groups[1]
    for part in parts:
        excluded = [image.path for image in part.split("excluded")]
        assert excluded == [image.path for image in whole.split("val")]


def test_what_was_found_is_consistent_in_all_files(found: Path, mislabelled: Path) -> None:
    with (found / "suspects.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["p_label"]) for row in rows] == sorted(float(row["p_label"]) for row in rows)
    by_question = {q: {row["path"] for row in rows if row["question"] == q} for q in ("pneumonia", "subtype")}
    assert {image.path for image in Manifest.read(found / "dropped.csv", [mislabelled]).split("excluded")} == (
        by_question["pneumonia"]
    )
    assert {image.path for image in Manifest.read(found / "dropped-both.csv", [mislabelled]).split("excluded")} == (
        by_question["pneumonia"] | by_question["subtype"]
    )
    with Image.open(found / "suspects.png") as sheet:
        assert sheet.width > 1000


def test_exchanged_labels_are_found_left_out_and_put_right(found: Path, mislabelled: Path, tmp_path: Path) -> None:
    whole = Manifest.read(found / "all.csv", [mislabelled])
    images = whole.split("train")
    exchanged = {image.path for image in images if "person90" in image.path}
    assert exchanged
    classes = ("NORMAL", "BACTERIAL", "VIRAL")
    true = ["NORMAL" if image.path in exchanged else image.label for image in images]
    rng = np.random.default_rng(0)
    weights = np.array([[20.0 if label == name else 1.0 for name in classes] for label in true])  # (N, 3)
    weights[[image.path not in exchanged for image in images]] += rng.uniform(0, 5, 3)  # less sure of all others
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    suspects = suspects_of(images, probabilities, classes)
    assert {(s.path, s.question, s.label, s.suggested) for s in suspects if s.question == "pneumonia"} == {
        (path, "pneumonia", "BACTERIAL", "NORMAL") for path in exchanged
    }
    assert all(s.p_label < 0.3 for s in suspects if s.question == "pneumonia")

    write_manifests(whole, suspects, tmp_path)
    dropped = Manifest.read(tmp_path / "dropped.csv", [mislabelled])
    assert {image.path for image in dropped.split("excluded")} == exchanged
    relabelled = Manifest.read(tmp_path / "relabelled.csv", [mislabelled])
    assert {image.label for image in relabelled.images if image.path in exchanged} == {"NORMAL"}
    assert [image.label for image in relabelled.split("val")] == [image.label for image in whole.split("val")]


def test_runs_are_compared_by_their_manifest(found: Path, mislabelled: Path) -> None:
    out = found / "noise.json"
    rows = compare(Compare((found / "fold-0", found / "fold-1"), out=out, resamples=20))
    assert json.loads(out.read_text()) == rows
    assert [(row["manifest"], row["seeds"]) for row in rows] == [("fold-0", 1), ("fold-1", 1)]
    for k, row in enumerate(rows):
        held = Manifest.read(found / f"fold-{k}.csv", [mislabelled]).split("val")
        classifier = Classifier.from_pretrained(f"local-dir:{found / f'fold-{k}' / 'bundle'}")
        given = [predict(classifier, mislabelled / image.path).p_pneumonia for image in held if image.label != "NORMAL"]
        assert row["n"] == len(held)
        assert row["sensitivity"]["value"] == pytest.approx(np.mean([p is not None and p >= 0.5 for p in given]))
        assert (row["arch"], row["image_size"], row["gain"]) == ("test_resnet", 64, None)  # each has other images
        with FlopCounterMode(display=False) as counter:
            classifier.network(torch.zeros(1, 1, 64, 64))
        assert row["gflop"] == pytest.approx(counter.get_total_flops() / 1e9, abs=5e-4)


def test_a_gain_is_that_over_the_first_row_on_the_same_images(found: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(found / "fold-0", tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"manifest": str(tmp_path / "other.csv")}))
    weights = load_file(other / "bundle" / "model.safetensors")
    for name in ("fc.weight", "fc.bias"):
        weights[name] *= -1  # the opposite of every answer
    save_file(weights, other / "bundle" / "model.safetensors")
    first, second = compare(Compare((found / "fold-0", other), out=tmp_path / "noise.json", resamples=20))
    assert first["gain"] is None
    assert second["gain"]["value"] == pytest.approx(second["auroc"]["value"] - first["auroc"]["value"])
    assert second["gain"]["high"] < 0


def test_a_fold_left_out_or_given_twice_is_an_error(found: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="have no prediction"):
        find(Find((found / "fold-0",), found))
    with pytest.raises(DataError, match="validated by several"):
        find(Find((found / "fold-0", found / "fold-0"), found))
    with pytest.raises(DataError, match="no finished run"):
        find(Find((tmp_path / "absent",), found))


def test_a_source_without_subtypes_is_asked_for_pneumonia_alone() -> None:
    rng = np.random.default_rng(0)
    labels = ["NORMAL", "PNEUMONIA"] * 50
    p_normal = np.where(np.array(labels) == "NORMAL", 0.95, 0.05) + rng.uniform(-0.04, 0.04, 100)
    labels[6], labels[7] = "PNEUMONIA", "NORMAL"  # against their probabilities
    probabilities = np.stack([p_normal, (1 - p_normal) * 0.7, (1 - p_normal) * 0.3], axis=1)  # (100, 3)
    images = [
        LabelledImage("adults", f"{i}.png", 0, "", label, str(i), str(i), str(i)) for i, label in enumerate(labels)
    ]
    suspects = suspects_of(images, probabilities, ("NORMAL", "BACTERIAL", "VIRAL"))
    assert {(s.path, s.question, s.label, s.suggested) for s in suspects} == {
        ("6.png", "pneumonia", "PNEUMONIA", "NORMAL"),
        ("7.png", "pneumonia", "NORMAL", "PNEUMONIA"),
    }
