"""README and model card tell what the files beside them say."""

import json
import re
from pathlib import Path

import pytest

from pneumocam import Classifier
from tests.hostile import corpus
from train.evaluate import render_card

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
METRICS = json.loads((ROOT / "model" / "metrics.json").read_text())


def shown(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


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
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+ \[.*?\]) \| ([\d.]+ \[.*?\]) \| ([\d.]*)%? \|$", section, re.MULTILINE)
    assert len(rows) == 12
    for name, auroc, specificity, flips in rows:
        row = audit["by_name"][name]
        assert (auroc, specificity) == (shown(row["auroc"]), shown(row["specificity"]))
        assert flips == (f"{100 * row['flips']['value']:.1f}" if "flips" in row else "")
    flips, of_sure = (f"{100 * audit['any_re_encoding'][name]['value']:.1f}%" for name in ("flips", "flips_of_sure"))
    assert f"{flips} of the decisions flip under at least" in section
    assert f"not\ncalled uncertain, {of_sure}." in section
    *_, changes, averages = (ROOT / "benchmarks" / "recipes.md").read_text().strip().split("\n\n")
    assert changes in README
    assert averages in README


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
