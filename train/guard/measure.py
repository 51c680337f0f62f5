"""How the guard treats radiographs of held-out patients and pictures of held-out collections."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from pneumocam.guard import Guard, Inspection
from pneumocam.image import Radiograph, RadiographError, load_radiograph
from train.guard.fit import SUFFIXES

Change = Callable[[Image.Image], Image.Image]


def _jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("L")


def _gamma(power: float) -> Change:
    table = [round(255 * (value / 255) ** power) for value in range(256)]
    return lambda image: image.point(table)


def _cropped(image: Image.Image) -> Image.Image:
    return ImageOps.crop(image, round(0.05 * min(image.size)))


# Harmless changes, after which a radiograph has to be treated as before.
VARIANTS: dict[str, Change] = {
    "as it is": lambda image: image,
    "JPEG quality 30": _jpeg,
    "darker (gamma 1.6)": _gamma(1.6),
    "brighter (gamma 0.6)": _gamma(0.6),
    "5% cropped from each side": _cropped,
    "on a black border of 10%": lambda image: ImageOps.expand(image, round(0.1 * min(image.size))),
    "mirrored": ImageOps.mirror,
}
POSES = [(turns, inverted) for inverted in (False, True) for turns in range(4)][1:]


def share(flags: Sequence[bool]) -> dict[str, Any]:
    """The share of flags that are set, its exact 95% interval (Clopper and Pearson 1934), and n."""
    found = binomtest(int(sum(flags)), len(flags))
    interval = found.proportion_ci(0.95)
    return {"value": found.statistic, "ci": [float(interval.low), float(interval.high)], "n": len(flags)}


def measure_radiographs(guard: Guard, paths: Sequence[Path]) -> dict[str, Any]:
    """Refusals, corrections and warnings among real, upright radiographs, and recognised poses."""
    variants: dict[str, list[Inspection]] = {name: [] for name in VARIANTS}
    poses: dict[str, list[bool]] = {_pose_name(*pose): [] for pose in POSES}
    steps: dict[str, list[bool]] = {name: [] for name in VARIANTS}
    for path in tqdm(paths, "Radiographs", leave=False):
        radiograph = load_radiograph(path)
        image = radiograph.to_pil()
        for name, change in VARIANTS.items():
            given = _radiograph(change(image))
            found = guard(given)
            variants[name].append(found)
            steps[name].append(found.radiograph.steps != given.steps)
        for turns, inverted in POSES:
            posed = np.rot90(radiograph.pixels, turns)
            given = _radiograph(Image.fromarray(255 - posed if inverted else posed))
            found = guard(given)
            poses[_pose_name(turns, inverted)].append(np.array_equal(found.radiograph.pixels, radiograph.pixels))
    warned = [{doubt.code for doubt in found.warnings} for found in variants["as it is"]]
    return {
        "n": len(paths),
        "refused": {name: share([bool(found.refusal) for found in all_]) for name, all_ in variants.items()},
        "wrongly_corrected": {name: share(flags) for name, flags in steps.items()},
        "poses_recognised": {name: share(flags) for name, flags in poses.items()},
        "warned": {
            code: share([code in codes for codes in warned])
            for code in ("lateral_view", "cut_off", "poor_quality", "unlike_training")
        },
        "scores": [score(guard, found) for found in variants["as it is"]],
    }


def measure_others(guard: Guard, pictures: Mapping[str, Sequence[Radiograph]]) -> dict[str, Any]:
    """By kind: the share of pictures that are refused, and the share refused even where a prediction is forced."""
    figures = {}
    for kind, images in pictures.items():
        found = [guard(image) for image in tqdm(images, kind, leave=False)]
        figures[kind] = {
            "refused": share([bool(one.refusal) for one in found]),
            "refused_even_if_forced": share([bool(one.refusal and not one.refusal.can_be_forced) for one in found]),
            "scores": [score(guard, one) for one in found],
        }
    return figures


def score(guard: Guard, found: Inspection) -> float:
    """One number that is higher the more an image looks like a frontal chest radiograph, for ROC curves."""
    return found.measures["chest"] - 5 * found.measures["distance"] / guard.thresholds.far


def with_auroc(radiographs: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The figures of both without the scores, and the AUROC between them by source and kind."""
    negatives = [value for figures in others.values() for value in figures["scores"]]
    auroc = {}
    for source, figures in radiographs.items():
        truth = [True] * figures["n"] + [False] * len(negatives)
        auroc[source] = float(roc_auc_score(truth, figures["scores"] + negatives))
    refused = {kind: figures["refused"] for kind, figures in others.items()}
    together = sum(round(one["value"] * one["n"]) for one in refused.values())
    for figures in (*radiographs.values(), *others.values()):
        del figures["scores"]
    flags = [True] * together + [False] * (len(negatives) - together)
    return {"radiographs": radiographs, "others": others, "all_others_refused": share(flags), "auroc": auroc}


def read_pictures(folder: Path) -> dict[str, list[Radiograph]]:
    """Pictures below `folder/KIND` by kind, without those that image reading rejects."""
    return {kind.name: list(_readable(kind)) for kind in sorted(folder.iterdir()) if kind.is_dir()}


def _readable(folder: Path) -> Iterator[Radiograph]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            try:
                yield load_radiograph(path)
            except RadiographError:
                continue


def _radiograph(image: Image.Image) -> Radiograph:
    return load_radiograph(image)


def _pose_name(turns: int, inverted: bool) -> str:
    return " and ".join([f"rotated {90 * turns}"] * bool(turns) + ["inverted"] * inverted)
