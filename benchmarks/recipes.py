"""What each part of the recipe does: runs that differ in one thing, audited alike, in one table and one picture.

    python benchmarks/recipes.py runs/tried/*/ --averaged model runs/four/bundle

The first are folders named RECIPE-SEED, each with config.json and audit/; the others bundles of `train.average`.

`audit/` is what `python -m train.evaluate RUN/bundle --data DIR ... --out RUN/audit` writes. It all becomes
recipes.csv (a row a run), recipes.md (a row a recipe, over its seeds; a row an average) and recipes.png (the plain
recipe beside the shipped model).
"""

import argparse
import csv
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from train.evaluate import draw_audit
from train.fit import Config, read_config

HERE = Path(__file__).parent
NOT_THE_RECIPE = ("data", "out", "resume", "manifest", "workers", "calibrate", "seed", "init", "teacher")
FIGURES = {
    "AUROC": ("binary", "auroc", "value"),
    "AUROC, worst": ("audit", "counterfactuals", "worst", "auroc", "value"),
    "specificity": ("binary", "specificity", "value"),
    "specificity, worst": ("audit", "counterfactuals", "worst", "specificity", "value"),
    "flips, worst": ("audit", "counterfactuals", "worst", "flips", "value"),
    "flips, any re-encoding": ("audit", "counterfactuals", "any_re_encoding", "flips", "value"),
    "accuracy, 3 classes": ("multiclass", "accuracy", "value"),
    "AUROC, subtype": ("subtype", "auroc", "value"),
}


def changed(recipe: dict[str, Any]) -> str:
    """The flags that are not at their defaults."""
    given, default = _flat(recipe), _flat(asdict(Config()))
    names = [name for name in given if given[name] != default[name] and name.split(".")[0] not in NOT_THE_RECIPE]
    values = {name: f"{given[name]:g}" if isinstance(given[name], float) else str(given[name]) for name in names}
    if recipe.get("teacher"):
        values["distillation"] = f"{given['distillation']:g}"
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items()) or "(the defaults)"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _figure(metrics: dict[str, Any], path: tuple[str, ...]) -> float:
    value: Any = metrics
    for name in path:
        value = value[name]
    return float(value)


def over_seeds(values: list[float]) -> str:
    """Mean and 95% interval by Student's t; of fewer than three seeds only the values, which support no claim."""
    if len(values) < 3:
        return ", ".join(f"{value:.3f}" for value in values)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def _averages(bundles: list[Path]) -> list[str]:
    """A table with a row for each average of seeds, measured on all films."""
    figures = FIGURES | {"ECE": ("binary", "ece", "value")}
    lines = [f"| averaged seeds | flags | {' | '.join(figures)} |", "|---" * (2 + len(figures)) + "|"]
    for bundle in bundles:
        measured = json.loads((bundle / "metrics.json").read_text())
        training = json.loads((bundle / "pneumocam.json").read_text())["training"]
        cells = [f"{_figure(measured, path):.3f}" for path in figures.values()]
        lines.append(f"| {len(training['runs'])} | `{changed(training['recipe'])}` | {' | '.join(cells)} |")
    return lines


def main(folders: list[Path], averaged: list[Path]) -> None:
    rows, flags, metrics = [], {}, defaultdict(list)
    for folder in folders:
        recipe, _, seed = folder.name.rpartition("-")
        measured = json.loads((folder / "audit" / "metrics.json").read_text())
        metrics[recipe].append(measured)
        flags[recipe] = changed(asdict(read_config(folder)))
        figures = {name: round(_figure(measured, path), 4) for name, path in FIGURES.items()}
        worst = measured["audit"]["counterfactuals"]["worst"]["auroc"]["counterfactual"]
        audited = measured["audit"]["counterfactuals"]["n"]
        rows.append(
            {"recipe": recipe, "seed": seed, "films": measured["n"], "audited": audited, **figures, "worst": worst}
            | {"flags": flags[recipe]}
        )
    with (HERE / "recipes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

    order = sorted(metrics, key=lambda recipe: (recipe != "plain", recipe == "defended", recipe))
    lines = [f"| recipe | seeds | {' | '.join(FIGURES)} |", "|---" * (2 + len(FIGURES)) + "|"]
    for recipe in order:
        cells = [over_seeds([_figure(one, path) for one in metrics[recipe]]) for path in FIGURES.values()]
        lines.append(f"| {recipe} | {len(metrics[recipe])} | {' | '.join(cells)} |")
    lines += ["", *(f"- **{recipe}**: `{flags[recipe]}`" for recipe in order)]
    lines += ["", *_averages(averaged)]
    (HERE / "recipes.md").write_text("\n".join(lines) + "\n")
    shipped = json.loads((HERE.parent / "model" / "metrics.json").read_text())
    picture = draw_audit({f"{order[0]} recipe": metrics[order[0]][0], "shipped model": shipped})
    picture.savefig(HERE / "recipes.png", dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--averaged", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    main(options.runs, options.averaged)
