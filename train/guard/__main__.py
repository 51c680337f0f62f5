"""Fit a bundle's guard and measure it.

    python -m train.guard.pictures others/
    python -m train.guard model --data children=DIR children=DIR2 adults=DIR3 --masks children=DIR4
        --others others/fit --held-out others/held_out

Radiographs of training patients are fitted on, those of validation patients are measured on. `--others` and
`--held-out` are folders with one folder of pictures for each kind (photo, document, CT slice, ...). They have to come
from different collections, or the figures say nothing about pictures that the guard has never seen. The kind `lateral`
is for chests from the side. Random drawings (see `train.guard.drawn`) are added to `--others`.
"""

import platform
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from pneumocam import BundleError, Classifier
from pneumocam.bundle import SCHEMA_VERSION, GuardDescription, read_guard, write_guard
from pneumocam.guard import Guard, load_guard, save_weights
from train.data import (
    DataError,
    LabelledImage,
    Manifest,
    Source,
    build_manifest,
    largest_copies,
    masks_of,
    roots_of,
    sources_from,
)
from train.evaluate import render_card
from train.guard.drawn import KINDS
from train.guard.fit import draw_others, finish, fit, limits_in_use, make_pool, read_others, read_radiographs
from train.guard.gallery import Gallery
from train.guard.measure import Case, measure_others, measure_radiographs, with_auroc


@dataclass(frozen=True)
class Config:
    """What to fit on, how long, and where the guard goes."""

    out: tyro.conf.Positional[Path]
    """The bundle's folder, to which guard.safetensors and guard.json are written, and its card anew."""
    data: tuple[str, ...]
    """Sources as in train.fit; those of the network, in their order, give the same training patients."""
    labels: tuple[str, ...] = ()
    """As in train.fit."""
    masks: tuple[str, ...] = ()
    """As in train.fit."""
    others: Path | None = None
    """Pictures that are no frontal chest radiograph, in a folder for each kind; needed to fit."""
    held_out: Path | None = None
    """Such pictures from other collections, to measure on."""
    gallery: Path | None = None
    """A PNG of what the guard got wrong, to look at."""
    measure_only: bool = False
    """Measure the guard that is in the bundle."""
    limits_only: bool = False
    """Set the limits on cut edges and detail of the guard that is in the bundle, and measure it."""
    steps: int = 2000
    batch: int = 27
    """Radiographs in a batch; each source gives a number in proportion to the square root of its own, at least 7."""
    pictures: int = 19
    """Other pictures in a batch."""
    drawn: int = 220
    """Drawings of each kind."""
    learning_rate: float = 3e-3
    changed: int | None = None
    """Radiographs of each source, drawn by the seed, that are also measured turned, damaged, ...; by default all."""
    val_fraction: float = 0.15
    split_seed: int = 0
    seed: int = 0


def run(config: Config) -> GuardDescription:
    """Fit, set the limits, measure and write the guard.

    Raises:
        DataError: the data cannot be used, or `others` is missing.
        BundleError: the bundle to measure has no usable guard.
    """
    sources = sources_from(config.data, config.labels, config.masks)
    manifest = build_manifest(sources, val_fraction=config.val_fraction, seed=config.split_seed)
    if not (config.measure_only or config.limits_only):
        _fit(config, sources, manifest)
    found, guard = read_guard(config.out), load_guard(config.out)
    if found is None or guard is None:
        raise DataError(f"{config.out} has no guard to measure. Leave --measure-only out to fit one.")
    if not config.measure_only:
        paths = [[case.path for case in _cases(one, sources, manifest, "train")] for one in sources]
        limits = found.thresholds.model_copy(update=limits_in_use(guard, paths))
        found, guard = found.model_copy(update={"thresholds": limits}), replace(guard, thresholds=limits)
    gallery = Gallery()
    description = found.model_copy(update={"measured": _measured(config, guard, sources, manifest, gallery)})
    write_guard(config.out, description)
    if config.gallery:
        gallery.save(config.gallery)
    if (config.out / "metrics.json").is_file():
        classifier = Classifier.from_pretrained(f"local-dir:{config.out}")
        (config.out / "README.md").write_text(render_card(classifier, dict(classifier.metrics or {})))
    return description


def _fit(config: Config, sources: list[Source], manifest: Manifest) -> None:
    """Write a new guard, not measured yet."""
    if config.others is None:
        raise DataError("--others is missing: give a folder with one folder of other pictures for each kind.")
    read = []
    for source in sources:
        cases = _cases(source, sources, manifest, "train")
        read.append(read_radiographs([case.path for case in cases], [case.mask for case in cases]))
    numbers = np.sqrt([len(part.images) for part in read])
    counts = tuple(max(7, round(config.batch * share)) for share in numbers / numbers.sum())
    pictures, kinds = read_others(config.others, np.random.default_rng(config.seed))
    drawings, drawn_kinds = draw_others(config.drawn, config.seed)
    network = fit(
        make_pool(read, torch.cat([pictures, drawings]), kinds + drawn_kinds),
        steps=config.steps,
        radiographs=counts,
        others=config.pictures,
        rate=config.learning_rate,
        seed=config.seed,
    )
    training = {
        "manifest_sha256": manifest.sha256,
        "radiographs": {source.name: len(part.images) for source, part in zip(sources, read, strict=True)},
        "with_lung_mask": {s.name: int(part.masked.sum()) for s, part in zip(sources, read, strict=True)},
        "other_pictures": dict(Counter(kinds)) | {"random drawings": len(drawn_kinds)},
        "drawn_kinds": list(KINDS),
        "recipe": {"radiographs": counts}
        | {name: getattr(config, name) for name in ("steps", "pictures", "learning_rate", "seed")},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    guard = finish(network, read)
    save_weights(config.out, guard)
    write_guard(
        config.out, GuardDescription(schema_version=SCHEMA_VERSION, thresholds=guard.thresholds, training=training)
    )


def _measured(
    config: Config, guard: Guard, sources: list[Source], manifest: Manifest, gallery: Gallery
) -> dict[str, Any]:
    radiographs = {}
    for source in sources:
        cases = _cases(source, sources, manifest, "val")
        order = np.random.default_rng(config.seed).permutation(len(cases))
        changed = {cases[i] for i in order[: config.changed]}
        radiographs[source.name] = measure_radiographs(guard, cases, gallery, changed=changed)
    others = measure_others(guard, config.held_out, gallery) if config.held_out else {}
    same = manifest.sha256 == guard.training.get("manifest_sha256")
    split = "patients and collections held out" if same else "other data than it was fitted on; not checked for overlap"
    return {"split": split, "manifest_sha256": manifest.sha256} | with_auroc(radiographs, others)


def _cases(source: Source, sources: list[Source], manifest: Manifest, split: str) -> list[Case]:
    """Each image of a source once, the largest of its copies."""
    roots, folder = roots_of(sources), masks_of(sources).get(source.name)
    own: list[LabelledImage] = [image for image in manifest.split(split) if image.source == source.name]
    cases = []
    for image in largest_copies(own, roots):
        mask = folder / Path(image.path).with_suffix(".png") if folder else None
        cases.append(Case(roots[image.root] / image.path, mask if mask and mask.is_file() else None, image.group))
    return cases


def main() -> None:
    try:
        description = run(tyro.cli(Config, description=__doc__))
    except (DataError, BundleError) as error:
        raise SystemExit(f"train.guard: {error}") from None
    print(description.model_dump_json(indent=2, include={"thresholds", "measured"}))


if __name__ == "__main__":
    main()
