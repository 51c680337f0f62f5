"""README and model card tell what the files beside them say."""

import json
import re
from pathlib import Path

import pytest

from pneumocam import Classifier, predict
from tests.conftest import EXAMPLES
from tests.hostile import corpus
from train.evaluate import render_card

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
METRICS = json.loads((ROOT / "model" / "metrics.json").read_text())


def shown(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def percent(figure: dict[str, float]) -> str:
    return f"{100 * figure['value']:.1f}% [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


@pytest.mark.parametrize(
    ("row", "part", "name"),
    [
        ("Accuracy, three classes", "multiclass", "accuracy"),
        ("Macro F1, three classes", "multiclass", "macro_f1"),
        ("Accuracy, binary", "binary", "accuracy"),
        ("AUROC, binary", "binary", "auroc"),
        ("Sensitivity", "binary", "sensitivity"),
        ("Specificity", "binary", "specificity"),
        ("Specificity where sensitivity is 97%", "binary", "specificity_at_sensitivity_97"),
        ("Calibration error (ECE)", "binary", "ece"),
        ("AUROC, BACTERIAL against VIRAL", "subtype", "auroc"),
    ],
)
def test_readme_has_the_figures_of_metrics_json(row: str, part: str, name: str) -> None:
    assert f"| {row} | {shown(METRICS[part][name])} |" in README


def test_readme_says_how_many_films_and_patients_were_measured() -> None:
    assert f"{METRICS['n']} films of {METRICS['patients']} patient groups" in README
    # It was measured in the folder of its training, runs/.../bundle.
    assert METRICS["command"].replace(" bundle ", " model ").replace("DIR...", "DIR") in README


def test_readme_says_what_the_operating_points_mean() -> None:
    for name, point in METRICS["operating_points"].items():
        figures = f"{shown(point['sensitivity'])} | {shown(point['specificity'])}"
        assert f"| `{name}` | {point['threshold']:.3f} | {figures} |" in README


def test_readme_has_the_figures_of_the_audit() -> None:
    audit = METRICS["audit"]["counterfactuals"]
    section = README.split("### Lungs or files?")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \|" + 3 * r" (\d[^|]+) \|" + r" ([\d.]*)%? \|$", section, re.MULTILINE)
    assert len(rows) == 12
    for name, auroc, sensitivity, specificity, flips in rows:
        row = audit["by_name"][name]
        assert [auroc, sensitivity, specificity] == [shown(row[x]) for x in ("auroc", "sensitivity", "specificity")]
        assert flips == (f"{100 * row['flips']['value']:.1f}" if "flips" in row else "")
    words, any_re_encoding = " ".join(section.split()), audit["any_re_encoding"]
    assert f"{percent(any_re_encoding['flips'])} of the decisions flip under at least" in words
    assert f"not called uncertain, {percent(any_re_encoding['flips_of_sure'])}." in words
    worst = audit["worst"]
    assert f"The lowest AUROC is {worst['auroc']['value']:.3f} ({worst['auroc']['counterfactual']})" in words
    assert f"ECE {worst['ece']['value']:.3f}" in words
    assert worst["sensitivity"]["counterfactual"] == worst["ece"]["counterfactual"] == "flat shadows"
    for name, films in (("file facts of the originals", 215), ("spectrum", None)):
        baseline = METRICS["audit"]["baselines"][name]
        assert shown(baseline["auroc"]) in words
        assert films in (None, baseline["n"])


def test_readme_says_how_right_the_surest_answers_are() -> None:
    words = " ".join(README.split())
    for name in ("binary", "multiclass"):
        at = METRICS["risk_coverage"][name]["accuracy_at"]
        first, second, third = (f"{100 * at[coverage]['value']:.1f}%" for coverage in ("0.8", "0.9", "0.95"))
        assert f"{first}, {second} and {third}" in words


def cells_of(table: str, name: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_readme_has_the_tables_of_the_recipes() -> None:
    parts = (ROOT / "benchmarks" / "recipes.md").read_text().split("## ")
    sections = dict(part.strip().split("\n\n", 1) for part in parts if part)
    assert sections["Models"] in README
    words = " ".join(README.split())
    assert sections["How much of that is chance"] in words
    files = sections["plain and shipped: the same films in other files"]
    kept = [float(cells_of(files, name)[4].split()[0]) for name in ("JPEG 50", "padded", "flat highlights")]
    first, second, third = (f"{100 * (1 - specificity):.1f}%" for specificity in kept)
    assert f"calls {first}, {second} and {third} of the healthy ill" in words
    models = {row.split("|")[1].strip(): row.split("|")[2:5] for row in sections["Models"].splitlines()[2:]}
    plain, shipped, without_crops = ({name: float(row[i]) for name, row in models.items()} for i in range(3))
    assert f"though it calls {100 * (1 - plain['specificity']):.1f}% of the healthy ill" in words
    assert f"but for that: it calls {100 * (1 - without_crops['specificity']):.1f}% of the healthy ill" in words
    names = ("AUROC", "accuracy", "accuracy, 3 classes", "AUROC, subtype", "specificity at 97%")
    costs = [f"{plain[name] - shipped[name]:.3f}"[1:] for name in names]
    assert (
        "{} of AUROC, {} of binary and {} of three-class accuracy, {} of subtype AUROC and {} of specificity at 97%"
    ).format(*costs) in words
    along = sections["plain and shipped: how far answers go along with what sees no lungs"]
    (plain_facts, facts), (plain_blocks, blocks) = (cells_of(along, name) for name in ("file facts", "8 px blocks"))
    assert f"{facts} and {blocks}), the plain model's less so ({plain_facts} and {plain_blocks})" in words


def test_readme_tells_how_the_examples_come_out(bundled: Classifier) -> None:
    answers = [predict(bundled, film) for film in EXAMPLES]
    bacterial = ["bacteria" in film.name for film in EXAMPLES]
    right = sum((a.label != "NORMAL") == ill for a, ill in zip(answers, bacterial, strict=True))
    viral = sum(a.label == "VIRAL" and ill for a, ill in zip(answers, bacterial, strict=True))
    words = " ".join(README.split())
    assert f"Of the {len(EXAMPLES)} films of `examples/`, which were not trained on, {right} come out right" in words
    assert f"{sum(a.status == 'uncertain' for a in answers)} are called uncertain" in words
    assert f"and {viral} of the {sum(bacterial)} bacterial ones are called viral" in words


def test_readme_has_the_figures_of_the_load() -> None:
    load = json.loads((ROOT / "benchmarks" / "load.json").read_text())
    held = load["soak"]["mib_after_each_tenth"]
    section = " ".join(README.split("How much it bears")[1].split("\n## ")[0].split())
    assert (ROOT / "benchmarks" / "load.md").read_text() in README
    assert f"takes {load['bare_films_a_second']:.0f} films a second" in section
    assert f"and {load['read_films_a_second']:.0f} if it has to read" in section
    assert f"{held[0]} MiB after the first and {held[-1]} MiB after the last" in section
    assert f"of {load['soak']['requests']} further requests" in section


def test_readme_counts_the_hostile_uploads() -> None:
    assert f"Tests send it {len(corpus())} hostile uploads" in README


def test_metrics_are_of_the_bundled_weights_and_of_held_out_patients(bundled: Classifier) -> None:
    assert METRICS["model"]["revision"] == bundled.revision
    assert METRICS["manifest_sha256"] == bundled.training["manifest_sha256"]
    assert METRICS["split"].startswith("validation, patients held out")


def test_card_beside_the_weights_is_the_template_filled_in(bundled: Classifier) -> None:
    assert (ROOT / "model" / "README.md").read_text() == render_card(bundled, METRICS)


def test_readme_shows_the_answer_that_the_bundled_model_gives(bundled: Classifier) -> None:
    answers = re.findall(r'"revision": "(sha256:[0-9a-f]+)"', README) + re.findall(r"'revision': '(\S+?)'", README)
    assert answers
    assert set(answers) == {bundled.revision}


def test_files_that_the_readme_names_exist() -> None:
    tree = README.split("## Files")[1].split("## Licence")[0]
    names = re.findall(r"^    (\S+)", tree, re.MULTILINE)
    assert len(names) >= 8
    for name in [*names, *re.findall(r"\]\(([\w./-]+)\)", README)]:
        assert (ROOT / name).exists(), name


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", README, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_space_runs_the_gradio_that_is_pinned() -> None:
    version = re.search(r"^sdk_version: (\S+)$", README, re.MULTILINE)
    assert version
    assert f"gradio=={version[1]}\n" in (ROOT / "requirements.txt").read_text()
