"""Label noise: training images whose label networks that never saw them contradict, and what leaving them out changes.

    python -m train.noise folds --data children=DIR adults=DIR --out runs/noise
    python -m train.fit --data children=DIR adults=DIR --manifest runs/noise/fold-0.csv --out runs/noise/fold-0
    python -m train.noise find runs/noise/fold-* --out runs/noise         # suspects.csv, suspects.png, new manifests
    python -m train.fit --data children=DIR adults=DIR --manifest runs/noise/dropped.csv --out runs/noise/dropped-0
    python -m train.noise compare runs/noise/all-* runs/noise/dropped-* --out noise.json

The suspects are found by confident learning (Northcutt et al. 2021, cleanlab), source by source, in out-of-fold
probabilities: once for pneumonia or not, and once for the subtype where it is known.
"""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from cleanlab.filter import find_label_issues
from matplotlib.figure import Figure
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold
from torch.utils.flop_counter import FlopCounterMode

from pneumocam import Classifier
from train.data import (
    SUBTYPES,
    DataError,
    LabelledImage,
    Manifest,
    build_manifest,
    largest_copies,
    roots_of,
    sources_from,
)
from train.evaluate import score
from train.fit import read_config
from train.metrics import Floats, Ints
from train.record import write_atomically
from train.scored import Scored, by_source, gain, over_seeds

FIGURES = ("auroc", "sensitivity", "specificity")
SHOWN = 40  # suspects of each source on the contact sheet, the most contradicted first


@dataclass(frozen=True)
class Folds:
    """Divide the training images into folds: one manifest for each, in which that fold is validated on."""

    data: tuple[str, ...]
    """As in train.fit."""
    labels: tuple[str, ...] = ()
    """As in train.fit."""
    folds: int = 3
    val_fraction: float = 0.15
    """As in train.fit: these images are in no fold; `compare` measures runs on them."""
    split_seed: int = 0
    out: Path = Path("runs/noise")


@dataclass(frozen=True)
class Find:
    """Find suspect labels from one finished run for each fold."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path = Path("runs/noise")
    """The folder of the manifests that `folds` wrote."""


@dataclass(frozen=True)
class Compare:
    """Measure runs on the validation images that no fold has; runs alike in manifest and network are a row."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path = Path("noise.json")
    resamples: int = 1000
    """Bootstrap resamples, by patient."""
    seed: int = 0


@dataclass(frozen=True)
class Suspect:
    """An image whose label the networks contradict.

    Attributes:
        question: pneumonia, or subtype.
        label, suggested: the label that it has, and the one that the networks give.
        p_label: probability of its label among the answers to the question, in [0, 1].
    """

    source: str
    path: str
    question: Literal["pneumonia", "subtype"]
    label: str
    suggested: str
    p_label: float


def folds(config: Folds) -> list[Path]:
    """Write all.csv and fold-0.csv, fold-1.csv, ... No patient is in two folds.

    Raises:
        DataError: the data cannot be used, or has fewer patients than folds.
    """
    manifest = build_manifest(
        sources_from(config.data, config.labels), val_fraction=config.val_fraction, seed=config.split_seed
    )
    manifest.write(config.out / "all.csv")
    training = manifest.split("train")
    groups = [image.group for image in training]
    if len(set(groups)) < config.folds:
        raise DataError(f"{len(set(groups))} patients to train on are too few for {config.folds} folds.")
    strata = [f"{image.source} {image.label}" for image in training]
    splitter = StratifiedGroupKFold(config.folds, shuffle=True, random_state=config.split_seed)
    paths = []
    for number, (_, members) in enumerate(splitter.split(np.zeros(len(training)), strata, groups)):
        chosen = {groups[i] for i in members}

        def use(image: LabelledImage, chosen: set[int] = chosen) -> str:
            return "excluded" if image.split != "train" else "val" if image.group in chosen else "train"

        paths.append(config.out / f"fold-{number}.csv")
        Manifest(tuple(replace(image, split=use(image)) for image in manifest.images)).write(paths[-1])
    return paths


def find(config: Find) -> list[Suspect]:
    """Write suspects.csv, suspects.png and the manifests dropped.csv, dropped-both.csv and relabelled.csv.

    dropped.csv leaves out the suspects of the first question (pneumonia or not), dropped-both.csv those of both, and
    relabelled.csv gives the suspects of both the suggested label.

    Returns:
        The suspects, the most contradicted first.

    Raises:
        DataError: a run is not finished, two runs validated the same image, or an image of all.csv is in no fold.
    """
    scored: list[Scored] = [_out_of_fold(run) for run in config.runs]
    seen = Counter(image.key for one in scored for image in one.images)
    if twice := sum(n > 1 for n in seen.values()):
        raise DataError(f"{twice} images were validated by several of the runs; give one run of each fold.")
    last = read_config(config.runs[-1])
    roots = roots_of(sources_from(last.data, last.labels))
    whole = Manifest.read(config.out / "all.csv", roots)
    if left := {image.key for image in whole.split("train")} - seen.keys():
        raise DataError(
            f"{len(left)} training images have no prediction; give one run of each fold, and images that can be read."
        )
    suspects = []
    for source in dict.fromkeys(s for one in scored for s in one.sources):
        parts = [by_source(one)[source] for one in scored]
        images = [image for part in parts for image in part.images]
        suspects += suspects_of(images, np.concatenate([part.probabilities for part in parts]), parts[0].names)
    suspects.sort(key=lambda suspect: suspect.p_label)
    _write_csv(suspects, config.out / "suspects.csv")
    write_manifests(whole, suspects, config.out)
    files = {(i.source, i.path): path for one in scored for i, path in zip(one.images, one.paths, strict=True)}
    _contact_sheet(suspects, files, config.out / "suspects.png")
    return suspects


def compare(config: Compare) -> list[dict[str, Any]]:
    """Write a row for each manifest, architecture, image size and source.

    A row has n, AUROC, sensitivity and specificity at even odds, the floating-point operations of a pass, and, if the
    first row of its source has the same validation images, the gain of AUROC over that row.

    Raises:
        DataError: a run is not finished, or runs were validated on different images.
    """
    found: dict[tuple[str, str, int, str], list[Scored]] = defaultdict(list)
    operations: dict[tuple[str, int], float] = {}
    for run in config.runs:
        recipe = read_config(run)
        manifest = recipe.manifest.stem if recipe.manifest else "all"
        for source, part in by_source(_out_of_fold(run)).items():
            found[manifest, recipe.arch, recipe.image_size, source].append(part)
        operations.setdefault((recipe.arch, recipe.image_size), _operations(run))
    first: dict[str, list[Scored]] = {}
    rows = []
    for (manifest, arch, side, source), seeds in found.items():
        row = {
            "manifest": manifest,
            "arch": arch,
            "image_size": side,
            "gflop": operations[arch, side],
            "source": source,
        }
        rows.append(row | _row(manifest, source, seeds, first.setdefault(source, seeds), config))
    config.out.write_text(json.dumps(rows, indent=2) + "\n")
    return rows


def _out_of_fold(run: Path) -> Scored:
    """A finished run's own validation images, each once, with its predictions."""
    if not (run / "bundle" / "pneumocam.json").is_file():
        raise DataError(f"{run} is no finished run of train.fit; start it, or go on with it by --resume.")
    config = read_config(run)
    sources = sources_from(config.data, config.labels)
    roots = roots_of(sources)
    images = largest_copies(Manifest.read(run / "manifest.csv", roots).split("val"), roots)
    return score(Classifier.from_pretrained(f"local-dir:{run / 'bundle'}"), images, sources)


def suspects_of(images: Sequence[LabelledImage], probabilities: Floats, names: Sequence[str]) -> list[Suspect]:
    """The suspects among N images of one source.

    Args:
        images: with the labels that they have.
        probabilities: (N, K), out of fold, in the order of `names`.
        names: the network's classes, NORMAL first.
    """
    ill = np.array([image.label != "NORMAL" for image in images], dtype=np.int64)
    both = np.stack([probabilities[:, 0], 1 - probabilities[:, 0]], axis=1)  # (N, 2)
    known = [i for i, image in enumerate(images) if image.label in SUBTYPES[1:]]

    def disease(i: int) -> str:
        return names[1 + int(probabilities[i, 1:].argmax())] if known else "PNEUMONIA"

    found = [
        Suspect(
            images[i].source,
            images[i].path,
            "pneumonia",
            images[i].label,
            "NORMAL" if ill[i] else disease(i),
            float(both[i, ill[i]]),
        )
        for i in _contradicted(ill, both)
    ]
    if not known:
        return found
    subtypes = probabilities[known, 1:] / probabilities[known, 1:].sum(axis=1, keepdims=True)  # (M, K - 1)
    labels = np.array([names[1:].index(images[i].label) for i in known])
    return found + [
        Suspect(
            images[known[i]].source,
            images[known[i]].path,
            "subtype",
            images[known[i]].label,
            disease(known[i]),
            float(subtypes[i, labels[i]]),
        )
        for i in _contradicted(labels, subtypes)
    ]


def _contradicted(labels: Ints, probabilities: Floats) -> list[int]:
    # One process: a thousand images take less than a second.
    order = find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return [int(i) for i in order]


def write_manifests(whole: Manifest, suspects: Sequence[Suspect], out: Path) -> None:
    """Write the manifests that `find` describes. Validation images keep their labels."""
    at = {(image.source, image.path): image.key for image in whole.images}
    ill = {at[s.source, s.path]: s.suggested for s in suspects if s.question == "pneumonia"}
    both = {at[s.source, s.path]: s.suggested for s in suspects} | ill

    def without(keys: dict[Any, str]) -> Manifest:
        return Manifest(tuple(replace(i, split="excluded") if i.key in keys else i for i in whole.images))

    def relabel(image: LabelledImage) -> LabelledImage:
        return replace(image, label=both[image.key]) if image.key in both else image

    without(ill).write(out / "dropped.csv")
    without(both).write(out / "dropped-both.csv")
    Manifest(tuple(map(relabel, whole.images))).write(out / "relabelled.csv")


def _write_csv(suspects: Sequence[Suspect], path: Path) -> None:
    def write(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Suspect)])
            writer.writeheader()
            writer.writerows(asdict(suspect) for suspect in suspects)

    write_atomically(path, write)


def _contact_sheet(suspects: Sequence[Suspect], paths: dict[tuple[str, str], Path], out: Path) -> None:
    """A picture of the most contradicted suspects of each source for the trainer's eyes."""
    shown = [
        suspect
        for source in dict.fromkeys(s.source for s in suspects)
        for suspect in [s for s in suspects if s.source == source and s.question == "pneumonia"][:SHOWN]
    ]
    columns = 10
    figure = Figure(figsize=(2 * columns, 2.4 * max(1, -(-len(shown) // columns))), layout="constrained")
    for number, suspect in enumerate(shown):
        axes = figure.add_subplot(-(-len(shown) // columns), columns, number + 1)
        with Image.open(paths[suspect.source, suspect.path]) as image:
            axes.imshow(image.convert("L").resize((160, 160)), cmap="gray")
        axes.set_title(f"{suspect.label}\n{suspect.suggested}? {suspect.p_label:.2f}", fontsize=8)
        axes.axis("off")
    figure.savefig(out, dpi=80)


def _row(manifest: str, source: str, seeds: list[Scored], reference: list[Scored], config: Compare) -> dict[str, Any]:
    first = seeds[0]
    if any(one.images != first.images for one in seeds):
        raise DataError(f"The runs of {manifest} have other validation images of {source} than each other.")
    intervals = {"resamples": config.resamples, "seed": config.seed}
    return {
        "seeds": len(seeds),
        **over_seeds(seeds, **intervals),
        "gain": None if seeds is reference else gain(seeds, reference, **intervals),
    }


def _operations(run: Path) -> float:
    """Billions of floating-point operations of the network's pass over one image."""
    classifier = Classifier.from_pretrained(f"local-dir:{run / 'bundle'}")
    with FlopCounterMode(display=False) as counter:
        classifier.head(classifier.features(torch.zeros(1, *classifier.preprocessing["input_size"])))
    total: int = counter.get_total_flops()
    return round(total / 1e9, 3)


def main() -> None:
    config = tyro.extras.subcommand_cli_from_dict(
        {"folds": Folds, "find": Find, "compare": Compare}, description=__doc__
    )
    try:
        if isinstance(config, Folds):
            for path in folds(config):
                print(path)
        elif isinstance(config, Find):
            suspects = find(config)
            for (source, question), n in Counter((s.source, s.question) for s in suspects).items():
                print(f"{source}: {n} suspect labels ({question})")
        else:
            for row in compare(config):
                names = (row[name] for name in ("manifest", "arch", "image_size", "source"))
                print(*names, *(f"{row[name]['value']:.3f}" for name in FIGURES))
    except DataError as error:
        raise SystemExit(f"train.noise: {error}") from None


if __name__ == "__main__":
    main()
