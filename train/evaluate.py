"""Measure a bundle on labelled radiographs: metrics.json, figures and, in the bundle itself, the model card.

    python -m train.evaluate model --data DIR [DIR ...]                # the validation films of its own training
    python -m train.evaluate model --data DIR --split test --out DIR2  # an official test folder, or any other

Every film goes the way of an upload: `pneumocam.predict_many`, one file at a time, whatever its size and format.
"""

import csv
import json
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import tyro
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay
from tqdm import tqdm

from pneumocam import BundleError, Classifier, OperatingPoint, load_radiograph, predict, predict_many
from train.audit import answers, baseline, blocks, counterfactuals, file_facts, spectrum
from train.data import BINARY, DataError, Film, Manifest, build_manifest, fetch, labelled_folder, largest_copies
from train.metrics import (
    Bools,
    Floats,
    Ints,
    binary_probability,
    decide,
    evaluate,
    margin,
    rate,
    reliability,
    risk_coverage,
)

CARD = Path(__file__).parents[1] / "model_card.md"
SIZES = (256, 1024, 1536)  # px, the longer side: the strata that figures are given for
FAILURES = 12  # shown in GALLERY
GALLERY = "failures.png"  # shows films of the data: not for publication


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
    audit: bool = True
    """Judge films in seventeen other files too, and what tells the classes apart without lungs."""
    audit_films: int | None = None
    """Audit about so many films only, whole patients drawn by the seed; by default all of them."""
    originals: Path | None = None
    """Where --data are copies: a CSV of their originals (file, width, height, bytes, mean_luma_quantisation)."""
    batch_size: int = 32
    resamples: int = 1000
    """Bootstrap resamples, by patient."""
    seed: int = 0


@dataclass(frozen=True)
class Judged:
    """Films with their truth and the model's answers: labels (N,) int, probabilities (N, K)."""

    films: list[Film]
    paths: list[Path]
    facts: list[list[float]]
    labels: Ints
    probabilities: Floats
    names: tuple[str, ...]

    @property
    def groups(self) -> list[int]:
        return [film.group for film in self.films]

    @property
    def pneumonia(self) -> Floats:
        return binary_probability(self.probabilities, self.names)

    @property
    def ill(self) -> Bools:
        return np.asarray(self.labels != self.names.index("NORMAL"))

    def uncertain(self, point: OperatingPoint) -> Bools:
        return margin(self.pneumonia, point.threshold) < point.uncertain_log_odds

    def only(self, indices: Iterable[int]) -> "Judged":
        chosen = list(indices)
        films, paths, facts = ([column[i] for i in chosen] for column in (self.films, self.paths, self.facts))
        return Judged(films, paths, facts, self.labels[chosen], self.probabilities[chosen], self.names)  # type: ignore[arg-type]


def run(config: Config) -> dict[str, Any]:
    """Evaluate, write metrics.json and the figures, and return the metrics.

    Raises:
        DataError: the data cannot be read, or holds none of the films asked for.
        BundleError: the model cannot be loaded.
    """
    folder = Path(config.model)
    out = config.out or (folder if config.split == "val" and folder.is_dir() else None)
    if out is None:
        raise DataError("Give --out DIR: only validation figures belong in the bundle's own folder.")
    source = None if config.model == "bundled" else f"local-dir:{folder}" if folder.is_dir() else config.model
    # Without its guard: the figures are those of the network, on every image that can be read.
    classifier = replace(Classifier.from_pretrained(source), guard=None)
    roots = [fetch(name) for name in config.data]
    manifest, films = _films(config, classifier, roots)
    copies = _judge(config, classifier, films, roots, binary="PNEUMONIA" in manifest.label_names)
    largest = set(largest_copies(copies.films, roots))
    judged = copies.only(i for i, film in enumerate(copies.films) if film in largest)
    point = classifier.operating_point
    measure = partial(_measure, threshold=point.threshold, resamples=config.resamples, seed=config.seed)

    metrics = {
        "model": {"id": classifier.id, "revision": classifier.revision},
        "split": _describe(config, classifier, manifest),
        "manifest_sha256": manifest.sha256,
        "command": f"python -m train.evaluate {Path(config.model).name} --data DIR... --split {config.split}"
        + " --originals CSV" * bool(config.originals),
        "operating_point": point.name,
        "longer_side": _spread([max(facts[:2]) for facts in copies.facts]),
        "rejected": len(films) - len(copies.films),
        "label_names": list(judged.names),
        **measure(judged),
        "operating_points": {name: _at_point(config, judged, classifier, name) for name in classifier.operating_points},
        "risk_coverage": _risk_coverage(config, judged, point.threshold),
        "by_source": {name: _part(measure(part)) for name, part in _by_source(copies, roots).items()},
        "by_size": {name: _part(measure(part)) for name, part in _by_size(judged, _originals(config)).items()},
    }
    if config.audit:
        metrics["audit"] = _audit(config, classifier, judged)
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    draw(judged, metrics, point.threshold, out)
    draw_failures(judged, classifier, out)
    if out == folder and classifier.training and config.audit:
        (out / "README.md").write_text(render_card(classifier, metrics))
    return metrics


def _judge(config: Config, classifier: Classifier, films: list[Film], roots: list[Path], *, binary: bool) -> Judged:
    """All films that can be read; binary: whether the films' labels tell no subtypes."""
    paths = [roots[film.root] / film.path for film in films]
    predictions = tqdm(predict_many(classifier, paths, batch_size=config.batch_size), "Evaluating", len(films))
    # Not the predictions themselves: each holds its film and its features.
    given = [(list(p.probabilities.values()), p.reason) for p in predictions]
    read = [i for i, (probabilities, _) in enumerate(given) if probabilities]
    if not read:
        reason = given[0][1]
        raise DataError(f"None of the {len(films)} films could be read; {paths[0]} first: {reason and reason.message}")
    probabilities = np.array([given[i][0] for i in read])
    names = classifier.label_names
    if binary:
        names, probabilities = BINARY, _collapsed(probabilities, names)
    labels = np.array([names.index(films[i].label if films[i].label in names else "PNEUMONIA") for i in read])
    kept = [paths[i] for i in read]
    return Judged([films[i] for i in read], kept, [file_facts(path) for path in kept], labels, probabilities, names)


def _collapsed(probabilities: Floats, names: tuple[str, ...]) -> Floats:
    pneumonia = binary_probability(probabilities, names)
    return np.stack([1 - pneumonia, pneumonia], axis=1)  # (N, 2)


def _measure(judged: Judged, *, threshold: float, resamples: int, seed: int) -> dict[str, Any]:
    return evaluate(
        judged.labels,
        judged.probabilities,
        judged.groups,
        judged.names,
        threshold=threshold,
        resamples=resamples,
        seed=seed,
    )


def _part(figures: dict[str, Any]) -> dict[str, Any]:
    """The few figures that a part of the films is described by."""
    binary = {name: figures["binary"][name] for name in ("auroc", "accuracy", "sensitivity", "specificity")}
    subtype = {"subtype_auroc": figures["subtype"]["auroc"]} if "subtype" in figures else {}
    return {"n": figures["n"], "class_counts": figures["class_counts"], **binary, **subtype}


def _at_point(config: Config, judged: Judged, classifier: Classifier, name: str) -> dict[str, Any]:
    """What an operating point means on these films; by_class is the share of each class called pneumonia."""
    point = classifier.operating_points[name]
    figures = _measure(judged, threshold=point.threshold, resamples=config.resamples, seed=config.seed)["binary"]
    positive = judged.pneumonia >= point.threshold
    share = partial(rate, resamples=config.resamples, seed=config.seed)
    groups = np.array(judged.groups)
    return {
        "threshold": point.threshold,
        **{name: figures[name] for name in ("sensitivity", "specificity", "precision", "accuracy")},
        "by_class": {
            label: share(positive[judged.labels == k], groups[judged.labels == k])
            for k, label in enumerate(judged.names)
            if (judged.labels == k).any()
        },
        "uncertain": share(judged.uncertain(point), groups),
    }


def _risk_coverage(config: Config, judged: Judged, threshold: float) -> dict[str, Any]:
    intervals = {"resamples": config.resamples, "seed": config.seed}
    right = decide(judged.probabilities, judged.names, threshold) == judged.labels
    found, distance = (judged.pneumonia >= threshold) == judged.ill, margin(judged.pneumonia, threshold)
    return {
        "binary": risk_coverage(found, distance, judged.groups, **intervals),
        "multiclass": risk_coverage(right, judged.probabilities.max(axis=1), judged.groups, **intervals),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"smallest": min(values), "median": float(np.median(values)), "largest": max(values)}


def _by_source(copies: Judged, roots: list[Path]) -> dict[str, Judged]:
    """One part for each folder given, its films whether or not another folder has a larger copy of them."""
    parts = defaultdict(list)
    for i, film in enumerate(copies.films):
        parts[f"{film.root}: {roots[film.root].resolve().name}"].append(i)
    return {name: copies.only(indices) for name, indices in sorted(parts.items())}


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


def _by_size(judged: Judged, originals: dict[str, list[float]]) -> dict[str, Judged]:
    """Parts by the longer side of the file; where originals are given, of these, and a part of films without one."""
    parts = defaultdict(list)
    for i, (path, facts) in enumerate(zip(judged.paths, judged.facts, strict=True)):
        size = originals.get(path.name) if originals else facts
        parts[int(np.searchsorted(SIZES, max(size[:2]))) if size else -1].append(i)
    lows = ["", *(f"{size + 1} " for size in SIZES)]
    highs = [*(f"up to {size} px" for size in SIZES), "px and more"]
    names = {k: low + high for k, (low, high) in enumerate(zip(lows, highs, strict=True))} | {-1: "original unknown"}
    return {names[k]: judged.only(indices) for k, indices in sorted(parts.items())}


def _drawn(groups: list[int], films: int, seed: int) -> list[int]:
    """The films of patients drawn at random until there are so many, in their order."""
    patients = np.random.default_rng(seed).permutation(np.unique(groups))
    size = Counter(groups)
    before = np.cumsum([0, *(size[patient] for patient in patients)])[:-1]
    drawn = set(patients[before < films].tolist())
    return [i for i, group in enumerate(groups) if group in drawn]


def _audit(config: Config, classifier: Classifier, judged: Judged) -> dict[str, Any]:
    intervals = {"resamples": config.resamples, "seed": config.seed}
    judged = judged.only(_drawn(judged.groups, config.audit_films or len(judged.films), config.seed))
    originals = _originals(config)
    known = [i for i, path in enumerate(judged.paths) if path.name in originals]
    pictures = [load_radiograph(path).to_pil() for path in tqdm(judged.paths, "Texture", leave=False)]
    everyone = list(range(len(judged.films)))
    baselines: dict[str, tuple[list[int], list[Any]]] = {
        "file facts": (everyone, judged.facts),
        "file facts of the originals": (known, [originals[judged.paths[i].name] for i in known]),
        "spectrum": (everyone, [spectrum(picture) for picture in pictures]),
        "8 px blocks": (everyone, [blocks(picture) for picture in pictures]),
    }

    def answer(films: Iterable[Path | bytes], caption: str) -> Floats:
        given = answers(classifier, films, len(judged.films), caption, batch_size=config.batch_size)
        return given if judged.names == classifier.label_names else _collapsed(given, classifier.label_names)

    def of(indices: list[int], features: list[Any]) -> dict[str, Any] | None:
        part = judged.only(indices)
        return baseline(np.array(features), part.labels, part.groups, part.names, answers=part.pneumonia, **intervals)

    return {
        "baselines": {name: of(*given) for name, given in baselines.items() if given[1]},
        "counterfactuals": counterfactuals(
            answer,
            judged.paths,
            judged.labels,
            judged.groups,
            judged.names,
            original=judged.probabilities,
            threshold=classifier.operating_point.threshold,
            uncertain=judged.uncertain(classifier.operating_point),
            **intervals,
        ),
    }


def render_card(classifier: Classifier, metrics: dict[str, Any], *, repo: str | None = None) -> str:
    """model_card.md with every number filled in from the bundle and its metrics.

    Args:
        classifier: the bundle's.
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
        repo=repo,
        source=f"hf-hub:{repo}" if repo else "local-dir:model",
    )
    return card


def draw(judged: Judged, metrics: dict[str, Any], threshold: float, out: Path) -> None:
    """confusion.png (all classes), roc.png, reliability.png (binary), risk_coverage.png; audit.png after an audit."""
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        judged.labels,
        decide(judged.probabilities, judged.names, threshold),
        labels=range(len(judged.names)),
        display_labels=judged.names,
        cmap="Blues",
        colorbar=False,
        ax=figure.subplots(),
    )
    figure.savefig(out / "confusion.png", dpi=110)

    if 0 < judged.ill.mean() < 1:
        figure = Figure(figsize=(4.6, 4), layout="constrained")
        axes = figure.subplots()
        RocCurveDisplay.from_predictions(
            judged.ill, judged.pneumonia, name="pneumonia", plot_chance_level=True, ax=axes
        )
        axes.grid(alpha=0.3)
        figure.savefig(out / "roc.png", dpi=110)

    bins = reliability(judged.ill, judged.pneumonia)
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], ":", color="grey", label="perfectly calibrated")
    axes.plot([b["mean_probability"] for b in bins], [b["observed_rate"] for b in bins], "o-", label="this model")
    title = f"{len(judged.films)} films, equal-mass bins"
    axes.set(xlabel="mean P(pneumonia) in bin", ylabel="share with pneumonia", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out / "reliability.png", dpi=110)

    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("binary", "pneumonia or not"), ("multiclass", f"{len(judged.names)} classes")):
        axes.plot(*zip(*metrics["risk_coverage"][name]["curve"], strict=True), label=label)
    axes.set(xlabel="share of films answered, surest first", ylabel="share of these answered wrongly", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out / "risk_coverage.png", dpi=110)

    if "audit" in metrics:
        draw_audit({"this model": metrics}).savefig(out / "audit.png", dpi=110)


def draw_audit(models: dict[str, dict[str, Any]]) -> Figure:
    """AUROC, specificity and flipped decisions by counterfactual, with 95% intervals, from the metrics of models."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = (("auroc", "AUROC"), ("specificity", "specificity"), ("flips", "share of decisions that flip"))
    names = list(next(iter(models.values()))["audit"]["counterfactuals"]["by_name"])
    for axes, (key, label) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        for k, (model, metrics) in enumerate(models.items()):
            rows = metrics["audit"]["counterfactuals"]["by_name"]
            shown = [
                (i, rows[name][key]) for i, name in enumerate(names) if rows[name].get(key, {}).get("value") is not None
            ]
            values = np.array([figure["value"] for _, figure in shown])
            # A percentile interval need not hold the value of the data itself.
            ends = [
                np.maximum(sign * (np.array([figure[end] for _, figure in shown], dtype=float) - values), 0)
                for sign, end in ((-1, "low"), (1, "high"))
            ]
            height = [i + 0.22 * (k - (len(models) - 1) / 2) for i, _ in shown]
            axes.errorbar(values, height, xerr=ends, fmt="o", markersize=4, linewidth=1.2, label=model)
        axes.set(xlabel=label, yticks=range(len(names)), yticklabels=names)
        axes.grid(alpha=0.3)
    axes.invert_yaxis()
    if len(models) > 1:
        axes.legend(frameon=False)
    return figure


def draw_failures(judged: Judged, classifier: Classifier, out: Path) -> None:
    """failures.png, the surest wrong binary answers with what the network looked at; it shows films of the data."""
    threshold = classifier.operating_point.threshold
    distance = np.where(judged.ill, threshold - judged.pneumonia, judged.pneumonia - threshold)
    wrong = (judged.pneumonia >= threshold) != judged.ill
    worst = [i for i in np.argsort(-distance) if wrong[i]][:FAILURES]
    if not worst:
        (out / GALLERY).unlink(missing_ok=True)
        return
    figure = Figure(figsize=(13, 3.4 * -(-len(worst) // 4)), layout="constrained")
    for axes, i in zip(figure.subplots(-(-len(worst) // 4), 4, squeeze=False).flat, worst, strict=False):
        axes.imshow(predict(classifier, judged.paths[i]).overlay())
        axes.set_title(f"{judged.paths[i].stem}\nis {judged.films[i].label}", fontsize=9)
    for axes in figure.axes:
        axes.axis("off")
    figure.savefig(out / GALLERY, dpi=90)


def _films(config: Config, classifier: Classifier, roots: list[Path]) -> tuple[Manifest, list[Film]]:
    """The films to judge, with all their copies."""
    if config.split == "val":
        recipe = classifier.training.get("recipe", {})
        if config.manifest:
            manifest = Manifest.read(config.manifest, roots)
        else:
            manifest = build_manifest(
                roots, val_fraction=recipe.get("val_fraction", 0.15), seed=recipe.get("split_seed", 0)
            )
        films = manifest.split("val")
    else:
        if len(roots) != 1:
            raise DataError(f"--split {config.split} takes one folder; {len(roots)} were given.")
        manifest = labelled_folder(roots[0])
        films = [film for film in manifest.films if config.split in ("all", film.folder)]
    if not films:
        raise DataError(f"No films of --split {config.split}; found {dict(Counter(f.folder for f in manifest.films))}.")
    return manifest, list(films)


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
            if isinstance(figure, dict) and figure.get("value") is not None:
                low, high = figure["low"], figure["high"]
                interval = "" if low is None else f" [{low:.4f}, {high:.4f}]"
                print(f"{part:11} {name:18} {figure['value']:.4f}{interval}")
    print(f"$ {shlex.join(['python', '-m', 'train.evaluate', *sys.argv[1:]])}")


if __name__ == "__main__":
    main()
