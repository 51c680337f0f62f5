"""What each part of the recipe does: runs that differ in one thing, audited alike, in tables and a picture.

    python benchmarks/recipes.py runs/tried/*/ --averaged model runs/four/bundle

The first are folders named RECIPE-SEED, each with config.json and audit/; the others bundles of `train.average`.

`audit/` is what `python -m train.evaluate RUN/bundle --data DIR ... --out RUN/audit` writes. It all becomes
recipes.csv (a row a run), recipes.md (a row a recipe, over its seeds; what each change does, seed by seed; a row an
average) and recipes.png (plain and shipped recipe in trainings of one seed, and the shipped model).
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
REFERENCES = ("defended", "zoom-out")  # what the other recipes are a change of, and the second of the first
SHIPPED = "tone"
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

Flags = dict[str, str]
Metrics = dict[str, Any]


def flags(recipe: dict[str, Any]) -> Flags:
    """The flags of a run's config that are not at their defaults."""
    given, default = _flat(recipe), _flat(asdict(Config()))
    names = [name for name in given if given[name] != default[name] and name.split(".")[0] not in NOT_THE_RECIPE]
    values = {name: f"{given[name]:g}" if isinstance(given[name], float) else str(given[name]) for name in names}
    if recipe.get("teacher"):
        values["distillation"] = f"{given['distillation']:g}"
    return values


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def command_line(values: Flags) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items()) or "(the defaults)"


def figure(metrics: Metrics, name: str) -> float:
    """One of FIGURES."""
    value: Any = metrics
    for key in FIGURES[name]:
        value = value[key]
    return float(value)


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


def main(folders: list[Path], averaged: list[Path]) -> None:
    runs: defaultdict[str, dict[str, Metrics]] = defaultdict(dict)  # by recipe and seed
    given: dict[str, Flags] = {}
    listed = []
    for folder in folders:
        recipe, _, seed = folder.name.rpartition("-")
        measured = runs[recipe][seed] = json.loads((folder / "audit" / "metrics.json").read_text())
        given[recipe] = flags(asdict(read_config(folder)))
        audit = measured["audit"]["counterfactuals"]
        listed.append(
            {"recipe": recipe, "seed": seed, "films": measured["n"], "audited": audit["n"]}
            | {name: round(figure(measured, name), 4) for name in FIGURES}
            | {"worst": audit["worst"]["auroc"]["counterfactual"], "flags": command_line(given[recipe])}
        )
    with (HERE / "recipes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)

    order = sorted(runs, key=lambda recipe: (recipe != "plain", recipe == "defended", recipe))
    recipes, changes = [], []
    for recipe in order:
        seeds, of = runs[recipe], reference(recipe, given)
        recipes.append(
            [recipe, str(len(seeds)), *(over_seeds([figure(one, name) for one in seeds.values()]) for name in FIGURES)]
        )
        shared = sorted(seeds.keys() & runs[of]) if of else []
        if of and len(shared) >= 3:
            differences = [[figure(seeds[s], name) - figure(runs[of][s], name) for s in shared] for name in FIGURES]
            changes.append([recipe, of, *map(change, differences)])
    averages = []
    for bundle in averaged:
        measured, description = (json.loads((bundle / f"{name}.json").read_text()) for name in ("metrics", "pneumocam"))
        training = description["training"]
        cells = [
            f"{value:.3f}"
            for value in (*(figure(measured, name) for name in FIGURES), measured["binary"]["ece"]["value"])
        ]
        averages.append([str(len(training["runs"])), f"`{command_line(flags(training['recipe']))}`", *cells])
    parts = [
        table(["recipe", "seeds", *FIGURES], recipes),
        "\n".join(f"- **{recipe}**: `{command_line(given[recipe])}`" for recipe in order),
        table(["recipe", "against", *FIGURES], changes),
        table(["averaged seeds", "flags", *FIGURES, "ECE"], averages),
    ]
    (HERE / "recipes.md").write_text("\n\n".join(parts) + "\n")
    shipped = json.loads((HERE.parent / "model" / "metrics.json").read_text())
    seed = min(runs["plain"].keys() & runs[SHIPPED])
    sides = {"plain recipe": runs["plain"][seed], "shipped recipe": runs[SHIPPED][seed], "shipped model": shipped}
    draw_audit(sides).savefig(HERE / "recipes.png", dpi=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--averaged", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    main(options.runs, options.averaged)
