"""Temperature, bias and operating points come from held-out images of all sources in several files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy import special
from sklearn.metrics import log_loss

from pneumocam import Classifier, load_radiograph, predict
from tests.conftest import SUBTYPES
from train.audit import variants
from train.calibrate import BAND_ERROR, FILES, calibrate, even_weights, fit_calibration, operating_points
from train.data import Manifest
from train.fit import Config

Points = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def points() -> tuple[np.ndarray, np.ndarray, Points]:
    rng = np.random.default_rng(0)
    ill = rng.random(5000) < 0.6
    pneumonia = special.expit(rng.normal(np.where(ill, 1.5, -1.5), 1.5))
    return ill, pneumonia, operating_points(ill, pneumonia, np.ones(5000))


def test_screening_finds_the_ill_and_rule_in_spares_the_healthy(points: tuple[np.ndarray, np.ndarray, Points]) -> None:
    ill, pneumonia, by_name = points
    assert by_name["screening"]["threshold"] < by_name["balanced"]["threshold"] < by_name["rule_in"]["threshold"]
    assert by_name["balanced"]["threshold"] == 0.5
    found = (pneumonia >= by_name["screening"]["threshold"])[ill].mean()
    spared = (pneumonia < by_name["rule_in"]["threshold"])[~ill].mean()
    assert 0.98 <= found < 0.981
    assert 0.98 <= spared < 0.981


def test_the_uncertain_band_is_the_widest_with_its_share_of_errors(
    points: tuple[np.ndarray, np.ndarray, Points],
) -> None:
    ill, pneumonia, by_name = points
    width = by_name["balanced"]["uncertain_log_odds"]
    for point in by_name.values():
        distance = np.abs(special.logit(pneumonia) - special.logit(point["threshold"]))
        wrong = (pneumonia >= point["threshold"]) != ill
        inside = distance < point["uncertain_log_odds"]
        assert point["uncertain_log_odds"] == width
        assert point["band"] == {"share": pytest.approx(inside.mean()), "error": pytest.approx(wrong[inside].mean())}
    distance = np.abs(special.logit(pneumonia))
    wrong = (pneumonia >= 0.5) != ill
    assert wrong[distance < width].mean() == pytest.approx(BAND_ERROR, abs=0.002)
    assert all(wrong[distance < factor * width].mean() < BAND_ERROR for factor in (1.05, 1.2, 2.0))


def test_where_nothing_is_mistaken_nothing_is_uncertain_and_thresholds_are_at_even_odds() -> None:
    ill = np.array([True, True, False, False])
    by_name = operating_points(ill, np.array([1.0, 0.9, 0.1, 0.0]), np.ones(4))
    assert {point["threshold"] for point in by_name.values()} == {0.5}
    assert {point["uncertain_log_odds"] for point in by_name.values()} == {0}


def test_images_count_by_their_weight() -> None:
    rng = np.random.default_rng(0)
    ill = rng.random(4000) < 0.5
    pneumonia = special.expit(rng.normal(np.where(ill, 1, -1), 1))
    weights = rng.integers(0, 4, 4000).astype(float)
    repeated = np.repeat(np.arange(4000), weights.astype(int))
    by_weight = operating_points(ill, pneumonia, weights)
    by_number = operating_points(ill[repeated], pneumonia[repeated], np.ones(len(repeated)))
    for name, point in by_weight.items():
        assert point["threshold"] == by_number[name]["threshold"]
        assert point["uncertain_log_odds"] == pytest.approx(by_number[name]["uncertain_log_odds"], abs=0.02)


def test_every_source_counts_the_same_and_pneumonia_is_half_of_it() -> None:
    rows = [*[("a", "NORMAL")] * 6, *[("a", "VIRAL")] * 3, ("a", "BACTERIAL"), *[("b", "NORMAL")] * 2]
    rows += [*[("b", "PNEUMONIA")] * 5, ("healthy", "NORMAL")]
    weights = even_weights(*zip(*rows, strict=True))
    assert weights.sum() == pytest.approx(1)
    assert weights == pytest.approx([*[1 / 24] * 6, *[1 / 24] * 3, 1 / 8, *[1 / 8] * 2, *[1 / 20] * 5, 0])


def test_temperature_and_bias_are_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20000, 3))
    p = special.softmax(logits, axis=1)
    labels = (p.cumsum(1) < rng.random((20000, 1))).sum(1)
    unknown = (rng.random(20000) < 0.3) & (labels > 0)
    labels[unknown] = 3
    distorted = 2.5 * (logits - 0.7 * np.array([0, 1, 1]))
    temperature, bias = fit_calibration(distorted, labels, np.full(20000, 1 / 20000), SUBTYPES)
    assert temperature == pytest.approx(2.5, rel=0.05)
    assert bias == pytest.approx(0.7, abs=0.05)


def test_a_finished_run_is_calibrated_on_its_images_in_several_files(trained: Config, tmp_path: Path) -> None:
    root = Path(trained.data[0])
    bundle = Path(shutil.copytree(trained.out / "bundle", tmp_path / "bundle"))
    images = list(Manifest.read(trained.out / "manifest.csv", [root]).split("val"))
    # Two wrong labels, since no temperature is the best one for predictions that are all right.
    wrong = {next(i for i, image in enumerate(images) if image.label == label): label for label in ("NORMAL", "VIRAL")}
    for i, label in wrong.items():
        images[i] = replace(images[i], label="VIRAL" if label == "NORMAL" else "NORMAL")
    calibrate(bundle, images, [root])
    description = json.loads((bundle / "pneumocam.json").read_text())
    assert set(description["operating_points"]) == {"screening", "balanced", "rule_in"}
    assert description["prior"] == {"NORMAL": 0.5, "BACTERIAL": 0.25, "VIRAL": 0.25}

    paths, ill = [root / image.path for image in images], [image.label != "NORMAL" for image in images]
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    files: list[Path | bytes] = [*paths, *(data for name in FILES for data in variants(name, paths, ill))]
    given = np.array([list(predict(classifier, file).probabilities.values()) for file in files])
    truth = [SUBTYPES.index(image.label) for image in images] * (1 + len(FILES))
    weights = np.tile(even_weights(["one"] * len(images), [image.label for image in images]), 1 + len(FILES))

    def loss(factor: float, bias: float) -> float:
        logits = np.log(given.clip(1e-300)) / factor + bias * np.array([0, 1, 1])
        return float(log_loss(truth, special.softmax(logits, axis=1), labels=range(3), sample_weight=weights))

    others = [loss(factor, bias) for factor, bias in ((0.8, 0), (1.25, 0), (1, 0.4), (1, -0.4))]
    assert loss(1, 0) <= min(others) + 1e-4

    # Calibrating again starts from where it is, and ends there.
    calibrate(bundle, images, [root])
    again = json.loads((bundle / "pneumocam.json").read_text())
    assert again["temperature"] == pytest.approx(description["temperature"], rel=0.02)
    assert again["training"] == description["training"]


def test_timm_alone_decides_as_the_calibrated_bundle_does(trained: Config) -> None:
    root = Path(trained.data[0])
    network = timm.create_model(f"local-dir:{trained.out / 'bundle'}", pretrained=True).eval()
    classifier = Classifier.from_pretrained(f"local-dir:{trained.out / 'bundle'}")
    for path in sorted(root.rglob("*.jpeg"))[::6]:
        with torch.no_grad():
            logits = network(classifier.transform(load_radiograph(path))[None])[0].double() / classifier.temperature
        expected = list(predict(classifier, path).probabilities.values())
        assert logits.softmax(0).tolist() == pytest.approx(expected, abs=1e-4)
