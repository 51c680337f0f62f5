"""Give a bundle its temperature and its operating points, from validation films and their counterfactuals.

`train.fit` does it at its end. Every film counts as it is and as each of `train.audit.COUNTERFACTUALS` makes it, so
that neither depends on how a film was saved.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from pneumocam import Classifier
from pneumocam.bundle import Point, read_description, write_description
from train.audit import COUNTERFACTUALS, answers, variants
from train.data import Film, largest_copies
from train.metrics import Floats, binary_probability, fit_temperature, margin

SENSITIVITY = 0.98  # of the screening point
SPECIFICITY = 0.98  # of the rule-in point
UNCERTAIN = 0.1  # the share of films, those nearest to the threshold, that is answered with `uncertain`


def calibrate(folder: Path, films: Sequence[Film], roots: Sequence[Path], *, batch_size: int = 32) -> None:
    """Write temperature and operating points into the pneumocam.json of a bundle.

    Args:
        folder: the bundle.
        films: readable ones that it was not trained on; of several copies the largest counts.
        roots: the folders they are in.
        batch_size: films at a time.
    """
    classifier = Classifier.from_pretrained(f"local-dir:{folder}")
    names = classifier.label_names
    films = largest_copies(films, roots)
    paths = [roots[film.root] / film.path for film in films]
    labels = np.array([names.index(film.label) for film in films])
    ill = (labels != names.index("NORMAL")).tolist()
    sources: list[Iterable[Path | bytes]] = [paths, *(variants(name, paths, ill) for name in COUNTERFACTUALS)]
    captions = ["Calibrating", *(f"Calibrating: {name}" for name in COUNTERFACTUALS)]
    pooled = np.concatenate(
        [
            answers(classifier, source, len(paths), caption, batch_size=batch_size)
            for source, caption in zip(sources, captions, strict=True)
        ]
    )  # (N * files, K)
    # Up to a constant per film, which the softmax takes away again, these are the network's logits.
    logits = classifier.temperature * np.log(pooled.clip(min=np.finfo(np.float64).tiny))
    truth = np.tile(labels, len(sources))
    temperature = fit_temperature(logits, truth)
    pneumonia = binary_probability(special.softmax(logits / temperature, axis=1), names)
    points = operating_points(truth != names.index("NORMAL"), pneumonia)
    description = read_description(folder).model_copy(
        update={
            "temperature": temperature,
            "operating_points": {name: Point.model_validate(point) for name, point in points.items()},
            "default_operating_point": "balanced",
        }
    )
    write_description(folder, description)


def operating_points(ill: np.ndarray, pneumonia: Floats) -> dict[str, dict[str, Any]]:
    """Where to draw the line, by what a mistake costs.

    `balanced` is at even odds; `screening` is the highest threshold that finds SENSITIVITY of the ill; `rule_in` the
    lowest that leaves SPECIFICITY of the healthy alone, but neither lies beyond `balanced`. At each, the UNCERTAIN
    share of the films, those nearest to the threshold, sets how near, in log-odds, is too near.

    Args:
        ill: (N,) bool.
        pneumonia: (N,) calibrated P(pneumonia).
    """
    # A calibrated network may be surer than a threshold in a bundle is allowed to be.
    inside = pneumonia.clip(1e-6, 1 - 1e-6)
    thresholds = {
        "balanced": 0.5,
        "screening": min(0.5, float(np.quantile(inside[ill], 1 - SENSITIVITY, method="lower"))),
        # Just above the score of the healthy film that may not be called ill.
        "rule_in": max(0.5, float(np.nextafter(np.quantile(inside[~ill], SPECIFICITY, method="higher"), 1))),
    }
    # Rounded: the film that sets it, which other files may leave as it is, must not lie exactly on the line.
    near = {name: round(float(np.quantile(margin(inside, t), UNCERTAIN)), 4) for name, t in thresholds.items()}
    return {name: {"threshold": t, "uncertain_log_odds": near[name]} for name, t in thresholds.items()}
