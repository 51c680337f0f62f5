"""Measure a bundle on labelled radiographs: metrics.json, figures and, in the bundle itself, the model card.

    python -m train.evaluate model --data DIR [DIR ...]                # the validation films of its own training
    python -m train.evaluate model --data DIR --split test --out DIR2  # an official test folder, or any other

Every film goes the way of an upload: `pneumocam.predict_many`, one file at a time, whatever its size and format.
"""

import json
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import tyro
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay
from tqdm import tqdm

from pneumocam import BundleError, Classifier, predict_many
from train.data import BINARY, DataError, Film, Manifest, build_manifest, fetch, labelled_folder
from train.metrics import binary_probability, decide, evaluate, reliability

CARD = Path(__file__).parents[1] / "model_card.md"


@dataclass(frozen=True)
class Config:
    """What to measure."""

    model: tyro.conf.Positional[str]
    """A bundle's folder, `hf-hub:owner/name@revision`, or `bundled`."""
    data: tuple[str, ...]
    """Folders as in train.fit; for the validation split give the same ones in the same order."""
    split: Literal["val", "train", "test", "all"] = "val"
    """`val`: the patients held out by this bundle's own training; `test`, `train`: the folder of that name; `all`:
    every film found."""
    manifest: Path | None = None
    """For `val`: the manifest.csv of a run that was given one, instead of making its split anew."""
    out: Path | None = None
    """Where metrics.json and the figures go; by default the bundle's folder for `val`, else no default."""
    batch_size: int = 32
    resamples: int = 1000
    """Bootstrap resamples, by patient."""
    seed: int = 0


def run(config: Config) -> dict[str, Any]:
    """Evaluate, write metrics.json, confusion.png, roc.png and reliability.png, and return the metrics.

    Raises:
        DataError: the data cannot be read, or holds none of the films asked for.
        BundleError: the model cannot be loaded.
    """
    folder = Path(config.model)
    out = config.out or (folder if config.split == "val" and folder.is_dir() else None)
    if out is None:
        raise DataError("Give --out DIR: only validation figures belong in the bundle's own folder.")
    source = None if config.model == "bundled" else f"local-dir:{folder}" if folder.is_dir() else config.model
    classifier = Classifier.from_pretrained(source)
    roots = [fetch(name) for name in config.data]
    manifest, films = _films(config, classifier, roots)

    paths = [roots[film.root] / film.path for film in films]
    predictions = list(
        tqdm(predict_many(classifier, paths, batch_size=config.batch_size), "Evaluating", len(films), unit="film")
    )
    answered = [(film, p) for film, p in zip(films, predictions, strict=True) if p.status != "rejected"]
    if not answered:
        first = paths[0], predictions[0].reason and predictions[0].reason.message
        raise DataError(f"None of the {len(films)} films could be read; {first[0]} first: {first[1]}")
    probabilities = np.array([list(p.probabilities.values()) for _, p in answered])
    names = classifier.label_names
    if "PNEUMONIA" in manifest.label_names and len(names) == 3:  # no subtypes to judge the subtypes by
        pneumonia = binary_probability(probabilities, names)
        names, probabilities = BINARY, np.stack([1 - pneumonia, pneumonia], 1)
    labels = np.array([_index(film.label, names) for film, _ in answered])
    threshold = classifier.operating_point.threshold
    figures = evaluate(
        labels,
        probabilities,
        np.array([film.group for film, _ in answered]),
        names,
        threshold=threshold,
        resamples=config.resamples,
        seed=config.seed,
    )
    metrics = {
        "model": {"id": classifier.id, "revision": classifier.revision},
        "split": _describe(config, classifier, manifest),
        "manifest_sha256": manifest.sha256,
        "command": f"python -m train.evaluate {Path(config.model).name} --data DIR... --split {config.split}",
        "operating_point": classifier.operating_point.name,
        "rejected": len(films) - len(answered),
        "uncertain": sum(p.status == "uncertain" for _, p in answered),
        "label_names": list(names),
        **figures,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    draw(labels, probabilities, names, threshold, out)
    if out == folder and classifier.training:
        (out / "README.md").write_text(render_card(classifier, metrics))
    return metrics


def render_card(classifier: Classifier, metrics: dict[str, Any]) -> str:
    """model_card.md with every number filled in from the bundle and its metrics.

    Raises:
        jinja2.UndefinedError: a number that the card asks for is not there.
    """
    template = jinja2.Template(CARD.read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    card: str = template.render(
        architecture=classifier.training["recipe"]["arch"],
        labels=classifier.label_names,
        training=classifier.training,
        metrics=metrics,
    )
    return card


def draw(labels: np.ndarray, probabilities: np.ndarray, names: tuple[str, ...], threshold: float, out: Path) -> None:
    """confusion.png (all classes), roc.png and reliability.png (pneumonia against NORMAL)."""
    answers = decide(probabilities, names, threshold)
    pneumonia = binary_probability(probabilities, names)
    outcomes = labels != names.index("NORMAL")

    figure = Figure(figsize=(4.6, 4), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        labels,
        answers,
        labels=range(len(names)),
        display_labels=names,
        cmap="Blues",
        colorbar=False,
        ax=figure.subplots(),
    )
    figure.savefig(out / "confusion.png", dpi=110)

    if 0 < outcomes.mean() < 1:
        figure = Figure(figsize=(4.6, 4), layout="constrained")
        axes = figure.subplots()
        RocCurveDisplay.from_predictions(outcomes, pneumonia, name="pneumonia", plot_chance_level=True, ax=axes)
        axes.grid(alpha=0.3)
        figure.savefig(out / "roc.png", dpi=110)

    bins = reliability(outcomes, pneumonia)
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], ":", color="grey", label="perfectly calibrated")
    axes.plot([b["mean_probability"] for b in bins], [b["observed_rate"] for b in bins], "o-", label="this model")
    axes.set(
        xlabel="mean P(pneumonia) in bin", ylabel="share with pneumonia", title=f"{len(labels)} films, equal-mass bins"
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out / "reliability.png", dpi=110)


def _films(config: Config, classifier: Classifier, roots: list[Path]) -> tuple[Manifest, list[Film]]:
    """The films to judge, each once: where several roots hold copies, the first root's."""
    if config.split == "val":
        recipe = classifier.training.get("recipe", {})
        if config.manifest:
            manifest = Manifest.read(config.manifest, roots)
        else:
            manifest = build_manifest(roots, val_fraction=recipe.get("val_fraction", 0.15), seed=recipe.get("seed", 0))
        films = manifest.split("val")
    else:
        if len(roots) != 1:
            raise DataError(f"--split {config.split} takes one folder; {len(roots)} were given.")
        manifest = labelled_folder(roots[0])
        films = [film for film in manifest.films if config.split in ("all", film.folder)]
    if not films:
        raise DataError(f"No films of --split {config.split}; found {dict(Counter(f.folder for f in manifest.films))}.")
    return manifest, list({film.key: film for film in reversed(films)}.values())[::-1]


def _index(label: str, names: tuple[str, ...]) -> int:
    return names.index(label if label in names else "PNEUMONIA")


def _describe(config: Config, classifier: Classifier, manifest: Manifest) -> str:
    if config.split != "val":
        return f"{config.split}; not checked against the films trained on"
    if manifest.sha256 == classifier.training.get("manifest_sha256"):
        return "validation, patients held out from training"
    return "validation by the recipe's seed on other data than it was trained on: films of it may have been trained on"


def main() -> None:
    try:
        metrics = run(tyro.cli(Config, description=__doc__))
    except (DataError, BundleError) as error:
        raise SystemExit(f"train.evaluate: {error}") from None
    print(f"{metrics['n']} films, {metrics['patients']} patient groups: {metrics['split']}")
    for part in ("multiclass", "binary"):
        for name, figure in metrics[part].items():
            if isinstance(figure, dict) and figure.get("low") is not None:
                print(f"{part:11} {name:18} {figure['value']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]")
    print(f"$ {shlex.join(['python', '-m', 'train.evaluate', *sys.argv[1:]])}")


if __name__ == "__main__":
    main()
