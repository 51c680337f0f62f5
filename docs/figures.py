"""Figures in README.md and docs/: `make figures` renders them anew from model/, benchmarks/ and the bundled model.

A document marks what is rendered, and everything between the two marks is replaced:

    <!-- figures: NAME -->
    <!-- end of figures -->
"""

import io
import json
import re
from collections.abc import Callable, Iterable
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any

from pneumocam import Classifier, predict_many
from pneumocam.cli import main as command_line

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
METRICS: dict[str, Any] = json.loads((ROOT / "model" / "metrics.json").read_text())
MAPS: dict[str, Any] = json.loads((ROOT / "benchmarks" / "maps.json").read_text())
LOAD: dict[str, Any] = json.loads((ROOT / "benchmarks" / "load.json").read_text())
GUARD: dict[str, Any] = json.loads((ROOT / "benchmarks" / "guard.json").read_text())
VARIANTS: list[dict[str, Any]] = json.loads((ROOT / "benchmarks" / "variants.json").read_text())
REGION = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
EXAMPLES = ("person1946_bacteria_4874.jpeg", "NORMAL2-IM-1437-0001.jpeg", "person1949_bacteria_4880.jpeg")

Figure = dict[str, Any]  # value, and the 95% interval from low to high


def shown(figure: Figure) -> str:
    """`0.993 [0.988, 0.997]`; without the interval where there is none."""
    if figure["value"] is None:
        return ""
    interval = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.3f}{interval}"


def compared(figure: Figure, gain: Figure | None) -> str:
    """`0.993 (+0.004 [-0.001, +0.009])`; the value alone for what others are compared with."""
    change = " ({value:+.3f} [{low:+.3f}, {high:+.3f}])".format(**gain) if gain else ""
    return f"{figure['value']:.3f}{change}"


def percent(figure: Figure) -> str:
    """`2.1% [1.2, 3.2]`."""
    return f"{100 * figure['value']:.1f}% [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    head = list(header)
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def paragraph(text: str) -> str:
    return fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def results() -> str:
    rows = []
    for source, row in METRICS["by_source"].items():
        rows += [
            (f"{source.capitalize()}, {row['n']} images: AUROC, pneumonia or not", shown(row["auroc"])),
            (
                f"{source.capitalize()}: sensitivity and specificity",
                f"{shown(row['sensitivity'])} and {shown(row['specificity'])}",
            ),
        ]
    rows += [("Children: AUROC, BACTERIAL against VIRAL", shown(METRICS["subtype"]["auroc"]))]
    return table(("", "value [95% interval]"), rows)


def measured() -> str:
    binary, classes = METRICS["binary"], METRICS["multiclass"]
    figures = {
        "Accuracy, three classes": classes["accuracy"],
        "Macro F1, three classes": classes["macro_f1"],
        "Accuracy, pneumonia or not": binary["accuracy"],
        "AUROC, pneumonia or not": binary["auroc"],
        "Sensitivity": binary["sensitivity"],
        "Specificity": binary["specificity"],
        "Specificity at 97% sensitivity": binary["specificity_at_sensitivity_97"],
        "Calibration error (ECE)": METRICS["calibration"]["ece"],
        "Brier score": binary["brier"],
        "AUROC, BACTERIAL against VIRAL": METRICS["subtype"]["auroc"],
    }
    return table(("", "value [95% interval]"), ((name, shown(figure)) for name, figure in figures.items()))


def measured_on() -> str:
    return paragraph(
        f"""Measured on {METRICS["n"]} images of {METRICS["patients"]} patient groups ({METRICS["split"]}), with
        {METRICS["interval"].replace("95%", "95% intervals by")}."""
    )


def command() -> str:
    return f"```bash\n{METRICS['command']}\n```"


def classes() -> str:
    rows = METRICS["multiclass"]["per_class"].items()
    columns = ("precision", "recall", "f1", "auroc")
    return table(
        ("class", "images", "precision", "recall", "F1", "AUROC"),
        ((name, row["n"], *(shown(row[column]) for column in columns)) for name, row in rows),
    )


def sources() -> str:
    columns = ("auroc", "sensitivity", "specificity", "subtype_auroc")
    rows = [*METRICS["by_source"].items(), *METRICS["by_size"].items()]
    return table(
        ("images", "n", "AUROC", "sensitivity", "specificity", "AUROC, subtype"),
        ((name, row["n"], *(shown(row[column]) if column in row else "" for column in columns)) for name, row in rows),
    )


def calibration() -> str:
    rows = {name: row["calibration"] for name, row in METRICS["by_source"].items()} | {"all": METRICS["calibration"]}
    return table(
        ("images", "prevalence", "calibration error", "of true probabilities"),
        (
            (name, f"{row['prevalence']:.0%}", shown(row["ece"]), f"{row['ece_of_calibrated']:.3f}")
            for name, row in rows.items()
        ),
    )


def operating_points() -> str:
    return table(
        ("operating point", "pneumonia from P =", "sensitivity", "specificity", "called uncertain"),
        (
            (
                f"`{name}`",
                f"{x['threshold']:.3f}",
                shown(x["sensitivity"]),
                shown(x["specificity"]),
                percent(x["uncertain"]),
            )
            for name, x in METRICS["operating_points"].items()
        ),
    )


def coverage() -> str:
    binary, classes = (METRICS["risk_coverage"][name]["accuracy_at"] for name in ("binary", "multiclass"))
    return table(
        ("surest predictions", "pneumonia or not", "three classes"),
        ((f"{float(share):.0%}", percent(binary[share]), percent(classes[share])) for share in binary),
    )


def without_lungs() -> str:
    rows = ((name, row) for name, row in METRICS["audit"]["baselines"].items() if row)
    return table(
        ("what the baseline sees", "images", "its AUROC", "correlation with this model's predictions"),
        ((name, row["n"], shown(row["auroc"]), shown(row["dependence"])) for name, row in rows),
    )


def counterfactuals() -> str:
    rows = METRICS["audit"]["counterfactuals"]["by_name"].items()
    return table(
        ("the same images", "AUROC", "sensitivity", "specificity", "ECE", "decisions that flip"),
        (
            (
                name,
                *(shown(row[column]) for column in ("auroc", "sensitivity", "specificity")),
                f"{row['ece']['value']:.3f}",
                percent(row["flips"]) if "flips" in row else "",
            )
            for name, row in rows
        ),
    )


def robustness() -> str:
    audit = METRICS["audit"]["counterfactuals"]
    worst, anything = audit["worst"], audit["any_re_encoding"]
    lowest = ", ".join(
        f"{name} {worst[key]['value']:.3f} ({worst[key]['counterfactual']})"
        for key, name in (("auroc", "AUROC"), ("sensitivity", "sensitivity"), ("specificity", "specificity"))
    )
    return paragraph(
        f"""The lowest figures over all versions are {lowest}. {percent(anything["flips"])} of the decisions flip under
        at least one of PNG, JPEG 95, 75, 50, 30, half and double size; of the decisions that were not uncertain,
        {percent(anything["flips_of_sure"])}. Under one of these seven, {percent(anything["flips_of_each"])} flip on
        average; of those that were not uncertain, {percent(anything["flips_of_each_of_sure"])}."""
    )


def shortcut() -> str:
    audit = METRICS["audit"]
    spectrum, flips = audit["baselines"]["spectrum"], audit["counterfactuals"]["any_re_encoding"]["flips"]
    worst = audit["counterfactuals"]["worst"]["auroc"]
    return paragraph(
        f"""In the training data, healthy children's images were saved with another size and JPEG quality than the
        others: the frequency spectrum alone, which shows no lungs, separates the classes with an AUROC of
        {shown(spectrum["auroc"])}. Training therefore varies encoding, size, sharpness, noise and tone.
        `train.evaluate` then measures each held-out image in {len(audit["counterfactuals"]["by_name"]) - 1} other
        versions: the AUROC never falls below {worst["value"]:.3f}, and {percent(flips)} of the decisions flip when
        a file is merely re-encoded or resized. This shows that the model withstands the changes it was trained for;
        it does not prove that it reads lungs."""
    )


@cache
def recipes() -> dict[str, str]:
    """Sections of benchmarks/recipes.md, by heading."""
    parts = (ROOT / "benchmarks" / "recipes.md").read_text().split("## ")
    return dict(part.strip().split("\n\n", 1) for part in parts if part)


def recipe_costs() -> str:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in recipes()["Models"].splitlines()]
    plain, shipped = ({row[0]: float(row[i]) for row in rows[2:]} for i in map(rows[0].index, ("plain", "shipped")))
    costs = ", ".join(
        f"{plain[name] - shipped[name]:+.3f} in {name}"
        for name in ("AUROC", "accuracy", "accuracy, 3 classes", "AUROC, subtype", "specificity at 97%")
    )
    return paragraph(
        f"""On the published files the plain model scores better than the shipped one in most figures ({costs}),
        although its specificity at P = 0.5 is {plain["specificity"]:.3f} against {shipped["specificity"]:.3f}. In
        other versions of the same images its specificity falls to {plain["specificity, worst file"]:.3f} (worst
        file) and {plain["specificity, worst tone"]:.3f} (worst tone); that of the shipped model stays at
        {shipped["specificity, worst file"]:.3f} and {shipped["specificity, worst tone"]:.3f}."""
    )


@cache
def bundled() -> Classifier:
    return Classifier.from_pretrained()


def examples() -> str:
    images = sorted((ROOT / "examples").glob("*.jpeg"))
    predictions = list(predict_many(bundled(), images))
    ill = ["bacteria" in image.name for image in images]
    right = sum((x.label != "NORMAL") == positive for x, positive in zip(predictions, ill, strict=True))
    viral = sum(x.label == "VIRAL" and positive for x, positive in zip(predictions, ill, strict=True))
    return paragraph(
        f"""Of the {len(images)} images in `examples/`, which were not trained on, {right} are right on pneumonia or
        not, {sum(x.status == "uncertain" for x in predictions)} are uncertain, and {viral} of the {sum(ill)}
        bacterial ones are called viral. This is no test result: recipes were developed with these images in view."""
    )


def maps() -> str:
    header = ("predicted class", "images", "inside the lung fields", "their share of the image")
    rows = []
    for name, row in METRICS["maps"]["by_class"].items():
        areas = [
            [f"{row[curve][one]['value']:.3f}" for one in ("map", "centre")] for curve in ("deletion", "insertion")
        ]
        figures = [shown(row["inside"]), shown(row["expected"]), *(", ".join(area) for area in areas)]
        rows.append((name, row["n"], *figures, shown(row["moved"]["jpeg_50"])))
    return table((*header, "deletion: map, middle", "insertion: map, middle", "JPEG 50"), rows)


def map_variants() -> str:
    in_use = next(iter(MAPS["maps"]))

    def cell(name: str, key: str) -> str:
        row = MAPS["maps"][name]
        return compared(row[key], None if name == in_use else row["gain"][key])

    keys = ("inside", "deletion", "insertion")
    rows = [(name, *(cell(name, key) for key in keys), f"{row['ms']:.0f}") for name, row in MAPS["maps"].items()]
    found = table(("map", "inside the lung fields", "deletion", "insertion", "ms"), rows)
    return f"{MAPS['images']} images, {MAPS['threads']} thread{'s' * (MAPS['threads'] > 1)}:\n\n{found}"


def guard_signs() -> str:
    rows = [
        (sign, *(cell for one in sources.values() for cell in (shown(one["auroc"]), percent(one["refused"]))))
        for sign, sources in GUARD["signs"].items()
    ]
    heads = ("sign", *(f"{source}: {figure}" for source in ("children", "adults") for figure in ("AUROC", "refused")))
    return f"{GUARD['others']:,} other pictures:\n\n{table(heads, rows)}"


def variants() -> str:
    """Networks that were trained alike but for one thing."""
    labels = {"all": "all labels", "dropped": "without suspects", "relabelled": "suspects relabelled"}
    kinds = dict.fromkeys((row["manifest"], row["arch"], row["image_size"]) for row in VARIANTS)
    found = {(row["manifest"], row["arch"], row["image_size"], row["source"]): row for row in VARIANTS}
    rows = []
    for manifest, arch, side in kinds:
        of = {source: found[manifest, arch, side, source] for source in ("children", "adults")}
        cost = of["children"]["gflop"] / VARIANTS[0]["gflop"]
        network = f"{arch.removeprefix('tf_efficientnet_').capitalize()}, {side} px"
        aurocs = (compared(row["auroc"], row["gain"]) for row in of.values())
        rows.append((labels[manifest], network, f"{cost:.1f}", *aurocs))
    return table(("labels", "network", "cost of a pass", "children, AUROC (gain)", "adults, AUROC (gain)"), rows)


def output() -> str:
    printed = io.StringIO()
    with chdir(ROOT), redirect_stdout(printed), redirect_stderr(io.StringIO()):
        command_line(["predict", *(f"examples/{name}" for name in EXAMPLES)])
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    return "\n".join(["```", *lines, "```"])


def load() -> str:
    memory = LOAD["soak"]["mib_after_each_tenth"]
    return f"{(ROOT / 'benchmarks' / 'load.md').read_text().rstrip()}\n\n" + paragraph(
        f"""{LOAD["seconds_each"]:.0f} seconds a row; before it, the load average of other
        programs was {LOAD["load_average_of_other_programs"]:.1f}. The bare network takes
        {LOAD["bare_images_a_second"]:.0f} images a second on the same two cores, and network plus decoding
        {LOAD["read_images_a_second"]:.0f}. In a run of
        {LOAD["soak"]["requests"]} requests, memory was {memory[0]} MiB after the first thousand and {memory[-1]} MiB
        after the last."""
    )


FIGURES: dict[str, Callable[[], str]] = {
    "results": results,
    "measured": measured,
    "measured-on": measured_on,
    "command": command,
    "classes": classes,
    "sources": sources,
    "calibration": calibration,
    "operating-points": operating_points,
    "coverage": coverage,
    "without-lungs": without_lungs,
    "counterfactuals": counterfactuals,
    "robustness": robustness,
    "shortcut": shortcut,
    "recipes": lambda: recipes()["Models"],
    "recipe-costs": recipe_costs,
    "recipe-chance": lambda: paragraph(recipes()["How much of that is chance"]),
    "examples": examples,
    "maps": maps,
    "map-variants": map_variants,
    "guard-signs": guard_signs,
    "variants": variants,
    "output": output,
    "load": load,
}


def render(document: str) -> str:
    """The document with all its figures rendered.

    Raises:
        KeyError: a mark names a figure that is not in FIGURES.
    """
    return REGION.sub(lambda match: f"{match[1]}{FIGURES[match[2]]()}\n{match[3]}", document)


def main() -> None:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (rendered := render(text)) != text:
            path.write_text(rendered, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} has new figures")


if __name__ == "__main__":
    main()
