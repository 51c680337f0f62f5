"""Every place that docs/checklist.md points to exists."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKLIST = (ROOT / "docs" / "checklist.md").read_text()
DOCUMENTS = {"card": ROOT / "model_card.md", "README": ROOT / "README.md"}
DOCUMENTS |= {path.stem: path for path in (ROOT / "docs").glob("*.md")}
PLACES = sorted(set(re.findall(r"`([\w-]+)#([^`]+)`", CHECKLIST)))
KEYS = sorted(set(re.findall(r"`(\w+\.json)#([^`]+)`", CHECKLIST)))
FILES = sorted(set(re.findall(r"`((?:\w+/)*[\w-]+\.\w+)`", CHECKLIST)))


@pytest.mark.parametrize(("document", "heading"), PLACES)
def test_a_heading_exists(document: str, heading: str) -> None:
    assert heading in re.findall(r"^#+ (.+)$", DOCUMENTS[document].read_text(), re.MULTILINE)


@pytest.mark.parametrize(("file", "key"), KEYS)
def test_a_key_exists(file: str, key: str) -> None:
    value = json.loads((ROOT / "model" / file).read_text())
    for part in key.split("."):
        value = value[part]
    assert value is not None


@pytest.mark.parametrize("name", FILES)
def test_a_file_exists(name: str) -> None:
    assert (ROOT / name).exists() or (ROOT / "model" / name).exists()
