"""Every place that docs/checklist.md points to exists."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKLIST = (ROOT / "docs" / "checklist.md").read_text()
DOCUMENTS = {"card": "model_card.md", "README": "README.md"}
PLACES = sorted(set(re.findall(r"`(card|README|metrics\.json|pneumocam\.json)#([^`]+)`", CHECKLIST)))
FILES = sorted(set(re.findall(r"`((?:\w+/)*[\w-]+\.\w+)`", CHECKLIST)))


@pytest.mark.parametrize(("source", "place"), PLACES)
def test_a_heading_or_a_key_exists(source: str, place: str) -> None:
    if source in DOCUMENTS:
        headings = re.findall(r"^#+ (.+)$", (ROOT / DOCUMENTS[source]).read_text(), re.MULTILINE)
        assert place in headings
        return
    value = json.loads((ROOT / "model" / source).read_text())
    for key in place.split("."):
        value = value[key]
    assert value is not None


@pytest.mark.parametrize("name", FILES)
def test_a_file_exists(name: str) -> None:
    assert (ROOT / name).exists() or (ROOT / "model" / name).exists()
