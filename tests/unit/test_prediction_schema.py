"""docs/prediction.schema.json says of an answer what Python, the command line and the endpoint's handler give."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handler import EndpointHandler
from pneumocam import Classifier, OperatingPoint, Prediction, RadiographError, predict, predict_many
from pneumocam.cli import main
from tests.conftest import EXAMPLES, ROOT
from tests.unit.test_bundle import JUNK

SCHEMA = json.loads((ROOT / "docs" / "prediction.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
CODES = set(SCHEMA["$defs"]["code"]["enum"])
STATUSES = ("ok", "uncertain", "rejected")


@pytest.fixture(scope="module")
def answers(bundled: Classifier) -> dict[str, dict[str, Any]]:
    """One of each status."""
    found = [predict(bundled, film).to_dict() for film in EXAMPLES]
    (rejected,) = (x.to_dict() for x in predict_many(bundled, [b"words"]))
    return {answer["status"]: answer for answer in [*found, rejected]}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of everything in a JSON document."""
    for key, item in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from paths(item, (*path, key))


def changed(answer: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(answer))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return copy


def described(schema: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    for name, field in schema.get("properties", {}).items():
        yield name, "description" in field or "description" in SCHEMA["$defs"].get(name, {})
        yield from described(field)


def test_the_schema_is_one_and_every_field_is_described() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"].startswith("urn:")
    fields = dict(described(SCHEMA)) | dict(described(SCHEMA["$defs"]["reason"]))
    assert fields.keys() == {*SCHEMA["required"], "name", "threshold", "id", "revision", "code", "message"}
    assert all(fields.values()), fields


def test_every_status_is_valid_and_nothing_of_it_may_be_missing_or_more(answers: dict[str, dict[str, Any]]) -> None:
    assert answers.keys() == {*STATUSES}
    for answer in answers.values():
        VALIDATOR.validate(answer)
        for path in paths(answer):
            if path[0] == "probabilities" and len(path) == 1:
                continue
            less = changed(answer, path, None)
            parent = less
            for key in path[:-1]:
                parent = parent[key]
            del parent[path[-1]]
            assert not VALIDATOR.is_valid(less), path
        for more in ((), ("reason",), ("operating_point",), ("model",), ("probabilities",)):
            if all(answer[key] is not None for key in more):
                assert not VALIDATOR.is_valid(changed(answer, (*more, "more"), 0.5)), more


def test_each_status_implies_its_fields(answers: dict[str, dict[str, Any]]) -> None:
    for status, answer in answers.items():
        for other, foreign in answers.items():
            if other == status:
                continue
            assert not VALIDATOR.is_valid(answer | {"status": other})
            for key in ("label", "probabilities", "p_pneumonia", "reason"):
                mixed = answer | {key: foreign[key]}
                same = {status, other} == {"ok", "uncertain"} and key != "reason"  # both are answers
                assert VALIDATOR.is_valid(mixed) == same, (status, other, key)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), value=JUNK)
def test_junk_in_a_field_is_refused(answers: dict[str, dict[str, Any]], data: st.DataObject, value: Any) -> None:
    answer = answers[data.draw(st.sampled_from(sorted(answers)))]
    path = data.draw(st.sampled_from([x for x in paths(answer) if x[0] in ("status", "model", "disclaimer", "reason")]))
    current: Any = answer
    for key in path:
        current = current[key]
    free = path[-1] in ("message", "id", "revision") and isinstance(value, str) and value
    if not free and value not in (current, *STATUSES, *CODES):
        assert not VALIDATOR.is_valid(changed(answer, path, value)), (path, value)


def test_the_codes_are_those_in_the_code() -> None:
    sources = [*(ROOT / "pneumocam").glob("*.py"), *(ROOT / "api").glob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    of_films = set(re.findall(r'^    code(?:: \w+\[\w+\])? = "(\w+)"$', text, re.MULTILINE))
    assert {kind.code for kind in RadiographError.__subclasses__()} <= of_films
    of_reasons = set(re.findall(r'Reason\(\s*"(\w+)"', text))
    assert of_reasons >= {"near_threshold", "unreadable_file"}
    assert of_films - {RadiographError.code} | of_reasons == CODES
    description = SCHEMA["$defs"]["code"]["description"]
    assert set(re.findall(r"(\w+):", description)) == CODES


@pytest.mark.parametrize("labels", [("NORMAL", "BACTERIAL", "VIRAL"), ("NORMAL", "PNEUMONIA")])
def test_a_binary_model_answers_by_it_too(make_bundle: Callable[..., Path], labels: tuple[str, ...]) -> None:
    classifier = Classifier.from_pretrained(f"local-dir:{make_bundle('test_resnet', labels=labels)}")
    for threshold in (0.01, 0.99):
        point = OperatingPoint("test", threshold, 0.0)
        VALIDATOR.validate(predict(replace(classifier, operating_point=point), EXAMPLES[0]).to_dict())


def test_a_sum_that_rounding_brings_above_one_is_one(bundled: Classifier) -> None:
    logits = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 12
    rows = [row for row in logits.softmax(1).tolist() if sum(row[1:]) > 1]
    assert rows
    film = predict(bundled, EXAMPLES[0])
    for row in rows:
        answer = replace(film, status="ok", reason=None, probabilities=dict(zip(bundled.label_names, row, strict=True)))
        VALIDATOR.validate(answer.to_dict())


def test_the_command_line_answers_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bundled: Classifier
) -> None:
    (tmp_path / "notes.txt").write_text("no film")
    films = [EXAMPLES[0], tmp_path / "notes.txt", tmp_path / "missing.png", EXAMPLES[1]]
    assert (
        main(["predict", *map(str, films), "--json", "--overlay", str(tmp_path), "--operating-point", "rule_in"]) == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.pop("path") for line in lines] == [str(film) for film in films]
    assert [line.pop("overlay") is None for line in lines] == [False, True, True, False]
    assert [line.pop("report") for line in lines] == [None] * 4
    for line, expected in zip(lines, predict_many(bundled.at("rule_in"), films), strict=True):
        VALIDATOR.validate(line)
        assert line == expected.to_dict()
    assert [line["reason"] and line["reason"]["code"] for line in lines[1:3]] == ["not_an_image", "unreadable_file"]


def test_the_endpoint_s_handler_answers_by_it(bundled: Classifier) -> None:
    handler = EndpointHandler(str(ROOT / "model"))
    inputs = [base64.b64encode(film.read_bytes()).decode() for film in EXAMPLES[:3]]
    batch = handler({"inputs": inputs})
    assert isinstance(batch, list)
    for answer, film in zip(batch, EXAMPLES, strict=False):
        VALIDATOR.validate(answer)
        expected: Prediction = predict(bundled, film)
        assert answer == expected.to_dict() | {"model": {"id": "local-dir:model", "revision": bundled.revision}}
    refused = handler({"inputs": "no film"})
    assert isinstance(refused, dict)
    assert refused["error"]["code"] in CODES
