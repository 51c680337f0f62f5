"""The notebook runs from top to bottom, shows what `predict` returns, and holds the results of such a run."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from pneumocam import Classifier, predict
from tests.conftest import EXAMPLES

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"
IMAGE = TOUR.with_name("person1946_bacteria_4874.jpeg")


@pytest.fixture(scope="module")
def executed() -> NotebookNode:
    tour = nbformat.read(TOUR, as_version=4)
    NotebookClient(tour, timeout=300, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    return tour


def outputs(tour: NotebookNode) -> Iterator[NotebookNode]:
    return (output for cell in tour.cells if cell.cell_type == "code" for output in cell.outputs)


def printed(tour: NotebookNode) -> str:
    return "\n".join(output.get("text") or output.data.get("text/plain", "") for output in outputs(tour))


def pictures(tour: NotebookNode) -> int:
    return sum(output.get("data", {}).get("text/html", "").count("<img ") for output in outputs(tour))


def test_it_runs_without_warnings_and_shows_what_predict_returns(executed: NotebookNode, bundled: Classifier) -> None:
    text = printed(executed)
    assert [output.text for output in outputs(executed) if output.get("name") == "stderr"] == []
    shown = re.search(r"'probabilities': \{(.*?)\}", text, re.DOTALL)
    assert shown
    shares = {name: float(p) for name, p in re.findall(r"'(\w+)': ([\d.e-]+)", shown[1])}
    assert shares == pytest.approx(predict(bundled, IMAGE).probabilities, abs=1e-6)
    for example in EXAMPLES:
        prediction = predict(bundled, example)
        row = re.search(rf"^{example.name} +\w+ +(\w+) +([\d.]+) +(\w+)$", text, re.MULTILINE)
        assert row
        assert row.groups() == (prediction.label, row[2], prediction.status)
        assert float(row[2]) == pytest.approx(prediction.p_pneumonia, abs=6e-4)
    assert "val_loss" in text


def test_it_is_kept_with_the_results_of_the_bundled_model(executed: NotebookNode, bundled: Classifier) -> None:
    kept = nbformat.read(TOUR, as_version=4)
    assert bundled.revision in printed(kept), "run `make tour` and look at the notebook"
    assert pictures(kept) == pictures(executed) == 4
    assert len(list(outputs(kept))) == len(list(outputs(executed)))
    assert TOUR.stat().st_size < 1_500_000
