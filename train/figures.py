"""The figures beside a model card, and the gallery of failures."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay

from pneumocam import Classifier, predict
from train.metrics import decide, reliability
from train.scored import Scored

FAILURES = 12  # shown in GALLERY
GALLERY = "failures.png"  # shows images of the data: not for publication


def draw(scored: Scored, metrics: dict[str, Any], threshold: float, out: Path) -> None:
    """confusion.png (all classes), roc.png, reliability.png (binary), risk_coverage.png; audit.png after an audit."""
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    known = scored.known()
    ConfusionMatrixDisplay.from_predictions(
        known.labels,
        decide(known.probabilities, known.names, threshold),
        labels=range(len(known.names)),
        display_labels=known.names,
        cmap="Blues",
        colorbar=False,
        ax=figure.subplots(),
    )
    figure.savefig(out / "confusion.png", dpi=110)

    if 0 < scored.ill.mean() < 1:
        figure = Figure(figsize=(4.6, 4), layout="constrained")
        axes = figure.subplots()
        RocCurveDisplay.from_predictions(
            scored.ill, scored.pneumonia, name="pneumonia", plot_chance_level=True, ax=axes
        )
        axes.grid(alpha=0.3)
        figure.savefig(out / "roc.png", dpi=110)

    bins = reliability(scored.ill, scored.pneumonia)
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], ":", color="grey", label="perfectly calibrated")
    axes.plot([b["mean_probability"] for b in bins], [b["observed_rate"] for b in bins], "o-", label="this model")
    title = f"{len(scored.images)} images, equal-mass bins"
    axes.set(xlabel="mean P(pneumonia) in bin", ylabel="share with pneumonia", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out / "reliability.png", dpi=110)

    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("binary", "pneumonia or not"), ("multiclass", f"{len(scored.names)} classes")):
        axes.plot(*zip(*metrics["risk_coverage"][name]["curve"], strict=True), label=label)
    axes.set(xlabel="share of images answered, surest first", ylabel="share of these answered wrongly", xlim=(0, 1))
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


def draw_failures(scored: Scored, classifier: Classifier, out: Path) -> None:
    """Write failures.png: the surest wrong predictions with their saliency maps; it shows images of the data."""
    threshold = classifier.operating_point.threshold
    distance = np.where(scored.ill, threshold - scored.pneumonia, scored.pneumonia - threshold)
    wrong = (scored.pneumonia >= threshold) != scored.ill
    worst = [i for i in np.argsort(-distance) if wrong[i]][:FAILURES]
    if not worst:
        (out / GALLERY).unlink(missing_ok=True)
        return
    figure = Figure(figsize=(13, 3.4 * -(-len(worst) // 4)), layout="constrained")
    for axes, i in zip(figure.subplots(-(-len(worst) // 4), 4, squeeze=False).flat, worst, strict=False):
        axes.imshow(predict(classifier, scored.paths[i]).overlay())
        axes.set_title(f"{scored.paths[i].stem}\nis {scored.images[i].label}", fontsize=9)
    for axes in figure.axes:
        axes.axis("off")
    figure.savefig(out / GALLERY, dpi=90)
