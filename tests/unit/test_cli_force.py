"""`--force` on the command line: border cases get an uncertain prediction, a photograph never gets one."""

import csv
import json
import shutil
from pathlib import Path

import matplotlib
import pytest

from pneumocam import Classifier, predict
from pneumocam.cli import main
from tests.conftest import EXAMPLES, ROOT

pytestmark = pytest.mark.slow  # each test runs the guard and the network

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bundled model with a guard for which every radiograph is a border case."""
    bundle = shutil.copytree(ROOT / "model", tmp_path_factory.mktemp("strict") / "bundle")
    description = json.loads((bundle / "guard.json").read_text())
    description["thresholds"]["chest"] = 900.0
    (bundle / "guard.json").write_text(json.dumps(description))
    return f"local-dir:{bundle}"


def test_predict_can_force_a_border_case(strict: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(EXAMPLES[0]), "--model", strict]
    assert main(command) == 1
    assert "--force" in capsys.readouterr().out
    assert main([*command, "--json", "--force"]) == 0
    line = json.loads(capsys.readouterr().out)
    expected = predict(Classifier.from_pretrained(strict), EXAMPLES[0], force=True).to_dict()
    assert expected["status"] == "uncertain"
    assert {name: line[name] for name in expected} == expected


def test_a_forced_prediction_near_the_threshold_still_tells_of_the_refusal(
    strict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    near = next(path for path in EXAMPLES if predict(Classifier.from_pretrained(), path).status == "uncertain")
    assert main(["predict", str(near), "--model", strict, "--force"]) == 0
    refusal = predict(Classifier.from_pretrained(strict), near, force=True).warnings[0]
    assert refusal.code == "not_a_chest_radiograph"
    assert refusal.message in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "score"])
def test_a_photograph_stays_rejected(
    strict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    table = ["--out", str(tmp_path / "scores.csv")] if command == "score" else ["--json"]
    assert main([command, str(PHOTOGRAPH), "--force", "--model", strict, *table]) == 1
    if command == "predict":
        assert json.loads(capsys.readouterr().out)["reason"]["code"] == "not_a_chest_radiograph"


def test_score_can_force_border_cases(strict: str, tmp_path: Path) -> None:
    files = [str(path) for path in (EXAMPLES[0], PHOTOGRAPH)]
    for options, statuses in ([], ["rejected", "rejected"]), (["--force"], ["uncertain", "rejected"]):
        assert main(["score", *files, "--out", str(tmp_path / "scores.csv"), "--model", strict, *options]) == bool(
            not options
        )
        with (tmp_path / "scores.csv").open(newline="") as file:
            assert [row["status"] for row in csv.DictReader(file)] == statuses
