"""The figures against scikit-learn, against arithmetic done by hand, and against what an interval has to be."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from train import metrics
from train.metrics import (
    binary_probability,
    bootstrap,
    decide,
    evaluate,
    expected_calibration_error,
    expected_error_of_calibrated,
    rate,
    reliability,
    risk_coverage,
)

THREE = ("NORMAL", "BACTERIAL", "VIRAL")
TWO = ("NORMAL", "PNEUMONIA")
UNDEFINED = {"value": None, "low": None, "high": None}

Split = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def split(n: int = 240, classes: int = 3, *, seed: int = 0, decimals: int = 2) -> Split:
    """Labels, probabilities that know something of them and have ties, and patients with a few images each."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]
    probabilities = np.round(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), decimals)
    probabilities[:, -1] = 1 - probabilities[:, :-1].sum(axis=1)
    return labels, probabilities.clip(0, 1), rng.integers(n // 3, size=n)


def by_scikit_learn(
    labels: NDArray[Any], probabilities: NDArray[Any], names: tuple[str, ...], threshold: float, weight: NDArray[Any]
) -> dict[str, float]:
    """Every figure that scikit-learn has, one call each, by its path in the report."""
    kept: dict[str, Any] = {"sample_weight": weight}
    answer, score = decide(probabilities, names, threshold), binary_probability(probabilities, names)
    ill, positive = labels != names.index("NORMAL"), score >= threshold
    alarms, found, _ = sk.roc_curve(ill, score, drop_intermediate=False, **kept)
    reference = {
        "multiclass.accuracy": sk.accuracy_score(labels, answer, **kept),
        "multiclass.balanced_accuracy": sk.balanced_accuracy_score(labels, answer, **kept),
        "binary.accuracy": sk.accuracy_score(ill, positive, **kept),
        "binary.precision": sk.precision_score(ill, positive, **kept),
        "binary.recall": sk.recall_score(ill, positive, **kept),
        "binary.sensitivity": sk.recall_score(ill, positive, **kept),
        "binary.specificity": sk.recall_score(ill, positive, pos_label=False, **kept),
        "binary.f1": sk.f1_score(ill, positive, **kept),
        "binary.macro_f1": sk.f1_score(ill, positive, average="macro", **kept),
        "binary.auroc": sk.roc_auc_score(ill, score, **kept),
        "binary.specificity_at_sensitivity_97": 1 - alarms[(found >= 0.97 - 1e-9).argmax()],
        "binary.brier": sk.brier_score_loss(ill, score, **kept),
    }
    for name, value in zip(
        ("precision", "recall", "f1"),
        sk.precision_recall_fscore_support(labels, answer, average="macro", **kept),
        strict=False,
    ):
        reference[f"multiclass.macro_{name}"] = value
    for name, values in zip(
        ("precision", "recall", "f1"), sk.precision_recall_fscore_support(labels, answer, **kept), strict=False
    ):
        reference |= {f"multiclass.per_class.{label}.{name}": values[k] for k, label in enumerate(names)}
    reference |= {
        f"multiclass.per_class.{label}.auroc": sk.roc_auc_score(labels == k, probabilities[:, k], **kept)
        for k, label in enumerate(names)
    }
    if names == THREE:
        reference["multiclass.macro_auroc"] = sk.roc_auc_score(labels, probabilities, multi_class="ovr", **kept)
        share = probabilities[ill, 1] / (probabilities[ill, 1] + probabilities[ill, 2])
        reference["subtype.auroc"] = sk.roc_auc_score(labels[ill] == 1, share, sample_weight=weight[ill])
    return reference


def figures(report: dict[str, Any], path: str = "") -> dict[str, dict[str, float]]:
    if "value" in report:
        return {path.removeprefix("."): report}
    return {
        name: figure
        for key, inner in report.items()
        if isinstance(inner, dict)
        for name, figure in figures(inner, f"{path}.{key}").items()
        if key != "class_counts"
    }


def width(figure: dict[str, float]) -> float:
    return figure["high"] - figure["low"]


# --- the two answers -------------------------------------------------------------------------------------------------


def test_binary_probability_is_the_sum_of_the_classes_that_are_not_normal() -> None:
    np.testing.assert_allclose(binary_probability([[0.2, 0.5, 0.3], [0.9, 0.0, 0.1]], THREE), [0.8, 0.1])
    np.testing.assert_allclose(binary_probability([[0.2, 0.8]], ("PNEUMONIA", "NORMAL")), [0.2])


def test_binary_probability_never_exceeds_one() -> None:
    row = np.array([[0.0, 0.5, 0.5 + 2**-11]], dtype=np.float16)
    assert binary_probability(row, THREE) == [1.0]


def test_decide_follows_the_threshold_where_argmax_would_not() -> None:
    # NORMAL is the likeliest of the three in both rows, yet pneumonia is likelier than not in the first.
    rows = [[0.4, 0.35, 0.25], [0.6, 0.1, 0.3]]
    assert decide(rows, THREE, 0.5).tolist() == [1, 0]
    assert decide(rows, THREE, 0.4).tolist() == [1, 2]
    assert decide(rows, ("VIRAL", "NORMAL", "BACTERIAL"), 0.7).tolist() == [1, 0]


def test_decide_counts_a_probability_on_the_threshold_as_pneumonia() -> None:
    assert decide([[0.5, 0.5]], TWO, 0.5).tolist() == [1]


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(0.001, 1)),
    st.permutations(THREE),
    st.floats(0, 1),
)
def test_the_label_and_the_binary_answer_never_contradict_each_other(
    odds: NDArray[np.float64], names: list[str], threshold: float
) -> None:
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    answer, normal = decide(probabilities, names, threshold), names.index("NORMAL")
    pneumonia = binary_probability(probabilities, names) >= threshold
    np.testing.assert_array_equal(answer != normal, pneumonia)
    rivals = np.delete(probabilities, normal, axis=1).max(axis=1)
    np.testing.assert_array_equal(probabilities[np.arange(len(answer)), answer][pneumonia], rivals[pneumonia])


# --- calibration -----------------------------------------------------------------------------------------------------


def test_reliability_by_hand() -> None:
    table = reliability([0, 1, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.7, 0.8], bins=2)
    assert [row["n"] for row in table] == [3, 3]
    assert [row["mean_probability"] for row in table] == pytest.approx([0.2, 0.7])
    assert [row["observed_rate"] for row in table] == pytest.approx([1 / 3, 1])
    error = expected_calibration_error([0, 1, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.7, 0.8], bins=2)
    assert error == pytest.approx((1 / 3 - 0.2) / 2 + 0.3 / 2)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_reliability_has_the_bins_of_scikit_learn(bins: int) -> None:
    labels, probabilities, _ = split(classes=2, decimals=3)
    table = reliability(labels, probabilities[:, 1], bins=bins)
    observed, predicted = calibration_curve(labels, probabilities[:, 1], n_bins=bins, strategy="quantile")
    np.testing.assert_allclose([row["observed_rate"] for row in table], observed, atol=1e-12)
    np.testing.assert_allclose([row["mean_probability"] for row in table], predicted, atol=1e-12)
    assert sum(row["n"] for row in table) == len(labels)


def test_reliability_bins_hold_equally_many_images() -> None:
    probabilities = np.random.default_rng(0).random(150) ** 4
    assert {row["n"] for row in reliability(np.arange(150) % 2, probabilities)} == {10}


def test_calibration_error_is_zero_for_calibrated_constants() -> None:
    # Equal probabilities must not be split into bins with only one outcome each.
    outcomes = np.repeat([1, 0, 1, 0], [3, 7, 8, 2])
    assert expected_calibration_error(outcomes, np.repeat([0.3, 0.8], 10)) == pytest.approx(0, abs=1e-12)
    assert expected_calibration_error(outcomes[:10], np.full(10, 0.3)) == pytest.approx(0, abs=1e-12)


def test_calibration_error_of_a_constant_is_its_distance_from_the_rate() -> None:
    assert expected_calibration_error([True, False], [0.9, 0.9]) == pytest.approx(0.4)
    assert expected_calibration_error([1], [0.0]) == 1


# --- the report ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [THREE, TWO])
@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_every_figure_and_its_interval_agree_with_scikit_learn(names: tuple[str, ...], threshold: float) -> None:
    labels, probabilities, groups = split(classes=len(names))
    report = figures(evaluate(labels, probabilities, groups, names, threshold=threshold, resamples=20, seed=3))
    weights = metrics._patient_weights(groups, 20, 3)
    point, *draws = (by_scikit_learn(labels, probabilities, names, threshold, weight) for weight in weights)
    for name, value in point.items():
        low, high = np.percentile([draw[name] for draw in draws], [2.5, 97.5])
        assert report.pop(name) == pytest.approx({"value": value, "low": low, "high": high}, rel=0, abs=1e-12), name
    assert set(report) == {"binary.ece"} | ({"multiclass.macro_auroc"} if names == TWO else set())


def test_calibration_error_of_a_resample_is_that_of_the_repeated_images() -> None:
    labels, probabilities, groups = split()
    figure = evaluate(labels, probabilities, groups, THREE, resamples=20, seed=3)["binary"]["ece"]
    pneumonia = binary_probability(probabilities, THREE)
    point, *draws = (
        expected_calibration_error(np.repeat(labels > 0, times), np.repeat(pneumonia, times))
        for times in metrics._patient_weights(groups, 20, 3).astype(int)
    )
    low, high = np.percentile(draws, [2.5, 97.5])
    assert figure == pytest.approx({"value": point, "low": low, "high": high}, abs=1e-12)


def test_report_by_hand() -> None:
    labels = [0, 0, 1, 1, 2]
    probabilities = [[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.1, 0.7, 0.2], [0.7, 0.2, 0.1], [0.0, 0.6, 0.4]]
    report = evaluate(labels, probabilities, ["a", "b", "c", "c", "d"], THREE, resamples=50)

    assert report["n"] == 5
    assert report["patients"] == 4
    assert report["interval"] == "95% percentile bootstrap over patients, 50 resamples"
    assert report["class_counts"] == {"NORMAL": 2, "BACTERIAL": 2, "VIRAL": 1}
    assert report["multiclass"]["confusion_matrix"] == [[1, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert report["multiclass"]["accuracy"]["value"] == pytest.approx(2 / 5)
    assert report["multiclass"]["macro_f1"]["value"] == pytest.approx((1 / 2 + 2 / 5 + 0) / 3)
    assert report["binary"]["confusion_matrix"] == [[1, 1], [1, 2]]
    assert report["binary"]["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert report["binary"]["specificity"]["value"] == pytest.approx(1 / 2)
    assert report["binary"]["auroc"]["value"] == pytest.approx(5 / 6)
    assert report["binary"]["brier"]["value"] == pytest.approx((0.2**2 + 0.6**2 + 0.1**2 + 0.7**2 + 0) / 5)
    assert report["binary"]["threshold"] == 0.5
    assert report["subtype"]["auroc"]["value"] == 1
    assert report["subtype"]["n"] == 3


def test_report_is_json_as_it_is_and_in_the_order_of_the_labels() -> None:
    labels, probabilities, groups = split()
    report = evaluate(labels, probabilities.astype(np.float32), groups, THREE, threshold=0.6, resamples=5)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report["multiclass"]["per_class"]) == list(THREE)


def test_order_of_the_labels_changes_no_figure() -> None:
    labels, probabilities, groups = split(decimals=9)
    order = np.array([2, 0, 1])
    moved = evaluate(np.argsort(order)[labels], probabilities[:, order], groups, [THREE[k] for k in order])
    straight = figures(evaluate(labels, probabilities, groups, THREE))
    for name, figure in figures(moved).items():
        assert figure == pytest.approx(straight[name], abs=1e-12), name


def test_a_binary_model_has_no_subtype() -> None:
    labels, probabilities, groups = split(classes=2)
    report = evaluate(labels, probabilities, groups, TWO, resamples=5)
    assert "subtype" not in report
    assert report["multiclass"]["confusion_matrix"] == report["binary"]["confusion_matrix"]
    assert report["multiclass"]["macro_auroc"]["value"] == pytest.approx(report["binary"]["auroc"]["value"])


def test_subtype_survives_images_whose_pneumonia_probabilities_are_both_zero() -> None:
    report = evaluate([0, 1, 2], [[1, 0, 0], [1, 0, 0], [1, 0, 0]], [0, 1, 2], THREE, resamples=5)
    assert report["subtype"]["auroc"]["value"] == 0.5


# --- the intervals ---------------------------------------------------------------------------------------------------


def test_intervals_contain_the_value() -> None:
    report = figures(evaluate(*split(600), THREE))
    # The calibration error is biased upwards in a resample: its low end is no bound on the value.
    report.pop("binary.ece")
    for name, figure in report.items():
        assert figure["low"] < figure["value"] < figure["high"], name


def test_intervals_depend_on_the_seed_alone() -> None:
    first, again, other = (evaluate(*split(), THREE, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first["binary"]["auroc"]["value"] == other["binary"]["auroc"]["value"]
    assert first["binary"]["auroc"]["low"] != other["binary"]["auroc"]["low"]


def test_four_images_of_one_patient_count_as_one_and_make_the_interval_twice_as_wide() -> None:
    labels, probabilities, _ = split(100)
    labels, probabilities = np.repeat(labels, 4), np.repeat(probabilities, 4, axis=0)
    by_patient = evaluate(labels, probabilities, np.repeat(np.arange(100), 4), THREE)
    by_image = evaluate(labels, probabilities, np.arange(400), THREE)
    assert by_patient["patients"] == 100
    for name in ("accuracy", "auroc", "brier"):
        ratio = width(by_patient["binary"][name]) / width(by_image["binary"][name])
        assert ratio == pytest.approx(2, rel=0.15), name


def test_images_of_a_patient_are_drawn_together_and_patients_as_often_as_there_are_patients() -> None:
    groups = np.array(["b", "a", "b", "c", "a"])
    weights = metrics._patient_weights(groups, 200, 0)
    assert weights.shape == (201, 5)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_the_interval_of_an_accuracy_is_that_of_a_binomial() -> None:
    right = np.arange(400) < 320
    probabilities = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    figure = evaluate(np.zeros(400, dtype=int), probabilities, np.arange(400), TWO)["binary"]["accuracy"]
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert figure == pytest.approx({"value": 0.8, "low": 0.8 - half, "high": 0.8 + half}, abs=0.006)


# --- figures that are not there --------------------------------------------------------------------------------------


def test_figures_of_an_absent_class_are_none() -> None:
    labels, probabilities, groups = split()
    report = evaluate(np.zeros_like(labels), probabilities, groups, THREE, resamples=20)
    assert report["binary"]["auroc"] == UNDEFINED
    assert report["binary"]["sensitivity"] == UNDEFINED
    assert report["multiclass"]["macro_auroc"] == UNDEFINED
    assert report["multiclass"]["balanced_accuracy"] == UNDEFINED
    assert report["multiclass"]["per_class"]["VIRAL"]["recall"] == UNDEFINED
    assert report["subtype"] == {"auroc": UNDEFINED, "n": 0}
    assert report["binary"]["specificity"]["low"] is not None
    assert report["binary"]["brier"]["low"] is not None


def test_precision_of_a_class_never_answered_is_none_and_its_f1_zero() -> None:
    report = evaluate([0, 1, 0, 1], [[0.9, 0.1]] * 4, range(4), TWO, resamples=20, seed=1)
    assert report["binary"]["precision"] == UNDEFINED
    assert report["multiclass"]["macro_precision"] == UNDEFINED
    assert report["binary"]["f1"]["value"] == 0


def test_resamples_that_miss_a_class_are_left_out_of_its_figures() -> None:
    # One patient in twenty is ill, so a third of the resamples hold no ill patient.
    labels = np.arange(20) == 0
    probabilities = np.where(labels[:, None], [0.1, 0.9], [0.9, 0.1])
    report = evaluate(labels, probabilities, np.arange(20), TWO, resamples=200)
    assert report["binary"]["sensitivity"] == pytest.approx({"value": 1, "low": 0.025, "high": 1})
    assert report["binary"]["auroc"] == {"value": 1, "low": None, "high": None}


def test_a_rate_of_none_or_all_has_the_exact_interval_of_its_patients() -> None:
    # Of n patients without an event, (1 - p)^n is 2.5% at the upper end of the interval.
    groups = np.arange(60) // 2  # 30 patients
    upper = 1 - 0.025 ** (1 / 30)
    assert rate(np.zeros(60, bool), groups) == pytest.approx({"value": 0, "low": 0, "high": upper})
    assert rate(np.ones(60, bool), groups) == pytest.approx({"value": 1, "low": 1 - upper, "high": 1})
    healthy = np.arange(60) < 20  # 10 patients
    report = evaluate(~healthy, np.where(healthy[:, None], [0.9, 0.1], [0.1, 0.9]), groups, TWO, resamples=50)
    assert report["binary"]["specificity"]["low"] == pytest.approx(0.025 ** (1 / 10))
    assert report["binary"]["accuracy"]["low"] == pytest.approx(0.025 ** (1 / 30))
    assert report["multiclass"]["per_class"]["PNEUMONIA"]["precision"]["low"] == pytest.approx(0.025 ** (1 / 20))


def test_any_statistic_can_be_bootstrapped() -> None:
    values, groups = np.arange(40.0), np.arange(40) // 4
    events = values > 25
    assert bootstrap(lambda images: events[images].mean(), groups) == pytest.approx(rate(events, groups))


def test_a_figure_defined_in_no_resample_has_a_value_and_no_interval() -> None:
    labels, probabilities, groups = [0, 1], [[0.9, 0.1], [0.1, 0.9]], ["a", "b"]
    seed = next(s for s in range(99) if metrics._patient_weights(np.array(groups), 1, s)[1].max() == 2)
    figure = evaluate(labels, probabilities, groups, TWO, resamples=1, seed=seed)["binary"]["auroc"]
    assert figure == {"value": 1, "low": None, "high": None}


# --- errors ----------------------------------------------------------------------------------------------------------

ROWS = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [], "probabilities": np.empty((0, 3)), "groups": []}, r"shape \(0, 3\); expected \(N, 3\), N > 0"),
        ({"labels": [0]}, r"shape \(1,\); expected integers of shape \(2,\)"),
        ({"labels": [0.0, 1.0]}, "labels are float64"),
        ({"labels": [0, 3]}, r"lie in \[0, 3\]; expected \[0, 2\]"),
        ({"labels": [-1, 2]}, r"lie in \[-1, 2\]"),
        ({"groups": ["a"]}, r"groups have shape \(1,\); expected one patient for each of the 2"),
        ({"probabilities": [[0.7, 0.2, 0.2], ROWS[1]]}, "sums to 1.1; expected 1"),
        ({"probabilities": [[np.nan, 0.5, 0.5], ROWS[1]]}, "hold nan"),
        ({"probabilities": [[-0.5, 0.5, 1.0], ROWS[1]]}, "hold -0.5"),
        ({"probabilities": [0.5, 0.5]}, r"shape \(2,\)"),
        ({"label_names": TWO}, r"expected \(N, 2\)"),
        ({"label_names": ("HEALTHY", "BACTERIAL", "VIRAL")}, "expected distinct classes, NORMAL and others"),
        ({"label_names": ("NORMAL", "VIRAL", "VIRAL")}, "expected distinct classes"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"resamples": 0}, "resamples is 0"),
    ],
)
def test_evaluate_says_what_came_and_what_was_expected(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"labels": [0, 1], "probabilities": ROWS, "groups": ["a", "b"], "label_names": THREE}
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments | change)


@pytest.mark.parametrize(
    ("outcomes", "probabilities", "bins", "message"),
    [
        ([], [], 15, "N > 0"),
        ([0, 1], [0.5], 15, r"shape \(2,\), probabilities \(1,\)"),
        ([0, 2], [0.5, 0.5], 15, r"hold \[0 2\]; expected 0 and 1"),
        ([0, 1], [0.5, np.nan], 15, "hold nan"),
        ([0, 1], [0.5, 1.5], 15, "hold 1.5"),
        ([0, 1], [0.5, 0.5], 0, "bins is 0"),
    ],
)
def test_calibration_says_what_came_and_what_was_expected(
    outcomes: list[int], probabilities: list[float], bins: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(outcomes, probabilities, bins=bins)


# --- rates, operating points, coverage


def test_rate_is_the_share_with_an_interval_by_patient() -> None:
    events = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
    single = rate(events, np.arange(10), resamples=2000)
    assert single["value"] == pytest.approx(0.3)
    assert single["low"] == pytest.approx(0.0, abs=0.11)
    assert single["high"] == pytest.approx(0.6, abs=0.11)
    # All three events in one patient: he is drawn or not, so the share jumps further.
    clustered = rate(events, [0, 0, 0, 1, 2, 3, 4, 5, 6, 7], resamples=2000)
    assert clustered["value"] == pytest.approx(0.3)
    assert (clustered["high"] or 0) > (single["high"] or 1)


def test_risk_coverage_answers_the_surest_first() -> None:
    right = np.array([True] * 8 + [False, True, False, False])
    confidence = np.linspace(1, 0, 12)
    shuffled = np.random.default_rng(0).permutation(12)
    report = risk_coverage(right[shuffled], confidence[shuffled], np.arange(12), resamples=20)
    at = report["accuracy_at"]
    assert [at[coverage]["n"] for coverage in ("0.8", "0.9", "0.95", "1.0")] == [10, 11, 11, 12]
    assert at["0.8"]["value"] == pytest.approx(9 / 10)
    assert at["1.0"]["value"] == pytest.approx(9 / 12)
    assert report["curve"][0] == [pytest.approx(1 / 12), 0]
    assert report["curve"][-1] == [1, pytest.approx(3 / 12)]
    errors = 1 - np.cumsum(right) / np.arange(1, 13)
    assert report["aurc"] == pytest.approx(errors.mean())


def test_true_probabilities_get_the_error_that_is_expected_of_them() -> None:
    rng = np.random.default_rng(5)
    p = rng.beta(0.5, 0.5, 70)
    errors = [expected_calibration_error(rng.random(70) < p, p) for _ in range(400)]
    expected = expected_error_of_calibrated(p, draws=400)
    assert expected == pytest.approx(np.mean(errors), rel=0.05)
    assert expected > 0.08  # few images
    assert expected_error_of_calibrated(np.tile(p, 40)) < 0.03
    assert expected_error_of_calibrated([0.0, 1.0, 1.0]) == 0
