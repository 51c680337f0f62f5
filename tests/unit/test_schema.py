"""docs/pneumocam.schema.json says of a pneumocam.json what the loader says."""

import json
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import pneumocam.model
from pneumocam import BundleError
from tests.unit.test_model import JUNK, KEYS

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "pneumocam.schema.json").read_text())
BUNDLED = json.loads((ROOT / "model" / "pneumocam.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CHANGES = st.tuples(st.sampled_from(KEYS["pneumocam.json"]), JUNK)


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(BUNDLED))
    parent = content
    for key in path[:-1]:
        parent = parent.setdefault(key, {})
    parent[path[-1]] = value
    return content


def loads(content: dict[str, Any]) -> bool:
    try:
        pneumocam.model._checked_description(content, Path("pneumocam.json"))
    except BundleError:
        return False
    return True


def test_the_schema_is_one_and_takes_the_bundled_description() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    VALIDATOR.validate(BUNDLED)
    assert loads(BUNDLED)


@settings(max_examples=500, deadline=None)
@given(change=CHANGES)
@example(change=(("schema_version",), 2))
@example(change=(("schema_version",), True))
@example(change=(("temperature",), 0))
@example(change=(("temperature",), 10**400))
@example(change=(("temperature",), True))
@example(change=(("operating_points",), {}))
@example(change=(("operating_points", "balanced", "threshold"), 1))
@example(change=(("operating_points", "balanced", "threshold"), 1e-6))
@example(change=(("operating_points", "balanced", "uncertain_log_odds"), 100))
@example(change=(("operating_points", "balanced", "name"), "x"))
@example(change=(("operating_points", "other"), {"threshold": 0.5, "uncertain_log_odds": 0}))
@example(change=(("default_operating_point",), []))
@example(change=(("default_operating_point",), "x"))
@example(change=(("training",), [1]))
@example(change=(("more",), 1))
def test_schema_and_loader_agree(change: tuple[tuple[str, ...], Any]) -> None:
    content = changed(*change)
    assume("NaN" not in json.dumps(content) and "Infinity" not in json.dumps(content))  # Python's, not JSON's
    names = content["operating_points"]
    default = content["default_operating_point"]
    named = not isinstance(names, dict) or not isinstance(default, str) or default in names
    assert loads(content) == (VALIDATOR.is_valid(content) and named)


def test_nothing_that_is_required_may_be_missing() -> None:
    for key in BUNDLED:
        content = {name: value for name, value in BUNDLED.items() if name != key}
        assert loads(content) == VALIDATOR.is_valid(content) == (key == "training")
