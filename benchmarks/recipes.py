"""What each part of the recipe does: runs that differ in one thing, and whole models, audited alike.

    python benchmarks/recipes.py runs/tried/*/ --models plain=runs/plain/bundle shipped=model "four seeds=runs/4/bundle"

The first are folders named RECIPE-SEED, each with config.json and audit/, which is what `python -m train.evaluate
RUN/bundle --data DIR ... --out RUN/audit` writes; the others bundles of `train.average`, the first two of which are
shown side by side. It all becomes recipes.csv (a row a run), recipes.md and recipes.png.
"""

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from train.figures import draw_audit
from train.fit import Config, read_config

HERE = Path(__file__).parent
REFERENCES = ("defended", "zoom-out")  # what the other recipes are a change of, and the second of the first
NOT_THE_RECIPE = ("data", "out", "resume", "manifest", "workers", "calibrate", "seed", "init", "labels", "masks")
TONE = ("stretched histogram", "flat highlights", "flat shadows")  # grey values; the others save, size, pad or blur

Flags = dict[str, str]
Metrics = dict[str, Any]
Figures = dict[str, Callable[[Metrics], float]]


def flags(recipe: dict[str, Any]) -> Flags:
    """The flags of a run's config that are not at their defaults."""
    given, default = _flat(recipe), _flat(asdict(Config()))
    names = [name for name in given if given[name] != default.get(name) and name.split(".")[0] not in NOT_THE_RECIPE]
    return {name: f"{given[name]:g}" if isinstance(given[name], float) else str(given[name]) for name in names}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def command_line(values: Flags) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items()) or "(the defaults)"


def worst(metrics: Metrics, name: str, *, tone: bool) -> float:
    """A figure where it is worst: of the files in TONE, or of all others that the images were saved as."""
    images = metrics["audit"]["counterfactuals"]["by_name"]
    values = [image[name]["value"] for file, image in images.items() if name in image and tone == (file in TONE)]
    return float(max(values) if name in ("flips", "ece") else min(values))


def worsts(name: str, shown: str) -> Figures:
    return {f"{shown}, worst {kind}": partial(worst, name=name, tone=kind == "tone") for kind in ("file", "tone")}


def binary(name: str) -> Callable[[Metrics], float]:
    return lambda metrics: float(metrics["binary"][name]["value"])


FIGURES: Figures = {
    "AUROC": binary("auroc"),
    **worsts("auroc", "AUROC"),
    **worsts("sensitivity", "sensitivity"),
    **worsts("specificity", "specificity"),
    **worsts("flips", "flips"),
    "flips, any re-encoding": lambda metrics: metrics["audit"]["counterfactuals"]["any_re_encoding"]["flips"]["value"],
    "accuracy, 3 classes": lambda metrics: metrics["multiclass"]["accuracy"]["value"],
    "AUROC, subtype": lambda metrics: metrics["subtype"]["auroc"]["value"],
}
OF_MODELS: Figures = FIGURES | {
    "accuracy": binary("accuracy"),
    "sensitivity": binary("sensitivity"),
    "specificity": binary("specificity"),
    "specificity at 97%": binary("specificity_at_sensitivity_97"),
    "ECE": binary("ece"),
    **worsts("ece", "ECE"),
}


def half_width(values: list[float]) -> float:
    """Half of the 95% interval of the mean, by Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def over_seeds(values: list[float]) -> str:
    """Mean and 95% interval; of fewer than three seeds only the values, which support no claim."""
    if len(values) < 3:
        return ", ".join(f"{value:.3f}" for value in values)
    return f"{np.mean(values):.3f} ± {half_width(values):.3f}"


def change(values: list[float]) -> str:
    """Mean and 95% interval of differences, in bold where it leaves 0 out."""
    shown = f"{np.mean(values):+.3f} ± {half_width(values):.3f}"
    return f"**{shown}**" if abs(np.mean(values)) > half_width(values) else shown


def reference(recipe: str, given: dict[str, Flags]) -> str | None:
    """Which of REFERENCES a recipe shares most flags with."""
    if recipe == REFERENCES[0]:
        return None
    others = [name for name in REFERENCES if name != recipe]
    return min(others, key=lambda name: len(given[name].items() ^ given[recipe].items()))


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def counterfactuals(sides: dict[str, Metrics]) -> str:
    """A table of what the audit found for each file that the images were saved as, with 95% intervals."""
    audits = {side: metrics["audit"]["counterfactuals"]["by_name"] for side, metrics in sides.items()}
    panels = {"AUROC": "auroc", "sensitivity": "sensitivity", "specificity": "specificity", "flips": "flips"}
    rows = [
        [image, *(interval(audit[image].get(key)) for key in panels.values() for audit in audits.values())]
        for image in next(iter(audits.values()))
    ]
    return table(["image", *(f"{shown}, {side}" for shown in panels for side in sides)], rows)


def interval(measured: dict[str, float] | None) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**measured) if measured else ""  # no flips of the original


def baselines(sides: dict[str, Metrics]) -> str:
    """A table of the correlation of a model's answers with each baseline's, within a class."""
    audits = [metrics["audit"]["baselines"] for metrics in sides.values()]
    shared = [name for name in audits[-1] if all(audit.get(name) for audit in audits)]
    rows = [[name, *(interval(audit[name]["dependence"]) for audit in audits)] for name in shared]
    return table(["seen", *sides], rows)


def main(folders: list[Path], models: dict[str, Path]) -> None:
    runs: defaultdict[str, dict[str, Metrics]] = defaultdict(dict)  # by recipe and seed
    given: dict[str, Flags] = {}
    listed = []
    for folder in folders:
        recipe, _, seed = folder.name.rpartition("-")
        measured = runs[recipe][seed] = json.loads((folder / "audit" / "metrics.json").read_text())
        own = flags(asdict(read_config(folder)))
        if given.setdefault(recipe, own) != own:
            raise SystemExit(f"{folder} has {command_line(own)}; expected {command_line(given[recipe])}, as before it.")
        audit = measured["audit"]["counterfactuals"]
        listed.append(
            {"recipe": recipe, "seed": seed, "images": measured["n"], "audited": audit["n"]}
            | {name: round(of(measured), 4) for name, of in FIGURES.items()}
            | {"worst": audit["worst"]["auroc"]["counterfactual"], "flags": command_line(given[recipe])}
        )
    with (HERE / "recipes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)

    order = sorted(runs, key=lambda recipe: (recipe != "plain", recipe == "defended", recipe))
    recipes, changes, p_values = [], [], []
    for recipe in order:
        seeds, against = runs[recipe], reference(recipe, given)
        figures = [[of(one) for one in seeds.values()] for of in FIGURES.values()]
        recipes.append([recipe, str(len(seeds)), *map(over_seeds, figures)])
        shared = sorted(seeds.keys() & runs[against]) if against else []
        if against and len(shared) >= 3:
            differences = [[of(seeds[s]) - of(runs[against][s]) for s in shared] for of in FIGURES.values()]
            changes.append([recipe, against, *map(change, differences)])
            p_values += [stats.ttest_1samp(values, 0).pvalue for values in differences]
    corrected = stats.false_discovery_control(p_values)
    chance = (
        f"Of {len(p_values)} comparisons ({len(changes)} changes, {len(FIGURES)} figures each), "
        f"{sum(p < 0.05 for p in p_values)} have an interval that leaves zero out; about {0.05 * len(p_values):.0f} "
        f"would by chance alone. Corrected for so many (Benjamini and Hochberg), {sum(corrected < 0.05)} have; the "
        f"smallest corrected p is {corrected.min():.2f}. Three seeds can hardly show more."
    )
    images, audited = listed[0]["images"], listed[0]["audited"]
    legend = (
        "Mean over the seeds ± half its 95% interval (Student's t); below, a change is in bold where that leaves zero "
        f"out. What is worst or flips is of the same {audited} images in every run, the rest of all {images}, so that "
        "a worst AUROC can be above the first column."
    )

    measured_models = {name: json.loads((bundle / "metrics.json").read_text()) for name, bundle in models.items()}
    trained = {name: json.loads((bundle / "pneumocam.json").read_text())["training"] for name, bundle in models.items()}
    sides = dict(list(measured_models.items())[:2])
    parts = {
        "Models": table(
            ["", *models],
            [[name, *(f"{of(metrics):.3f}" for metrics in measured_models.values())] for name, of in OF_MODELS.items()],
        ),
        "Their flags": "\n".join(
            f"- **{name}**: {len(one['runs'])} seeds of `{command_line(flags(one['recipe']))}`"
            for name, one in trained.items()
        ),
        f"{' and '.join(sides)}: the same images in other files": counterfactuals(sides),
        f"{' and '.join(sides)}: how far answers go along with what sees no lungs": baselines(sides),
        "Short runs of one recipe each": f"{legend}\n\n{table(['recipe', 'seeds', *FIGURES], recipes)}",
        "The flags of the short runs": "\n".join(
            f"- **{recipe}**: `{command_line(given[recipe])}`" for recipe in order
        ),
        "What each change does, seed by seed": table(["recipe", "against", *FIGURES], changes),
        "How much of that is chance": chance,
    }
    text = "\n\n".join(f"## {heading}\n\n{part}" for heading, part in parts.items())
    (HERE / "recipes.md").write_text(text + "\n")
    draw_audit(sides).savefig(HERE / "recipes.png", dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--models", nargs="+", metavar="NAME=BUNDLE", required=True)
    options = parser.parse_args()
    main(options.runs, {name: Path(bundle) for name, bundle in (one.split("=", 1) for one in options.models)})
