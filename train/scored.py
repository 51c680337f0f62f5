"""Images with a model's predictions, and the figures of parts of them: sources, folders, sizes, classes, consoles."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.metrics import roc_auc_score

from pneumocam import OperatingPoint
from train.data import BINARY, LabelledImage, class_index
from train.metrics import (
    Bools,
    Floats,
    Ints,
    binary_probability,
    bootstrap,
    decide,
    evaluate,
    expected_calibration_error,
    expected_error_of_calibrated,
    margin,
    rate,
    risk_coverage,
)

EVEN_ODDS = 0.5  # the threshold of a network that is not calibrated: training draws as many normal images as others
SIZES = (256, 1024, 1536)  # px, the longer side: the strata that figures are given for


@dataclass(frozen=True)
class Scored:
    """N images with their truth and a model's predictions.

    Attributes:
        images, paths: of the images.
        facts: file facts of each, see `train.audit.file_facts`.
        texts: (N,) whether text is burned in.
        probabilities: (N, K), in the order of `names`.
        names: the model's labels.
    """

    images: list[LabelledImage]
    paths: list[Path]
    facts: list[list[float]]
    texts: Bools
    probabilities: Floats
    names: tuple[str, ...]

    @property
    def groups(self) -> list[int]:
        return [image.group for image in self.images]

    @property
    def sources(self) -> list[str]:
        return [image.source for image in self.images]

    @property
    def labels(self) -> Ints:
        """(N,) class indices; K where the subtype is unknown. A model of two classes knows no subtype."""
        labels = (image.label for image in self.images)
        if self.names == BINARY:
            return np.array([int(label != "NORMAL") for label in labels])
        return np.array([class_index(label, self.names) for label in labels])

    @property
    def pneumonia(self) -> Floats:
        return binary_probability(self.probabilities, self.names)

    @property
    def ill(self) -> Bools:
        return np.array([image.label != "NORMAL" for image in self.images])

    def uncertain(self, point: OperatingPoint) -> Bools:
        return margin(self.pneumonia, point.threshold) < point.uncertain_log_odds

    def wrong(self, threshold: float) -> Bools:
        return np.asarray((self.pneumonia >= threshold) != self.ill)

    def only(self, chosen: Iterable[int]) -> "Scored":
        indices = list(chosen)
        images, paths, facts = ([column[i] for i in indices] for column in (self.images, self.paths, self.facts))
        return Scored(images, paths, facts, self.texts[indices], self.probabilities[indices], self.names)  # type: ignore[arg-type]

    def known(self) -> "Scored":
        """The images whose class is known; all of them for a model of two classes."""
        return self.only(np.flatnonzero(self.labels < len(self.names)).tolist())

    def collapsed(self) -> "Scored":
        """The same with two classes."""
        both = np.stack([1 - self.pneumonia, self.pneumonia], axis=1)  # (N, 2)
        return Scored(self.images, self.paths, self.facts, self.texts, both, BINARY)


def measure(scored: Scored, *, threshold: float, **intervals: int) -> dict[str, Any]:
    """Figures as of `train.metrics.evaluate`: of all images pneumonia or not, of those with a known class all classes.

    Where no subtype is known at all, the classes are NORMAL and PNEUMONIA.
    """
    subtyped = any(image.label in ("BACTERIAL", "VIRAL") for image in scored.images)
    known = scored.known() if subtyped else scored.collapsed()
    figures = _evaluate(known, threshold, intervals)
    if len(known.images) < len(scored.images):
        binary = _evaluate(scored.collapsed(), threshold, intervals)
        figures |= {name: binary[name] for name in ("n", "patients", "binary")}
    return figures | {"class_counts": dict(Counter(image.label for image in scored.images))}


def _evaluate(scored: Scored, threshold: float, intervals: Mapping[str, int]) -> dict[str, Any]:
    return evaluate(scored.labels, scored.probabilities, scored.groups, scored.names, threshold=threshold, **intervals)


def part(scored: Scored, *, threshold: float, **intervals: int) -> dict[str, Any]:
    """The few figures that a part of the images is described by."""
    figures = measure(scored, threshold=threshold, **intervals)
    names = ("auroc", "accuracy", "sensitivity", "specificity", "ece", "brier")
    binary = {name: figures["binary"][name] for name in names}
    subtype = {"subtype_auroc": figures["subtype"]["auroc"]} if "subtype" in figures else {}
    return {"n": figures["n"], "class_counts": figures["class_counts"], **binary, **subtype}


def calibration(parts: Sequence[Scored], prior: float, **intervals: int) -> dict[str, Any]:
    """How far the probabilities are true once they are restated for the prevalence of the images.

    Args:
        parts: images of one source each, which has a prevalence of its own.
        prior: the prevalence that the probabilities are stated for, in (0, 1).
        intervals: `resamples` and `seed`, as in `train.metrics.evaluate`.

    Returns:
        `prevalence` of all images, their `ece`, and `ece_of_calibrated`, what true probabilities would get on average;
        empty if no part has both normal and ill images.
    """
    parts = [one for one in parts if 0 < one.ill.mean() < 1]
    if not parts:
        return {}
    ill, groups = np.concatenate([one.ill for one in parts]), [group for one in parts for group in one.groups]
    restated = []
    for one in parts:
        shift = special.logit(one.ill.mean()) - special.logit(prior)  # Saerens et al. 2002, as in Classifier
        restated.append(special.expit(special.logit(one.pneumonia) + shift))
    p = np.concatenate(restated)
    return {
        "prevalence": float(ill.mean()),
        "ece": bootstrap(lambda d: expected_calibration_error(ill[d], p[d]), groups, **intervals),
        "ece_of_calibrated": expected_error_of_calibrated(p, seed=intervals.get("seed", 0)),
    }


def at_point(scored: Scored, point: OperatingPoint, **intervals: int) -> dict[str, Any]:
    """What an operating point means on these images.

    `by_class` is the share of each class called pneumonia; `uncertain` the share in the band, and `errors_inside` and
    `errors_outside` the share of predictions inside and outside of it that are wrong.
    """
    figures = measure(scored, threshold=point.threshold, **intervals)["binary"]
    positive, near = scored.pneumonia >= point.threshold, scored.uncertain(point)
    wrong = scored.wrong(point.threshold)
    groups = np.array(scored.groups)
    labels = np.array([image.label for image in scored.images])

    def share(events: Bools, groups: NDArray[Any]) -> dict[str, float | None]:
        return rate(events, groups, **intervals)

    return {
        "threshold": point.threshold,
        **{name: figures[name] for name in ("sensitivity", "specificity", "precision", "accuracy")},
        "by_class": {
            str(label): share(positive[labels == label], groups[labels == label]) for label in dict.fromkeys(labels)
        },
        "uncertain": share(near, groups),
        "errors_inside": share(wrong[near], groups[near]),
        "errors_outside": share(wrong[~near], groups[~near]),
    }


def coverage(scored: Scored, threshold: float, **intervals: int) -> dict[str, Any]:
    """`train.metrics.risk_coverage` of pneumonia or not over all images, and of all classes over those known."""
    known = scored.known()
    right = decide(known.probabilities, known.names, threshold) == known.labels
    sure = margin(scored.pneumonia, threshold)
    return {
        "binary": risk_coverage(~scored.wrong(threshold), sure, scored.groups, **intervals),
        "multiclass": risk_coverage(right, known.probabilities.max(axis=1), known.groups, **intervals),
    }


def over_seeds(seeds: list[Scored], **intervals: int) -> dict[str, Any]:
    """n, and the mean over several networks of AUROC, sensitivity and specificity at even odds.

    Args:
        seeds: the same images with the predictions of each network.
        intervals: `resamples` and `seed` of the bootstrap.
    """
    first = seeds[0]
    pneumonia = np.stack([one.pneumonia for one in seeds])  # (seeds, N)
    right = ((pneumonia >= EVEN_ODDS) == first.ill).mean(axis=0)
    ill, patients = first.ill, np.array(first.groups)
    return {
        "n": len(first.images),
        "auroc": bootstrap(lambda drawn: mean_auroc(seeds, drawn), patients, **intervals),
        "sensitivity": rate(right[ill], patients[ill], **intervals),
        "specificity": rate(right[~ill], patients[~ill], **intervals),
    }


def gain(seeds: list[Scored], others: list[Scored], **intervals: int) -> dict[str, float | None] | None:
    """By how much the mean AUROC of several networks is above that of others on the same images, resampled together.

    None if they were not measured on the same images.
    """
    if [image.key for image in seeds[0].images] != [image.key for image in others[0].images]:
        return None
    patients = np.array(seeds[0].groups)
    return bootstrap(lambda drawn: mean_auroc(seeds, drawn) - mean_auroc(others, drawn), patients, **intervals)


def mean_auroc(seeds: list[Scored], drawn: Ints) -> float:
    """The mean over several networks of the AUROC on the images drawn; NaN if these are all ill or all normal."""
    ill = seeds[0].ill[drawn]
    if not 0 < ill.sum() < len(ill):
        return float("nan")
    return float(np.mean([roc_auc_score(ill, one.pneumonia[drawn]) for one in seeds]))


def by_source(scored: Scored) -> dict[str, Scored]:
    """One part for each source."""
    parts = defaultdict(list)
    for i, source in enumerate(scored.sources):
        parts[source].append(i)
    return {name: scored.only(indices) for name, indices in parts.items()}


def by_folder(copies: Scored, roots: list[Path]) -> dict[str, Scored]:
    """One part for each folder given, its images whether or not another folder has a larger copy of them."""
    parts = defaultdict(list)
    for i, image in enumerate(copies.images):
        parts[f"{image.root}: {roots[image.root].resolve().name}"].append(i)
    return {name: copies.only(indices) for name, indices in sorted(parts.items())}


def by_size(scored: Scored, originals: dict[str, list[float]]) -> dict[str, Scored]:
    """Parts by the longer side of the file; of the original where originals are given, the others in a part apart."""
    parts = defaultdict(list)
    for i, (path, facts) in enumerate(zip(scored.paths, scored.facts, strict=True)):
        size = originals.get(path.name) if originals else facts
        parts[int(np.searchsorted(SIZES, max(size[:2]))) if size else -1].append(i)
    lows = ["", *(f"{size + 1} " for size in SIZES)]
    highs = [*(f"up to {size} px" for size in SIZES), "px and more"]
    names = {k: low + high for k, (low, high) in enumerate(zip(lows, highs, strict=True))} | {-1: "original unknown"}
    return {names[k]: scored.only(indices) for k, indices in sorted(parts.items())}


def by_console(scored: Scored, threshold: float, **intervals: int) -> dict[str, Any]:
    """Sensitivity or specificity of every group (source, pneumonia or not, with burned-in text or without).

    Returns:
        `groups`: for each its source, whether it is ill and has text, n, and the share `right` with its interval;
        `worst`: the lowest sensitivity and the lowest specificity among the groups of at least ten images, or None.
    """
    right, rows = ~scored.wrong(threshold), []
    keys = list(zip(scored.sources, scored.ill.tolist(), scored.texts.tolist(), strict=True))
    for key in sorted(set(keys)):
        member = np.array([one == key for one in keys])
        source, ill, text = key
        share = rate(right[member], np.array(scored.groups)[member], **intervals)
        rows.append({"source": source, "ill": ill, "text": text, "n": int(member.sum()), "right": share})

    def lowest(ill: bool) -> dict[str, Any] | None:
        large = [row for row in rows if row["ill"] == ill and row["n"] >= 10]
        return min(large, key=lambda row: row["right"]["value"], default=None)

    return {"groups": rows, "worst": {"sensitivity": lowest(True), "specificity": lowest(False)}}
