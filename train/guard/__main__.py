"""Fit a bundle's guard and measure it.

    python -m train.guard model --data guangzhou=DIR nih=DIR --masks guangzhou=DIR --others DIR --held-out DIR

`--others` and `--held-out` are folders with one folder of pictures for each kind (photo, page, ct, ...). They have to
come from different collections, or the figures say nothing about pictures that the guard has never seen. The kind
`lateral` is for chests from the side. Random drawings (see `train.guard.drawn`) are added to `--others`.
"""

import platform
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from pneumocam.bundle import SCHEMA_VERSION, GuardDescription, write_guard
from pneumocam.guard import Guard, load_guard, save_weights
from train.data.folders import DataError
from train.data.manifest import LabelledImage, Manifest, Source, build_manifest, masks_of, roots_of, sources_from
from train.guard.drawn import KINDS
from train.guard.fit import draw_others, finish, fit, make_pool, read_others, read_radiographs
from train.guard.measure import measure_others, measure_radiographs, read_pictures, with_auroc


@dataclass(frozen=True)
class Config:
    """What to fit on, how long, and where the guard goes."""

    out: tyro.conf.Positional[Path]
    """The bundle's folder, to which guard.safetensors and guard.json are written."""
    data: tuple[str, ...]
    """`NAME=PLACE` as in train.fit; where several folders hold the same images, the first is fitted on."""
    others: Path | None = None
    """Pictures that are no frontal chest radiograph, in a folder for each kind; needed to fit."""
    held_out: Path | None = None
    """Such pictures from other collections, to measure on."""
    masks: tuple[str, ...] = ()
    """`NAME=FOLDER`: lung masks of a source, as PNG of the same path as the image."""
    measure_only: bool = False
    """Measure the guard that is in the bundle."""
    steps: int = 2000
    radiographs: tuple[int, ...] = (20, 7)
    """Radiographs of each source in a batch."""
    pictures: int = 19
    """Other pictures in a batch."""
    drawn: int = 220
    """Drawings of each kind."""
    learning_rate: float = 3e-3
    val_fraction: float = 0.15
    split_seed: int = 0
    seed: int = 0


def run(config: Config) -> GuardDescription:
    """Fit, set the limits, measure and write the guard.

    Raises:
        DataError: the data cannot be used, or `others` is missing.
        BundleError: the bundle to measure has no usable guard.
    """
    sources = sources_from(config.data, masks=config.masks)
    manifest = build_manifest(sources, val_fraction=config.val_fraction, seed=config.split_seed)
    if config.measure_only:
        guard = load_guard(config.out)
        if guard is None:
            raise DataError(f"{config.out} has no guard to measure. Leave --measure-only out to fit one.")
        training: dict[str, Any] = dict(guard.training)
    else:
        guard, training = _fitted(config, sources, manifest)
    description = GuardDescription(
        schema_version=SCHEMA_VERSION,
        thresholds=guard.thresholds,
        training=training,
        measured=_measured(config, guard, sources, manifest),
    )
    if not config.measure_only:
        save_weights(config.out, guard)
    write_guard(config.out, description)
    return description


def _fitted(config: Config, sources: list[Source], manifest: Manifest) -> tuple[Guard, dict[str, Any]]:
    if config.others is None:
        raise DataError("--others is missing: give a folder with one folder of other pictures for each kind.")
    if len(config.radiographs) != len(sources):
        raise DataError(f"--radiographs has {len(config.radiographs)} numbers; expected {len(sources)}, one a source.")
    roots, masks = roots_of(sources), masks_of(sources)
    read = []
    for source in sources:
        images = _first_copies(source, manifest, "train")
        folder = masks.get(source.name)
        found = [folder / Path(image.path).with_suffix(".png") if folder else None for image in images]
        paths = [roots[image.root] / image.path for image in images]
        read.append(read_radiographs(paths, [mask if mask and mask.is_file() else None for mask in found]))
    pictures, kinds = read_others(config.others, np.random.default_rng(config.seed))
    drawings, drawn_kinds = draw_others(config.drawn, config.seed)
    kinds += drawn_kinds
    network = fit(
        make_pool(read, torch.cat([pictures, drawings]), kinds),
        steps=config.steps,
        radiographs=config.radiographs,
        others=config.pictures,
        rate=config.learning_rate,
        seed=config.seed,
    )
    training = {
        "manifest_sha256": manifest.sha256,
        "radiographs": {source.name: len(part.images) for source, part in zip(sources, read, strict=True)},
        "with_lung_mask": {s.name: int(part.masked.sum()) for s, part in zip(sources, read, strict=True)},
        "other_pictures": dict(Counter(kinds)),
        "drawn_kinds": list(KINDS),
        "recipe": {
            name: getattr(config, name) for name in ("steps", "radiographs", "pictures", "learning_rate", "seed")
        },
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    return finish(network, read), training


def _measured(config: Config, guard: Guard, sources: list[Source], manifest: Manifest) -> dict[str, Any]:
    roots = roots_of(sources)
    radiographs = {}
    for source in sources:
        paths = [roots[image.root] / image.path for image in _first_copies(source, manifest, "val")]
        radiographs[source.name] = measure_radiographs(guard, paths)
    others = measure_others(guard, read_pictures(config.held_out)) if config.held_out else {}
    return {"split": "patients held out", "manifest_sha256": manifest.sha256} | with_auroc(radiographs, others)


def _first_copies(source: Source, manifest: Manifest, split: str) -> list[LabelledImage]:
    """Each image of a source once, from the first folder that holds it."""
    own: dict[tuple[str, ...], LabelledImage] = {}
    for image in manifest.split(split):
        if image.source == source.name:
            own.setdefault(image.key, image)
    return list(own.values())


def main() -> None:
    try:
        description = run(tyro.cli(Config, description=__doc__))
    except DataError as error:
        raise SystemExit(f"train.guard: {error}") from None
    print(description.model_dump_json(indent=2, include={"thresholds", "measured"}))


if __name__ == "__main__":
    main()
