"""Give a bundle its temperature, its bias and its operating points, from validation images in several files.

`train.fit` does it at its end. Every image counts as it is and as each of FILES makes it, so that nothing depends on
how an image was saved. Every source counts the same, and in each source pneumonia is half: the probabilities are for a
prevalence of 50%, which the bundle states as its `prior`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from scipy import optimize, special

from pneumocam import Classifier
from pneumocam.bundle import Point, read_bundle, read_description, write_description
from train.audit import answers, variants
from train.data import LabelledImage, class_index, largest_copies
from train.metrics import Bools, Floats, Ints, binary_probability, margin
from train.objective import allowed_classes
from train.record import even_prior

FILES = ("JPEG 50", "half size", "squashed", "stretched histogram", "flat highlights", "flat shadows")
SENSITIVITY = 0.98  # of the screening point
SPECIFICITY = 0.98  # of the rule-in point
BAND_ERROR = 0.3  # the share of predictions within the uncertain band that are wrong


def calibrate(folder: Path, images: Sequence[LabelledImage], roots: Sequence[Path], *, batch_size: int = 32) -> None:
    """Write temperature, prior and operating points into a bundle's pneumocam.json, and the bias into its weights.

    Args:
        folder: the bundle.
        images: readable ones that it was not trained on; of several copies the largest counts.
        roots: the folders they are in.
        batch_size: images at a time.
    """
    classifier = Classifier.from_pretrained(f"local-dir:{folder}")
    names = classifier.label_names
    images = largest_copies(images, roots)
    paths = [roots[image.root] / image.path for image in images]
    ill = [image.label != "NORMAL" for image in images]
    files: dict[str, Iterable[Path | bytes]] = {"original": paths, **{f: variants(f, paths, ill) for f in FILES}}
    pooled = np.concatenate(
        [
            answers(classifier, file, len(paths), f"Calibrating: {name}", batch_size=batch_size)
            for name, file in files.items()
        ]
    )  # (N * files, K)
    # Up to a constant per image, which the softmax takes away again, these are the network's logits.
    logits = classifier.temperature * np.log(pooled.clip(min=np.finfo(np.float64).tiny))
    labels = np.tile([class_index(image.label, names) for image in images], len(files))
    weights = np.tile(even_weights([i.source for i in images], [i.label for i in images]), len(files))

    temperature, bias = fit_calibration(logits, labels, weights, names)
    _add_to_bias(folder, temperature * bias)
    logits = logits / temperature + bias * np.array([name != "NORMAL" for name in names])
    pneumonia = binary_probability(special.softmax(logits, axis=1), names)
    points = operating_points(np.tile(ill, len(files)), pneumonia, weights)
    description = read_description(folder).model_copy(
        update={
            "temperature": temperature,
            "prior": even_prior(names),
            "operating_points": {name: Point.model_validate(point) for name, point in points.items()},
            "default_operating_point": "balanced",
        }
    )
    write_description(folder, description)


def even_weights(sources: Sequence[str], labels: Sequence[str]) -> Floats:
    """(N,) weights with a sum of 1: sources count the same; in each, NORMAL is half and the other classes share half.

    A source without normal images or without pneumonia images has no weight: its prevalence cannot be restated.
    """
    cells = Counter(zip(sources, labels, strict=True))
    kinds = {source: {label for s, label in cells if s == source} for source in set(sources)}

    def weight(source: str, label: str) -> float:
        others = kinds[source] - {"NORMAL"}
        if "NORMAL" not in kinds[source] or not others:
            return 0.0
        return (0.5 if label == "NORMAL" else 0.5 / len(others)) / cells[source, label]

    weights = np.array([weight(*cell) for cell in zip(sources, labels, strict=True)])
    return np.asarray(weights / weights.sum())


def fit_calibration(logits: Floats, labels: Ints, weights: Floats, label_names: Sequence[str]) -> tuple[float, float]:
    """Temperature T and bias b that minimise the loss of softmax(logits / T + b for each class but NORMAL).

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, with one bias: a network whose two errors differ
    in number is as often wrong in either direction after it.

    Args:
        logits: (N, K).
        labels: (N,) int in [0, K]; K is PNEUMONIA of unknown subtype.
        weights: (N,), at least 0.
        label_names: the K classes in column order.

    Returns:
        T in [exp(-3), exp(3)] and b in [-20, 20].
    """
    allowed = allowed_classes(label_names).numpy()[labels]  # (N, K)
    ill = np.array([name != "NORMAL" for name in label_names], dtype=np.float64)

    def loss(parameters: Floats) -> float:
        log_p = special.log_softmax(logits * parameters[0] + parameters[1] * ill, axis=1)
        own = special.logsumexp(np.where(allowed, log_p, -np.inf), axis=1)
        return -float(weights @ own)

    # In 1 / T and b the loss is convex where every class is known.
    found = optimize.minimize(loss, [1, 0], method="L-BFGS-B", bounds=((np.exp(-3), np.exp(3)), (-20, 20)))
    return float(1 / found.x[0]), float(found.x[1])


def operating_points(ill: Bools, pneumonia: Floats, weights: Floats) -> dict[str, dict[str, Any]]:
    """Thresholds by what a mistake costs, each with a band in which predictions are uncertain.

    `balanced` is at even odds; `screening` is the highest threshold that finds SENSITIVITY of the ill; `rule_in` the
    lowest that leaves SPECIFICITY of the healthy alone, but neither lies beyond `balanced`. The uncertain band around
    `balanced` is the widest in which BAND_ERROR of the predictions are wrong. The other thresholds accept many mistakes
    of one kind, so they get a band of the same width. `band` tells the share of images in it and of errors among them.

    Args:
        ill: (N,) bool.
        pneumonia: (N,) calibrated P(pneumonia).
        weights: (N,) how much each counts.
    """
    # A calibrated network may be surer than a threshold in a bundle is allowed to be.
    inside = pneumonia.clip(1e-6, 1 - 1e-6)
    thresholds = {
        "balanced": 0.5,
        "screening": min(0.5, _quantile(inside[ill], weights[ill], 1 - SENSITIVITY)),
        # Just above the score of the healthy image that may not be called ill.
        "rule_in": max(0.5, float(np.nextafter(_quantile(inside[~ill], weights[~ill], SPECIFICITY), 1))),
    }
    width = _band_width(ill, inside, weights, thresholds["balanced"])
    return {
        name: {"threshold": t, "uncertain_log_odds": width, "band": _band(ill, inside, weights, t, width)}
        for name, t in thresholds.items()
    }


def _band_width(ill: Bools, pneumonia: Floats, weights: Floats, threshold: float) -> float:
    """Half the width, in log-odds, of the widest band in which BAND_ERROR of the predictions, by weight, are wrong."""
    distance = margin(pneumonia, threshold)
    order = np.argsort(distance)
    weight = weights[order].cumsum()
    wrong = (weights * ((pneumonia >= threshold) != ill))[order].cumsum()
    often = np.flatnonzero((wrong >= BAND_ERROR * weight) & (weight > 0))
    # Rounded up: the image that sets it is inside, whatever other files do to it.
    return float(np.ceil(1e4 * distance[order][often[-1]] + 1) / 1e4) if len(often) else 0.0


def _band(ill: Bools, pneumonia: Floats, weights: Floats, threshold: float, width: float) -> dict[str, float | None]:
    inside = weights * (margin(pneumonia, threshold) < width)
    wrong = inside @ ((pneumonia >= threshold) != ill)
    return {
        "share": float(inside.sum() / weights.sum()),
        "error": float(wrong / inside.sum()) if inside.any() else None,
    }


def _quantile(values: Floats, weights: Floats, share: float) -> float:
    """The smallest value with at least this share of the weight at or below it."""
    order = np.argsort(values)
    reached = weights[order].cumsum() / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])


def _add_to_bias(folder: Path, amount: float) -> None:
    """Add a number to the bias of every class but NORMAL, so that timm alone decides alike."""
    config = read_bundle(folder).config
    path = folder / "model.safetensors"
    state = load_file(path)
    head = config.pretrained_cfg.model_dump()["classifier"]
    ill = [name != "NORMAL" for name in config.label_names]
    bias = state[f"{head}.bias"]
    bias[ill] += amount
    save_file(state, path, metadata={"format": "pt"})
