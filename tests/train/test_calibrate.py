"""Temperature and operating points come from held-out films in every file that they might come in."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import log_loss

from pneumocam import Classifier, predict
from tests.conftest import SUBTYPES
from train.audit import COUNTERFACTUALS, variants
from train.calibrate import calibrate, operating_points
from train.data import Manifest
from train.fit import Config


@pytest.fixture(scope="module")
def points() -> tuple[np.ndarray, np.ndarray, dict[str, dict[str, float]]]:
    rng = np.random.default_rng(0)
    ill = rng.random(5000) < 0.6
    pneumonia = special.expit(rng.normal(np.where(ill, 1.5, -1.5), 1.5))
    return ill, pneumonia, operating_points(ill, pneumonia)


def test_screening_finds_the_ill_and_rule_in_spares_the_healthy(
    points: tuple[np.ndarray, np.ndarray, dict[str, dict[str, float]]],
) -> None:
    ill, pneumonia, by_name = points
    assert by_name["screening"]["threshold"] < by_name["balanced"]["threshold"] < by_name["rule_in"]["threshold"]
    assert by_name["balanced"]["threshold"] == 0.5
    found = (pneumonia >= by_name["screening"]["threshold"])[ill].mean()
    spared = (pneumonia < by_name["rule_in"]["threshold"])[~ill].mean()
    assert 0.98 <= found < 0.981
    assert 0.98 <= spared < 0.981


def test_a_tenth_of_the_films_is_too_near_to_call(
    points: tuple[np.ndarray, np.ndarray, dict[str, dict[str, float]]],
) -> None:
    _, pneumonia, by_name = points
    for point in by_name.values():
        distance = np.abs(special.logit(pneumonia) - special.logit(point["threshold"]))
        assert (distance < point["uncertain_log_odds"]).mean() == pytest.approx(0.1, abs=0.001)


def test_where_nothing_is_mistaken_all_lines_are_at_even_odds_or_beyond_what_they_must_spare() -> None:
    ill = np.array([True, True, False, False])
    by_name = operating_points(ill, np.array([1.0, 0.9, 0.1, 0.0]))
    assert {point["threshold"] for point in by_name.values()} == {0.5}


def test_a_finished_run_is_calibrated_on_its_films_and_their_counterfactuals(trained: Config, tmp_path: Path) -> None:
    root = Path(trained.data[0])
    bundle = Path(shutil.copytree(trained.out / "bundle", tmp_path / "bundle"))
    description = json.loads((bundle / "pneumocam.json").read_text())
    assert set(description["operating_points"]) == {"screening", "balanced", "rule_in"}
    temperature = description["temperature"]

    films = Manifest.read(trained.out / "manifest.csv", [root]).split("val")
    paths, ill = [root / film.path for film in films], [film.label != "NORMAL" for film in films]
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    sources: list[Path | bytes] = [*paths, *(data for name in COUNTERFACTUALS for data in variants(name, paths, ill))]
    answers = np.array([list(predict(classifier, source).probabilities.values()) for source in sources])
    truth = [SUBTYPES.index(film.label) for film in films] * (1 + len(COUNTERFACTUALS))
    losses = [
        log_loss(truth, special.softmax(np.log(answers.clip(1e-300)) / factor, axis=1), labels=range(3))
        for factor in (1, 0.8, 1.25)
    ]
    assert losses[0] <= min(losses[1:]) + 1e-6

    # Calibrating again starts from where it is, and ends there.
    weights = (bundle / "model.safetensors").read_bytes()
    calibrate(bundle, films, [root])
    again = json.loads((bundle / "pneumocam.json").read_text())
    assert again["temperature"] == pytest.approx(temperature, rel=1e-3)
    assert again["training"] == description["training"]
    assert (bundle / "model.safetensors").read_bytes() == weights
