"""What a run leaves: its bundle, its log and curves, and the provenance that the bundle tells."""

import csv
import io
import platform
import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import timm
import torch
from matplotlib.figure import Figure
from torch import nn

from pneumocam.bundle import SCHEMA_VERSION, Description, Point, write_bundle
from train.data import Manifest

Row = dict[str, float]


def save_bundle(
    model: nn.Module,
    folder: Path,
    label_names: tuple[str, ...],
    preprocessing: dict[str, Any],
    provenance: dict[str, Any],
    *,
    temperature: float = 1.0,
    operating_point: dict[str, float] | None = None,
    prior: dict[str, float] | None = None,
) -> None:
    """Write a bundle. Unless calibration is given, the network's own probabilities and a threshold of 0.5 are used.

    Args:
        model: the network.
        folder: is made if it does not exist.
        label_names: in the order of the logits.
        preprocessing: timm's data config.
        provenance: how the network was trained.
        temperature: the logits are divided by it before the softmax.
        operating_point: threshold and width of the uncertain band of the one operating point.
        prior: the share of each label that the probabilities are for; by default that of balanced draws.
    """
    point = Point.model_validate(operating_point or {"threshold": 0.5, "uncertain_log_odds": 0.0})
    description = Description(
        schema_version=SCHEMA_VERSION,
        temperature=temperature,
        prior=prior or even_prior(label_names),
        operating_points={"balanced": point},
        default_operating_point="balanced",
        training=provenance,
    )
    write_bundle(folder, model, label_names, preprocessing, description)


def even_prior(label_names: tuple[str, ...]) -> dict[str, float]:
    """Half NORMAL, the other half in equal parts: the shares that training draws and calibration weights."""
    return {name: 0.5 if name == "NORMAL" else 0.5 / (len(label_names) - 1) for name in label_names}


def write_log(histories: dict[int, list[Row]], folder: Path) -> None:
    """Write log.csv, a row an epoch, and curves.png: loss and accuracy of training and validation; by seed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["seed", *next(iter(histories.values()))[0]])
    writer.writeheader()
    writer.writerows({"seed": seed} | row for seed, history in histories.items() for row in history)
    write_atomically(folder / "log.csv", lambda path: path.write_text(text.getvalue(), newline=""))

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    parts = (("train", "training (augmented)", "C0"), ("val", "validation (weight average)", "C1"))
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, label, colour in parts:
            for i, history in enumerate(histories.values()):
                points = [row["epoch"] for row in history], [row[f"{part}_{name}"] for row in history]
                axes.plot(*points, ".-", color=colour, alpha=0.8, label=None if i else label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    write_atomically(folder / "curves.png", lambda path: figure.savefig(path, format="png", dpi=110))


def provenance(recipe: dict[str, Any], manifest: Manifest, history: list[Row], seed: int) -> dict[str, Any]:
    """What a bundle tells about its training, without a path."""
    run = {
        "seed": seed,
        "epochs": len(history),
        "best": min(history, key=lambda row: row["val_loss"]),
        "seconds": round(sum(row["seconds"] for row in history), 1),
        "peak_memory_gib": round(_peak_memory() / 2**30, 2),
    }
    splits = ("train", "val")
    return {
        "recipe": recipe,
        "manifest_sha256": manifest.sha256,
        "sources": {
            source: {
                split: dict(Counter(i.label for i in manifest.split(split) if i.source == source)) for split in splits
            }
            for source in manifest.sources
        },
        "images": {split: dict(Counter(i.label for i in manifest.split(split))) for split in splits},
        "patient_groups": {split: len({i.group for i in manifest.split(split)}) for split in splits},
        "left_out": list(manifest.left_out),
        "runs": [run],
        "versions": {
            "python": platform.python_version(),
            **{m.__name__: m.__version__ for m in (torch, timm, accelerate)},
        },
    }


def _peak_memory() -> int:
    """Most bytes that this process and the largest of its data loading processes have held."""
    kibibytes = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return 1024 * sum(kibibytes)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a temporary file first, so that a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    temporary.replace(path)
