"""Labels and probabilities in, figures with intervals out: discrimination, calibration and subtype, per patient.

Pure functions over numpy arrays; what `evaluate` and `reliability` return can be written as JSON as it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
COVERAGES = (0.8, 0.9, 0.95, 1.0)


def binary_probability(probabilities: ArrayLike, label_names: Sequence[str]) -> Floats:
    """P(pneumonia), the sum of every class but NORMAL.

    Args:
        probabilities: (N, K) float in [0, 1], each row summing to 1.
        label_names: the K classes in column order, NORMAL among them.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: empty, not finite, outside [0, 1], rows not summing to 1, or not one column per name.
    """
    probabilities = _checked_probabilities(probabilities, label_names)
    pneumonia: Floats = np.delete(probabilities, label_names.index("NORMAL"), axis=1).sum(axis=1)  # (N,)
    # A row of float32 probabilities may sum to a hair above 1.
    return pneumonia.clip(max=1)


def decide(probabilities: ArrayLike, label_names: Sequence[str], threshold: float) -> Ints:
    """The answer per image: NORMAL below the threshold on P(pneumonia), else the likeliest of the other classes.

    It may differ from the plain argmax, and so never contradicts the binary answer, P(pneumonia) >= threshold.

    Args:
        probabilities: (N, K) float in [0, 1], each row summing to 1.
        label_names: the K classes in column order, NORMAL among them.
        threshold: the operating point on P(pneumonia), in [0, 1].

    Returns:
        (N,) int64, column indices.

    Raises:
        ValueError: as `binary_probability`, or a threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected a probability in [0, 1]")
    pneumonia = binary_probability(probabilities, label_names)
    normal = label_names.index("NORMAL")
    others = np.delete(np.arange(len(label_names)), normal)
    likeliest = others[np.asarray(probabilities)[:, others].argmax(axis=1)]  # (N,)
    return np.where(pneumonia >= threshold, likeliest, normal)


def reliability(outcomes: ArrayLike, probabilities: ArrayLike, *, bins: int = 15) -> list[dict[str, float]]:
    """Predicted against observed, in bins that hold equally many images.

    The edges are quantiles, as in scikit-learn's `calibration_curve(strategy="quantile")`, which does not give the
    counts. Equal probabilities share a bin, so there may be fewer bins than asked for.

    Args:
        outcomes: (N,) bool, or 0 and 1.
        probabilities: (N,) float in [0, 1], of outcome 1.
        bins: how many at most, from 1.

    Returns:
        One dict per bin, lowest first: `mean_probability`, `observed_rate`, `n`.

    Raises:
        ValueError: empty, mismatching lengths, outcomes other than 0 and 1, probabilities outside [0, 1], or no bins.
    """
    outcomes, probabilities = np.asarray(outcomes), np.asarray(probabilities, dtype=np.float64)
    if outcomes.ndim != 1 or outcomes.shape != probabilities.shape or not outcomes.size:
        raise ValueError(
            f"outcomes have shape {outcomes.shape}, probabilities {probabilities.shape}; expected (N,) for both, N > 0"
        )
    if not np.isin(outcomes, (0, 1)).all():
        raise ValueError(f"outcomes hold {np.unique(outcomes)[:5]}; expected 0 and 1 only")
    _check_unit_interval(probabilities)
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected at least 1")

    edges = np.quantile(probabilities, np.linspace(0, 1, bins + 1)[1:-1])
    member = np.searchsorted(edges, probabilities)  # (N,)
    count, total, positive = (np.bincount(member, w, bins) for w in (None, probabilities, outcomes))  # (bins,) each
    return [
        {
            "mean_probability": float(total[i] / count[i]),
            "observed_rate": float(positive[i] / count[i]),
            "n": int(count[i]),
        }
        for i in np.flatnonzero(count)
    ]


def expected_calibration_error(outcomes: ArrayLike, probabilities: ArrayLike, *, bins: int = 15) -> float:
    """Mean gap between predicted and observed over the bins of `reliability`, weighted by images, in [0, 1].

    Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015, with the adaptive bins
    of Nixon et al., "Measuring Calibration in Deep Learning", CVPR Workshops 2019. Arguments and errors are those of
    `reliability`.
    """
    table = reliability(outcomes, probabilities, bins=bins)
    gaps = sum(row["n"] * abs(row["mean_probability"] - row["observed_rate"]) for row in table)
    return gaps / sum(row["n"] for row in table)


def expected_error_of_calibrated(probabilities: ArrayLike, *, bins: int = 15, draws: int = 200, seed: int = 0) -> float:
    """The calibration error that these probabilities would get on average if they were true.

    Bins of few images differ from their mean probability by chance alone, so the calibration error of a perfect model
    is above 0 (Bröcker and Smith, "Increasing the Reliability of Reliability Diagrams", 2007, resample so too).

    Args:
        probabilities: (N,) float in [0, 1].
        bins: as in `reliability`.
        draws: of outcomes, from 1.
        seed: of the draws.

    Raises:
        ValueError: as `reliability`.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    rng = np.random.default_rng(seed)
    return float(np.mean([expected_calibration_error(rng.random(p.shape) < p, p, bins=bins) for _ in range(draws)]))


def evaluate(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike,
    label_names: Sequence[str],
    *,
    threshold: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every published figure of one model on one split, each with its 95% interval.

    A figure is `{"value", "low", "high"}`. The interval is the percentile bootstrap (Efron and Tibshirani, "An
    Introduction to the Bootstrap", 1993, chapter 13) over patients, since images of one patient are not independent;
    all figures see the same resamples. A resample in which a figure is undefined is left out for that figure; where
    it is undefined on the data itself all three are None: the AUROC or recall of an absent class, the precision of a
    class never answered, and macro averages over any of these. Resamples of a rate of 0 or 1 all agree, so its
    interval is that of Clopper and Pearson (Biometrika 1934), each patient a trial; any other figure that is 0 or 1 in
    all resamples has no interval (`low` and `high` None). The calibration error is biased upwards in small samples and
    more so in resamples, so its interval may lie above its value.

    Args:
        labels: (N,) int in [0, K), the truth.
        probabilities: (N, K) float in [0, 1], each row summing to 1.
        groups: (N,) str or int, the patient of each image.
        label_names: the K classes in column order: NORMAL with either PNEUMONIA, or BACTERIAL and VIRAL.
        threshold: the operating point on P(pneumonia), in [0, 1]; both answers come from it, see `decide`.
        resamples: bootstrap draws, from 1.
        seed: of the draws.

    Returns:
        `n`, `patients`, `interval`, `class_counts`, `multiclass` (by `label_names`), `binary` (pneumonia against
        NORMAL) and, where the model tells BACTERIAL from VIRAL, `subtype` (that AUROC among true pneumonia images).
        Confusion matrices have the truth in rows and the answers in columns.

    Raises:
        ValueError: as `decide`; mismatching lengths, labels out of range, or no resamples.
    """
    probabilities = _checked_probabilities(probabilities, label_names)
    labels = _checked_labels(labels, *probabilities.shape)
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups have shape {groups.shape}; expected one patient for each of the {len(labels)} labels")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; expected at least 1")
    weights = _patient_weights(groups, resamples, seed)

    report = {
        "n": len(labels),
        "patients": len(np.unique(groups)),
        "interval": f"95% percentile bootstrap over patients, {resamples} resamples",
        "class_counts": {name: int((labels == k).sum()) for k, name in enumerate(label_names)},
        "multiclass": _multiclass(labels, probabilities, label_names, threshold, weights, groups),
        "binary": _binary(
            labels != label_names.index("NORMAL"),
            binary_probability(probabilities, label_names),
            threshold,
            weights,
            groups,
        ),
    }
    if {"BACTERIAL", "VIRAL"} <= set(label_names):
        report["subtype"] = _subtype(labels, probabilities, label_names, weights)
    return report


def margin(pneumonia: ArrayLike, threshold: float) -> Floats:
    """How far answers (N,), P(pneumonia) in 0..1, are from a threshold, in log-odds."""
    distance: Floats = np.abs(special.logit(np.clip(pneumonia, 1e-9, 1 - 1e-9)) - special.logit(threshold))
    return distance


def rate(events: ArrayLike, groups: ArrayLike, *, resamples: int = 1000, seed: int = 0) -> dict[str, float | None]:
    """The share of images (N,) bool for which something holds, with the interval of `evaluate`; None of no images."""
    if not len(np.asarray(groups)):
        return {"value": None, "low": None, "high": None}
    weights = _patient_weights(np.asarray(groups), resamples, seed)
    shares = weights @ np.asarray(events, dtype=np.float64) / weights.sum(axis=1)
    return _figure(shares, np.asarray(groups))


def bootstrap(
    statistic: Callable[[Ints], float], groups: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> dict[str, float | None]:
    """A figure as in `evaluate` of any statistic: it gets the images' indices, in a resample some more than once."""
    return _figure(_one_by_one(statistic, _patient_weights(np.asarray(groups), resamples, seed)))


def risk_coverage(right: ArrayLike, confidence: ArrayLike, groups: ArrayLike, **intervals: int) -> dict[str, Any]:
    """Accuracy when only the most confident share of the images is answered, the rest called uncertain.

    El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 2010.

    Args:
        right: (N,) bool, whether the answer is the true one.
        confidence: (N,) float; ties are answered in the images' order.
        groups: (N,) the patient of each.
        intervals: resamples and seed, as in `evaluate`.

    Returns:
        `accuracy_at`: by coverage (0.8, 0.9, 0.95, 1), with 95% intervals, the images answered held fixed; `aurc`: the
        mean error over all coverages; `curve`: (coverage, error) at up to 100 coverages.
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    right, groups = np.asarray(right, dtype=np.float64)[order], np.asarray(groups)[order]
    answered = np.arange(1, len(right) + 1)
    error = 1 - right.cumsum() / answered  # (N,)
    shown = np.unique(np.linspace(0, len(right) - 1, 100).astype(int))
    accuracy_at = {}
    for coverage in COVERAGES:
        n = max(1, round(coverage * len(right)))
        accuracy_at[str(coverage)] = {"n": n} | rate(right[:n], groups[:n], **intervals)
    return {
        "accuracy_at": accuracy_at,
        "aurc": float(error.mean()),
        "curve": [[float(answered[i] / len(right)), float(error[i])] for i in shown],
    }


# Below, `weights` is (R, N): how often each image counts in each resample. Row 0 is the data itself, so that the value
# and its interval come from the same lines. scikit-learn's metrics take one row at a time, about a hundred times as
# long over a thousand resamples (37 s against 0.4 s for 800 images); they are the oracle in the tests.


def _patient_weights(groups: NDArray[Any], resamples: int, seed: int) -> Floats:
    patients, patient = np.unique(groups, return_inverse=True)
    even = np.full(len(patients), 1 / len(patients))
    draws = np.random.default_rng(seed).multinomial(len(patients), even, size=resamples)  # (resamples, patients)
    return np.vstack([np.ones(len(groups)), draws[:, patient]])  # (1 + resamples, N)


def _one_by_one(statistic: Callable[[Ints], float], weights: Floats) -> Floats:
    images = np.arange(weights.shape[1])
    return np.array([statistic(np.repeat(images, times)) for times in weights.astype(int)])  # (R,)


def _multiclass(
    labels: Ints,
    probabilities: Floats,
    label_names: Sequence[str],
    threshold: float,
    weights: Floats,
    groups: NDArray[Any],
) -> dict[str, Any]:
    decisions = decide(probabilities, label_names, threshold)
    confusion = _confusion(labels, decisions, len(label_names), weights)
    by_class = _by_class(confusion)
    by_class["auroc"] = np.stack([_auroc(labels == k, scores, weights) for k, scores in enumerate(probabilities.T)], 1)
    return {
        "accuracy": _figure(_accuracy(confusion), groups),
        "balanced_accuracy": _figure(by_class["recall"].mean(axis=1)),
        **{f"macro_{name}": _figure(values.mean(axis=1)) for name, values in by_class.items()},
        "per_class": {
            label: {
                "n": int((labels == k).sum()),
                "precision": _figure(by_class["precision"][:, k], groups[decisions == k]),
                "recall": _figure(by_class["recall"][:, k], groups[labels == k]),
                **{name: _figure(by_class[name][:, k]) for name in ("f1", "auroc")},
            }
            for k, label in enumerate(label_names)
        },
        "confusion_matrix": confusion[0].astype(int).tolist(),
    }


def _binary(
    outcomes: Bools, pneumonia: Floats, threshold: float, weights: Floats, groups: NDArray[Any]
) -> dict[str, Any]:
    positive = pneumonia >= threshold
    confusion = _confusion(outcomes, positive, 2, weights)
    by_class = _by_class(confusion)
    sensitivity = _figure(by_class["recall"][:, 1], groups[outcomes])
    # Which bins there are depends on the resample.
    ece = _one_by_one(lambda images: expected_calibration_error(outcomes[images], pneumonia[images]), weights)
    return {
        "accuracy": _figure(_accuracy(confusion), groups),
        "precision": _figure(by_class["precision"][:, 1], groups[positive]),
        "recall": sensitivity,
        "f1": _figure(by_class["f1"][:, 1]),
        "macro_f1": _figure(by_class["f1"].mean(axis=1)),
        "sensitivity": sensitivity,
        "specificity": _figure(by_class["recall"][:, 0], groups[~outcomes]),
        "auroc": _figure(_auroc(outcomes, pneumonia, weights)),
        "specificity_at_sensitivity_97": _figure(_specificity_at(0.97, outcomes, pneumonia, weights)),
        "brier": _figure(weights @ (pneumonia - outcomes) ** 2 / weights.sum(axis=1)),
        "ece": _figure(ece),
        "threshold": float(threshold),
        "confusion_matrix": confusion[0].astype(int).tolist(),
    }


def _subtype(labels: Ints, probabilities: Floats, label_names: Sequence[str], weights: Floats) -> dict[str, Any]:
    bacterial, viral = label_names.index("BACTERIAL"), label_names.index("VIRAL")
    total = probabilities[:, bacterial] + probabilities[:, viral]
    # Where softmax has rounded both to 0, neither is the likelier.
    share = np.divide(probabilities[:, bacterial], total, out=np.full_like(total, 0.5), where=total > 0)
    ill = labels != label_names.index("NORMAL")
    return {"auroc": _figure(_auroc(labels == bacterial, share, weights * ill)), "n": int(ill.sum())}


def _confusion(truth: NDArray[Any], answer: NDArray[Any], classes: int, weights: Floats) -> Floats:
    cell: Floats = np.eye(classes * classes)[truth * classes + answer]  # (N, K * K)
    return (weights @ cell).reshape(-1, classes, classes)  # (R, K, K)


def _accuracy(confusion: Floats) -> Floats:
    correct = np.diagonal(confusion, axis1=1, axis2=2).sum(axis=1)
    return _ratio(correct, confusion.sum(axis=(1, 2)))  # (R,)


def _by_class(confusion: Floats) -> dict[str, Floats]:
    hits = np.diagonal(confusion, axis1=1, axis2=2)  # (R, K)
    answered, true = confusion.sum(axis=1), confusion.sum(axis=2)  # (R, K) each
    return {
        "precision": _ratio(hits, answered),
        "recall": _ratio(hits, true),
        "f1": _ratio(2 * hits, answered + true),
    }


def _auroc(positive: Bools, scores: Floats, weights: Floats) -> Floats:
    """The share of (positive, negative) pairs in the right order, a tie counting half; NaN where there is no pair."""
    order = np.argsort(scores)
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # (distinct scores,)
    positives, negatives = (
        np.add.reduceat((weights * chosen)[:, order], starts, axis=1) for chosen in (positive, ~positive)
    )  # (R, distinct scores) each
    below = negatives.cumsum(axis=1) - negatives / 2
    return _ratio((positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))  # (R,)


def _specificity_at(sensitivity: float, positive: Bools, scores: Floats, weights: Floats) -> Floats:
    """At the highest threshold that finds this share of the positives, whichever it is in each resample."""
    order = np.argsort(-scores)
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # (distinct scores,), the last image of each
    found, alarms = ((weights * chosen)[:, order].cumsum(axis=1)[:, ends] for chosen in (positive, ~positive))
    first = (found >= sensitivity * found[:, -1:] - 1e-9).argmax(axis=1)  # (R,)
    row = np.arange(len(weights))
    defined = np.where(found[:, -1] > 0, 1.0, np.nan)
    return defined * (1 - _ratio(alarms[row, first], alarms[:, -1]))  # (R,)


def _ratio(part: Floats, whole: Floats) -> Floats:
    # 0 / 0 is how an undefined figure is carried: NaN, which `_figure` leaves out.
    with np.errstate(invalid="ignore"):
        return part / whole


def _figure(values: Floats, groups: NDArray[Any] | None = None) -> dict[str, float | None]:
    """Row 0 and the interval of the others; groups: the patients of the images that a rate is of."""
    value, draws = values[0], values[1:]
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    draws = draws[~np.isnan(draws)]
    low, high = np.percentile(draws, [2.5, 97.5]).tolist() if len(draws) else (None, None)
    if low == high == value and value in (0, 1):
        low, high = _exact(int(value), groups) if groups is not None else (None, None)
    return {"value": float(value), "low": low, "high": high}


def _exact(value: int, groups: NDArray[Any]) -> tuple[float, float]:
    patients = len(np.unique(groups))
    interval = stats.binomtest(value * patients, patients).proportion_ci(method="exact")
    return float(interval.low), float(interval.high)


def _checked_probabilities(probabilities: ArrayLike, label_names: Sequence[str]) -> Floats:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if "NORMAL" not in label_names or len(set(label_names)) < max(2, len(label_names)):
        raise ValueError(f"label_names are {tuple(label_names)}; expected distinct classes, NORMAL and others")
    if probabilities.ndim != 2 or not len(probabilities) or probabilities.shape[1] != len(label_names):
        raise ValueError(
            f"probabilities have shape {probabilities.shape}; expected (N, {len(label_names)}), N > 0, "
            f"a column for each of {tuple(label_names)}"
        )
    _check_unit_interval(probabilities)
    sums = probabilities.sum(axis=1)
    # Wide enough for rows that were rounded to half precision.
    if (np.abs(sums - 1) > 1e-3).any():
        worst = sums[np.abs(sums - 1).argmax()]
        raise ValueError(f"a row of probabilities sums to {worst:.6g}; expected 1: pass softmax outputs, not logits")
    return probabilities


def _check_unit_interval(probabilities: Floats) -> None:
    inside = (probabilities >= 0) & (probabilities <= 1)
    if not inside.all():
        raise ValueError(f"probabilities hold {probabilities[~inside][0]}; expected [0, 1] and no NaN")


def _checked_labels(labels: ArrayLike, n: int, classes: int) -> Ints:
    labels = np.asarray(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "biu":
        raise ValueError(f"labels are {labels.dtype} of shape {labels.shape}; expected integers of shape ({n},)")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels lie in [{labels.min()}, {labels.max()}]; expected [0, {classes - 1}]")
    return labels.astype(np.int64)
