"""Probabilities for a stated prevalence, uncertain predictions in words, and predictions inside of PyTorch's modes."""

import errno
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pneumocam import BundleError, Classifier, InternalError, OperatingPoint, Prediction, predict, predict_many
from pneumocam.bundle import read_description, write_description
from pneumocam.predict import try_predict
from tests.conftest import EXAMPLES

MakeBundle = Callable[..., Any]
PRIOR = {"NORMAL": 0.4, "BACTERIAL": 0.35, "VIRAL": 0.25}
IMAGE = np.random.default_rng(0).integers(0, 255, (70, 90)).astype(np.uint8)


@pytest.fixture
def stated(make_bundle: MakeBundle) -> Classifier:
    """A model that states its prior: 60% pneumonia."""
    bundle = make_bundle("test_resnet")
    write_description(bundle, read_description(bundle).model_copy(update={"prior": PRIOR}))
    return Classifier.from_pretrained(f"local-dir:{bundle}")


def log_odds(p: float | None) -> float:
    assert p is not None
    return math.log(p / (1 - p))


def test_a_prevalence_shifts_the_log_odds_and_keeps_the_ratio_of_the_subtypes(stated: Classifier) -> None:
    calibrated = predict(stated, IMAGE, prevalence=0.6)  # the prior's own
    assert calibrated.probabilities == pytest.approx(predict(replace(stated, prior=None), IMAGE).probabilities)
    for prevalence in (0.05, 0.5, 0.9):
        prediction = predict(stated, IMAGE, prevalence=prevalence)
        shift = log_odds(prevalence) - log_odds(0.6)
        assert log_odds(prediction.p_pneumonia) == pytest.approx(log_odds(calibrated.p_pneumonia) + shift)
        ratio = prediction.probabilities["BACTERIAL"] / prediction.probabilities["VIRAL"]
        assert ratio == pytest.approx(calibrated.probabilities["BACTERIAL"] / calibrated.probabilities["VIRAL"])
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert prediction.prevalence == prediction.to_dict()["prevalence"] == prevalence
        assert calibrated.at(prevalence=prevalence).probabilities == prediction.probabilities
    assert predict(stated, IMAGE).prevalence == 0.5


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, 50, math.nan])
def test_a_prevalence_outside_of_0_to_1_is_refused(stated: Classifier, prevalence: float) -> None:
    with pytest.raises(ValueError, match=r"prevalence is .*; expected a share between 0 and 1"):
        predict(stated, IMAGE, prevalence=prevalence)


def test_a_model_without_a_prior_has_no_prevalence(make_bundle: MakeBundle) -> None:
    bundle = make_bundle("test_resnet")
    write_description(bundle, read_description(bundle).model_copy(update={"prior": None}))
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    assert predict(classifier, IMAGE).to_dict()["prevalence"] is None
    with pytest.raises(ValueError, match="the bundle of this model does not state its prior"):
        predict(classifier, IMAGE, prevalence=0.3)


def test_a_prior_of_other_labels_is_an_error(make_bundle: MakeBundle) -> None:
    bundle = make_bundle("test_resnet")
    prior = {"NORMAL": 0.5, "PNEUMONIA": 0.5}
    write_description(bundle, read_description(bundle).model_copy(update={"prior": prior}))
    with pytest.raises(BundleError, match="prior names NORMAL, PNEUMONIA; expected NORMAL, BACTERIAL, VIRAL"):
        Classifier.from_pretrained(f"local-dir:{bundle}")


def test_an_uncertain_prediction_says_what_it_leans_to_and_how_often_such_were_wrong(stated: Classifier) -> None:
    p = predict(stated, IMAGE).p_pneumonia
    assert p is not None
    for threshold, leaning in ((0.999, f"normal ({1 - p:.0%})"), (0.001, f"pneumonia ({p:.0%})")):
        point = OperatingPoint("wide", threshold, 100.0, uncertain_error=0.28)
        reason = predict(replace(stated, operating_point=point), IMAGE).reason
        assert reason
        assert reason.message == f"Uncertain, leaning {leaning}. In testing, 28% of such predictions were wrong."


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InternalError("No process."), "internal_error"),
        (MemoryError(), "internal_error"),
        (OSError(errno.EIO, "Input/output error"), "unreadable_file"),
    ],
)
def test_a_failure_of_the_service_is_not_the_image_s(stated: Classifier, error: Exception, code: str) -> None:
    def fail(_: object) -> Any:
        raise error

    prediction = try_predict(stated, IMAGE, fail)
    assert prediction.status == "rejected"
    assert prediction.reason
    assert prediction.reason.code == code
    (streamed,) = predict_many(stated, ["image"], load=fail)
    assert streamed.reason == prediction.reason


def explained(prediction: Prediction) -> tuple[dict[str, float], np.ndarray]:
    return dict(prediction.probabilities), prediction.explain("BACTERIAL").cam


def test_inference_mode_changes_nothing(bundled: Classifier) -> None:
    expected = explained(predict(bundled, EXAMPLES[0]))
    with torch.inference_mode():
        prediction = predict(bundled, EXAMPLES[0])
        inside = explained(prediction)
        loaded = Classifier.from_pretrained()
        prediction.overlay()
    for probabilities, cam in (inside, explained(prediction), explained(predict(loaded, EXAMPLES[0]))):
        assert probabilities == expected[0]
        np.testing.assert_array_equal(cam, expected[1])


def test_another_default_precision_changes_nothing(bundled: Classifier) -> None:
    expected = explained(predict(bundled, EXAMPLES[0]))
    torch.set_default_dtype(torch.float64)
    try:
        found = explained(predict(bundled, EXAMPLES[0]))
        loaded = explained(predict(Classifier.from_pretrained(), EXAMPLES[0]))
    finally:
        torch.set_default_dtype(torch.float32)
    for probabilities, cam in (found, loaded):
        assert probabilities == pytest.approx(expected[0], abs=1e-5)
        np.testing.assert_allclose(cam, expected[1], atol=1e-4)
