"""Measure a bundle on labelled radiographs: metrics.json, figures and, in the bundle itself, the model card.

    python -m train.evaluate model --data DIR [DIR ...]                # the validation images of its own training
    python -m train.evaluate model --data children=DIR adults=DIR      # of several sources
    python -m train.evaluate model --data DIR --split test --out DIR2  # an official test folder, or any other

Every image goes the way of an upload: `pneumocam.predict_many`, one file at a time, whatever its size and format.
"""

import csv
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import tyro
from tqdm import tqdm

from pneumocam import BundleError, Classifier, load_radiograph, predict_many
from train.audit import (
    COUNTERFACTUALS,
    SURROUNDINGS,
    answers,
    baseline,
    blocks,
    counterfactuals,
    file_facts,
    spectrum,
    surroundings,
    variants,
)
from train.data import (
    DataError,
    LabelledImage,
    Manifest,
    Source,
    build_manifest,
    labelled_folder,
    largest_copies,
    masks_of,
    read_mask,
    roots_of,
    sources_from,
    text_found,
)
from train.figures import draw, draw_failures
from train.maps import masked, measure_maps
from train.metrics import Floats, binary_probability
from train.scored import (
    Scored,
    at_point,
    by_console,
    by_folder,
    by_size,
    by_source,
    calibration,
    coverage,
    measure,
    part,
)

CARD = Path(__file__).parents[1] / "model_card.md"
HOSPITALS = "hospitals.json"  # in a bundle: figures of models of one source on the images of another


@dataclass(frozen=True)
class Config:
    """What to measure."""

    model: tyro.conf.Positional[str]
    """A bundle's folder, `hf-hub:owner/name@revision`, or `bundled`."""
    data: tuple[str, ...]
    """Sources as in train.fit; for the validation split give the same ones in the same order."""
    labels: tuple[str, ...] = ()
    """As in train.fit."""
    masks: tuple[str, ...] = ()
    """As in train.fit: for images with another outside."""
    split: Literal["val", "train", "test", "all"] = "val"
    """`val`: the patients held out by this bundle's own training; `test`, `train`: the folder of that name; `all`:
    every image found."""
    manifest: Path | None = None
    """For `val`: the manifest.csv of a run that was given one, instead of making its split anew."""
    out: Path | None = None
    """Where metrics.json and the figures go; by default the bundle's folder for `val`, else no default."""
    audit: bool = True
    """Measure the images in twenty other files and surroundings too, and what tells the classes apart without lungs."""
    audit_images: int | None = None
    """Audit about this number of images of each source, whole patients drawn by the seed; by default all of them."""
    map_images: int = 0
    """Measure the saliency maps of at most this number of images of each source, as `python -m train.maps` does."""
    originals: Path | None = None
    """Where --data are copies: a CSV of their originals (file, width, height, bytes, mean_luma_quantisation)."""
    batch_size: int = 32
    resamples: int = 1000
    """Bootstrap resamples, by patient."""
    seed: int = 0

    @property
    def intervals(self) -> dict[str, int]:
        return {"resamples": self.resamples, "seed": self.seed}


def run(config: Config) -> dict[str, Any]:
    """Evaluate, write metrics.json and the figures, and return the metrics.

    Raises:
        DataError: the data cannot be read, or holds none of the images asked for.
        BundleError: the model cannot be loaded.
    """
    folder = Path(config.model)
    out = config.out or (folder if config.split == "val" and folder.is_dir() else None)
    if out is None:
        raise DataError("Give --out DIR: only validation figures belong in the bundle's own folder.")
    origin = None if config.model == "bundled" else f"local-dir:{folder}" if folder.is_dir() else config.model
    # Without its guard: the figures are those of the network, on every image that can be read.
    bundle = Classifier.from_pretrained(origin)
    classifier = replace(bundle, guard=None)
    sources = sources_from(config.data, config.labels, config.masks)
    roots = roots_of(sources)
    manifest, images = _images(config, classifier, sources)
    copies = score(classifier, images, sources, batch_size=config.batch_size)
    largest = set(largest_copies(copies.images, roots))
    scored = copies.only(i for i, image in enumerate(copies.images) if image in largest)
    point = classifier.operating_point

    def describe(one: Scored) -> dict[str, Any]:
        return part(one, threshold=point.threshold, **config.intervals)

    def calibrated(some: list[Scored]) -> dict[str, Any]:
        return calibration(some, 1 - classifier.prior["NORMAL"], **config.intervals) if classifier.prior else {}

    parts = by_source(scored)
    metrics = {
        "model": {"id": classifier.id, "revision": classifier.revision},
        "split": _describe(config, classifier, manifest),
        "manifest_sha256": manifest.sha256,
        "command": _command(config),
        "operating_point": point.name,
        "longer_side": _spread([max(facts[:2]) for facts in copies.facts]),
        "rejected": len(images) - len(copies.images),
        "label_names": list(classifier.label_names),
        **measure(scored, threshold=point.threshold, **config.intervals),
        "operating_points": _points(scored, classifier, config),
        "risk_coverage": coverage(scored, point.threshold, **config.intervals),
        "by_source": {
            name: describe(one)
            | {"operating_points": _points(one, classifier, config), "calibration": calibrated([one])}
            for name, one in parts.items()
        },
        "calibration": calibrated(list(parts.values())),
        "by_folder": {name: describe(one) for name, one in by_folder(copies, roots).items()},
        "by_size": {name: describe(one) for name, one in by_size(scored, _originals(config)).items()},
        "by_console": by_console(scored, point.threshold, **config.intervals),
    }
    if config.audit:
        metrics["audit"] = _audit(config, classifier, scored, sources)
    if config.map_images:
        chosen = masked(largest_copies(copies.images, roots), sources, config.map_images, seed=config.seed)
        metrics["maps"] = measure_maps(bundle, chosen, **config.intervals)
    if (folder / HOSPITALS).is_file():
        metrics["hospitals"] = json.loads((folder / HOSPITALS).read_text())
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    draw(scored, metrics, point.threshold, out)
    draw_failures(scored, classifier, out)
    if out == folder and classifier.training and config.audit:
        (out / "README.md").write_text(render_card(bundle, metrics))
    return metrics


def score(
    classifier: Classifier, images: list[LabelledImage], sources: list[Source], *, batch_size: int = 32
) -> Scored:
    """Predictions for all images that can be read.

    Raises:
        DataError: none of them can be read.
    """
    roots, masks = roots_of(sources), masks_of(sources)
    paths = [roots[image.root] / image.path for image in images]
    predictions = tqdm(predict_many(classifier, paths, batch_size=batch_size), "Evaluating", len(images))
    # Not the predictions themselves: each holds its radiograph and its features.
    given = [(list(p.probabilities.values()), p.reason) for p in predictions]
    read = [i for i, (probabilities, _) in enumerate(given) if probabilities]
    if not read:
        reason = given[0][1]
        raise DataError(
            f"None of the {len(images)} images could be read; {paths[0]} first: {reason and reason.message}"
        )
    kept = [images[i] for i in read]
    return Scored(
        kept,
        [paths[i] for i in read],
        [file_facts(paths[i]) for i in read],
        np.array([text_found(image, roots, masks) for image in kept]),
        np.array([given[i][0] for i in read]),
        classifier.label_names,
    )


def _points(scored: Scored, classifier: Classifier, config: Config) -> dict[str, Any]:
    return {name: at_point(scored, point, **config.intervals) for name, point in classifier.operating_points.items()}


def _spread(values: list[float]) -> dict[str, float]:
    return {"smallest": min(values), "median": float(np.median(values)), "largest": max(values)}


def _command(config: Config) -> str:
    names = [one.partition("=")[0] + "=" for one in config.data if "=" in one and not Path(one).exists()]
    data = " ".join(f"{name}DIR" for name in names) or "DIR..."
    options = " --masks NAME=DIR" * bool(config.masks) + " --originals CSV" * bool(config.originals)
    if config.audit_images:
        options += f" --audit-images {config.audit_images}"
    if config.map_images:
        options += f" --map-images {config.map_images}"
    return f"python -m train.evaluate {Path(config.model).name} --data {data} --split {config.split}{options}"


def _originals(config: Config) -> dict[str, list[float]]:
    """File facts of the originals, as `file_facts` gives them, by file name."""
    if config.originals is None:
        return {}
    try:
        with config.originals.open(newline="") as file:
            return {
                Path(row["file"]).name: [
                    (width := float(row["width"])),
                    (height := float(row["height"])),
                    width / height,
                    float(row["bytes"]) / (width * height),
                    float(row["mean_luma_quantisation"]),
                ]
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"--originals {config.originals} cannot be used ({error!r}); expected a CSV with the columns file, width, "
            "height, bytes, mean_luma_quantisation."
        ) from error


def _drawn(scored: Scored, images: int | None, seed: int) -> list[int]:
    """About `images` images of each source, of patients drawn at random, in their order; by default all of them."""
    rng, drawn = np.random.default_rng(seed), set()
    for one in by_source(scored).values():
        patients = rng.permutation(np.unique(one.groups))
        size = Counter(one.groups)
        before = np.cumsum([0, *(size[patient] for patient in patients)])[:-1]
        drawn |= set(patients[before < (images or len(scored.images))].tolist())
    return [i for i, group in enumerate(scored.groups) if group in drawn]


def _audit(config: Config, classifier: Classifier, scored: Scored, sources: list[Source]) -> dict[str, Any]:
    scored = scored.only(_drawn(scored, config.audit_images, config.seed))
    originals = _originals(config)
    known = [i for i, path in enumerate(scored.paths) if path.name in originals]
    pictures = [load_radiograph(path).to_pil() for path in tqdm(scored.paths, "Texture", leave=False)]
    everyone = list(range(len(scored.images)))
    baselines: dict[str, tuple[list[int], list[Any]]] = {
        "file facts": (everyone, scored.facts),
        "file facts of the originals": (known, [originals[scored.paths[i].name] for i in known]),
        "spectrum": (everyone, [spectrum(picture) for picture in pictures]),
        "8 px blocks": (everyone, [blocks(picture) for picture in pictures]),
        "source and burned-in text": (
            everyone,
            [[scored.sources.index(s), t] for s, t in zip(scored.sources, scored.texts, strict=True)],
        ),
    }

    def answer(images: Iterable[Path | bytes], caption: str) -> Floats:
        given = answers(classifier, images, len(scored.images), caption, batch_size=config.batch_size)
        return binary_probability(given, classifier.label_names)

    def of(indices: list[int], features: list[Any]) -> dict[str, Any] | None:
        one = scored.only(indices).collapsed()
        return baseline(
            np.array(features), one.labels, one.groups, one.names, answers=one.pneumonia, **config.intervals
        )

    masks, ill = masks_of(sources), scored.ill.tolist()
    lungs = [read_mask(masks.get(image.source), image.path) for image in scored.images]
    files = {name: variants(name, scored.paths, ill) for name in COUNTERFACTUALS} | {
        name: surroundings(name, scored.paths, ill, scored.sources, lungs, seed=config.seed) for name in SURROUNDINGS
    }
    return {
        "baselines": {name: of(*given) for name, given in baselines.items() if given[1]},
        "counterfactuals": counterfactuals(
            answer,
            files,
            scored.ill,
            scored.groups,
            scored.sources,
            original=scored.pneumonia,
            threshold=classifier.operating_point.threshold,
            uncertain=scored.uncertain(classifier.operating_point),
            **config.intervals,
        ),
    }


def render_card(classifier: Classifier, metrics: dict[str, Any], *, repo: str | None = None) -> str:
    """model_card.md with every number filled in from the bundle and its metrics.

    Args:
        classifier: the bundle's, with its guard, whose figures are on the card too.
        metrics: what `run` measured, with its audit.
        repo: owner/name on the Hub, for the lines that tell how to load it.

    Raises:
        jinja2.UndefinedError: a number that the card asks for is not there.
    """
    template = jinja2.Template(CARD.read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    card: str = template.render(
        architecture=classifier.training["recipe"]["arch"],
        labels=classifier.label_names,
        training=classifier.training,
        temperature=classifier.temperature,
        metrics=metrics,
        guard=classifier.guard,
        repo=repo,
        source=f"hf-hub:{repo}" if repo else "local-dir:model",
    )
    return card


def _images(config: Config, classifier: Classifier, sources: list[Source]) -> tuple[Manifest, list[LabelledImage]]:
    """The images to measure, with all their copies."""
    if config.split == "val":
        recipe = classifier.training.get("recipe", {})
        if config.manifest:
            manifest = Manifest.read(config.manifest, roots_of(sources))
        else:
            manifest = build_manifest(
                sources, val_fraction=recipe.get("val_fraction", 0.15), seed=recipe.get("split_seed", 0)
            )
        images = manifest.split("val")
    else:
        manifest = labelled_folder(sources)
        images = [image for image in manifest.images if config.split in ("all", image.folder)]
    if not images:
        found = dict(Counter(image.folder for image in manifest.images))
        raise DataError(f"No images of --split {config.split}; found {found}.")
    return manifest, list(images)


def _describe(config: Config, classifier: Classifier, manifest: Manifest) -> str:
    if config.split != "val":
        return f"{config.split}; not checked against the images trained on"
    if manifest.sha256 == classifier.training.get("manifest_sha256"):
        return "validation, patients held out from training"
    return "validation by the recipe's seed on other data than it was trained on: images of it may have been trained on"


def main() -> None:
    try:
        metrics = run(tyro.cli(Config, description=__doc__))
    except (DataError, BundleError) as error:
        raise SystemExit(f"train.evaluate: {error}") from None
    print(f"{metrics['n']} images, {metrics['patients']} patient groups: {metrics['split']}")
    for task in ("multiclass", "binary"):
        for name, figure in metrics[task].items():
            if isinstance(figure, dict) and figure.get("value") is not None:
                low, high = figure["low"], figure["high"]
                interval = "" if low is None else f" [{low:.4f}, {high:.4f}]"
                print(f"{task:11} {name:18} {figure['value']:.4f}{interval}")
    print(f"$ {shlex.join(['python', '-m', 'train.evaluate', *sys.argv[1:]])}")


if __name__ == "__main__":
    main()
