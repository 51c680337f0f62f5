"""README, documentation and model card agree with the files beside them."""

import json
import re
from pathlib import Path

import pytest

from docs.figures import DOCUMENTS, FIGURES, REGION, render
from pneumocam import Classifier
from setup import long_description

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
METRICS = json.loads((ROOT / "model" / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_figures_of_a_document_are_those_of_the_files(path: Path) -> None:
    text = path.read_text()
    assert render(text) == text, "run `make figures`"


def test_every_figure_is_shown_somewhere() -> None:
    shown = {name for path in DOCUMENTS for _, name, _ in REGION.findall(path.read_text())}
    assert shown == FIGURES.keys()


def test_a_stale_figure_is_replaced_and_the_rest_is_kept() -> None:
    stale = "before\n<!-- figures: command -->\nold\n<!-- end of figures -->\nafter\n"
    assert METRICS["command"] in render(stale)
    assert "old" not in render(stale)
    assert render(stale).startswith("before\n")
    assert render(stale).endswith("\nafter\n")


def test_readme_has_at_most_150_lines() -> None:
    assert len(README[README.index("# PneumoCAM") :].splitlines()) <= 150


def test_links_of_the_documents_lead_to_files() -> None:
    for path in [*DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in [*DOCUMENTS, ROOT / "CONTRIBUTING.md"]:
        assert set(re.findall(r"(?:^|`)make (\w+)", path.read_text(), re.MULTILINE)) <= targets, path.name


def test_the_long_description_has_no_front_matter_and_no_relative_address() -> None:
    text = long_description(README)
    assert text.startswith("# PneumoCAM")
    assert set(re.findall(r"\]\((\w+):", text)) == {"https"}
    assert len(re.findall(r"\]\([^h#]", text)) == 0


def test_the_package_holds_every_folder_of_pneumocam() -> None:
    declared = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert declared
    folders = {path.parent for path in (ROOT / "pneumocam").rglob("__init__.py")}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} <= set(
        re.findall(r'"([\w.]+)"', declared[1])
    )


def test_metrics_are_of_the_bundled_weights_and_of_held_out_patients(bundled: Classifier) -> None:
    assert METRICS["model"]["revision"] == bundled.revision
    assert METRICS["manifest_sha256"] == bundled.training["manifest_sha256"]
    assert METRICS["split"].startswith("validation, patients held out")


def test_card_beside_the_weights_is_the_template_filled_in(bundled: Classifier) -> None:
    from train.evaluate import render_card  # slow to import

    assert (ROOT / "model" / "README.md").read_text() == render_card(bundled, METRICS)


def test_space_runs_the_gradio_that_is_pinned() -> None:
    version = re.search(r"^sdk_version: (\S+)$", README, re.MULTILINE)
    assert version
    assert f"gradio=={version[1]}\n" in (ROOT / "requirements.txt").read_text()
