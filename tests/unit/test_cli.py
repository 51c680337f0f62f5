"""The command line: its numbers are those of Python, its exit codes and messages are for people and for programs."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader

from pneumocam import DISCLAIMER, Classifier, predict
from pneumocam.cli import COLUMNS, main
from tests.conftest import EXAMPLES, SUBTYPES

Lines = list[dict[str, str]]
MakeBundle = Callable[..., Path]


@pytest.fixture
def model(make_bundle: MakeBundle) -> str:
    """A source whose answers carry a reason now and then."""
    point = {"threshold": 0.5, "uncertain_log_odds": 0.3}
    return f"local-dir:{make_bundle('test_resnet', temperature=0.05, operating_point=point)}"


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder in which two films share a name, with one file that is no film and one that is hidden."""
    folder = tmp_path / "films"
    for name, film in (("a/x.jpeg", EXAMPLES[0]), ("b/x.jpeg", EXAMPLES[-1]), ("z.jpeg", EXAMPLES[1])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(film, folder / name)
    (folder / "b" / "notes.txt").write_text('no film, "quoted", and a comma\n')
    (folder / ".thumbnails").mkdir()
    shutil.copy(EXAMPLES[0], folder / ".thumbnails" / "x.jpeg")
    return folder


def read(path: Path) -> Lines:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(x) for x in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )


def ask(model: str, *arguments: object) -> int:
    return main([*(str(x) for x in arguments), "--model", model])


# In a process of its own


def test_python_dash_m_predict_says_what_python_says(model: str, films: Path) -> None:
    paths = [films / "a/x.jpeg", films / "b/notes.txt", films / "b/x.jpeg"]
    done = run(sys.executable, "-m", "pneumocam", "predict", *paths, "--json", "--model", model)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.pop("path") for line in lines] == [str(path) for path in paths]
    assert [line.pop("overlay") for line in lines] == [None] * 3
    assert [line.pop("report") for line in lines] == [None] * 3
    assert (lines[1]["status"], lines[1]["reason"]["code"]) == ("rejected", "not_an_image")
    classifier = Classifier.from_pretrained(model)
    for line, path in ((lines[0], paths[0]), (lines[2], paths[2])):
        expected = predict(classifier, path).to_dict()
        assert line.pop("probabilities") == pytest.approx(expected.pop("probabilities"), abs=1e-6)
        assert line.pop("p_pneumonia") == pytest.approx(expected.pop("p_pneumonia"), abs=1e-6)
        assert line == expected


def test_the_installed_command_scores_a_folder(model: str, films: Path, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("pneumocam")
    done = run(command, "score", films, "--out", tmp_path / "out.csv", "--model", model)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.endswith(f"3 of 4 scored, {tmp_path / 'out.csv'} written. {DISCLAIMER}\n")
    names = ["a/x.jpeg", "b/notes.txt", "b/x.jpeg", "z.jpeg"]
    assert [row["path"] for row in read(tmp_path / "out.csv")] == [str(films / name) for name in names]


def test_a_user_error_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "pneumocam", "info", "--model", f"local-dir:{tmp_path / 'nowhere'}")
    expected = "expected a bundle with config.json, model.safetensors, pneumocam.json."
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"pneumocam: {tmp_path / 'nowhere' / 'config.json'} is missing: {expected}\n"


@pytest.mark.parametrize("command", [["predict", EXAMPLES[0], EXAMPLES[1]], ["info"]], ids=lambda x: x[0])
def test_an_answer_that_nobody_reads_ends_the_command_quietly(model: str, command: list[object]) -> None:
    """As `| head` leaves it, once it has what it wants."""
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, "-m", "pneumocam", *map(str, command), "--model", model]
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_ray_scores_as_one_process_does(model: str, films: Path, tmp_path: Path) -> None:
    for film in EXAMPLES[2:6]:
        shutil.copy(film, films)
    assert ask(model, "score", films, "--out", tmp_path / "local.csv") == 0
    done = run(
        *(sys.executable, "-m", "pneumocam", "score", films, "--out", tmp_path / "ray.csv", "--model", model),
        *("--engine", "ray", "--batch-size", 4),
        RAY_ADDRESS="local",
        RAY_AUTH_MODE="disabled",
        RAY_USAGE_STATS_ENABLED="0",
    )
    assert done.returncode == 0, done.stderr
    by_ray, here = read(tmp_path / "ray.csv"), read(tmp_path / "local.csv")
    assert len(here) == 8
    for column in COLUMNS:
        a, b = [row[column] for row in by_ray], [row[column] for row in here]
        if column.startswith("p_"):
            np.testing.assert_allclose([float(x or -1) for x in a], [float(x or -1) for x in b], atol=5e-6)
        else:
            assert a == b


# predict


def test_predict_in_words(model: str, films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, notes = films / "a/x.jpeg", films / "b/notes.txt"
    assert ask(model, "predict", path, notes) == 0
    out, err = capsys.readouterr()
    answer = predict(Classifier.from_pretrained(model), path)
    shares = "  ".join(f"{name} {p:.3f}" for name, p in answer.probabilities.items())
    first, second = out.splitlines()
    assert first.startswith(f"{path}: {answer.label}  [{shares}]")
    assert second.startswith(f"{notes}: rejected. The upload is no picture that is known here.")
    assert err == DISCLAIMER + "\n"


def test_overlays_of_films_of_one_name_are_all_kept(
    model: str, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(EXAMPLES[2], films / "x.jpeg.2")  # the very name that the second x.jpeg is given
    paths = [films / "a/x.jpeg", films / "b/x.jpeg", films / "x.jpeg.2", films / "b/notes.txt"]
    out = tmp_path / "deep" / "overlays"
    assert ask(model, "predict", *paths, "--json", "--overlay", out, "--target", "PNEUMONIA") == 0
    written = [json.loads(line)["overlay"] for line in capsys.readouterr().out.splitlines()]
    names = ["x.jpeg", "x.jpeg.2", "x.jpeg.2.2"]
    assert written == [*(str(out / f"{name}.overlay.png") for name in names), None]
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.overlay.png" for name in names)
    classifier = Classifier.from_pretrained(model)
    for path, overlay in zip(paths, written[:3], strict=False):
        with Image.open(overlay) as picture:
            expected = np.asarray(predict(classifier, path).overlay("PNEUMONIA"), int)
            difference = np.abs(np.asarray(picture, int) - expected)
        assert np.percentile(difference, 99.9) <= 1  # a batch rounds otherwise than one film does


@pytest.mark.parametrize("target", SUBTYPES)
def test_the_target_decides_what_is_drawn(
    model: str, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    path = films / "a/x.jpeg"
    assert ask(model, "predict", path, "--overlay", tmp_path, "--target", target) == 0
    overlay = tmp_path / "x.jpeg.overlay.png"
    assert capsys.readouterr().out.endswith(f"  -> {overlay}\n")
    with Image.open(overlay) as picture:
        expected = predict(Classifier.from_pretrained(model), path).overlay(target)
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_reports_lie_beside_each_other_as_overlays_do(
    model: str, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(EXAMPLES[2], films / "x.jpeg.2")
    paths = [films / "a/x.jpeg", films / "b/x.jpeg", films / "x.jpeg.2", films / "b/notes.txt"]
    out = tmp_path / "deep" / "reports"
    assert ask(model, "predict", *paths, "--json", "--report", out, "--target", "PNEUMONIA") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = ["x.jpeg", "x.jpeg.2", "x.jpeg.2.2"]
    assert [line["report"] for line in lines] == [*(str(out / f"{name}.pdf") for name in names), None]
    assert [line["overlay"] for line in lines] == [None] * 4
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.pdf" for name in names)
    for line in lines[:3]:
        text = PdfReader(line["report"]).pages[0].extract_text()
        assert f"Grad-CAM for PNEUMONIA, {line['p_pneumonia']:.1%}" in text
        assert all(f"{name} {p:.1%}" in text for name, p in line["probabilities"].items())


def test_overlay_and_report_can_share_a_folder(
    model: str, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert ask(model, "predict", films / "a/x.jpeg", "--overlay", out, "--report", out) == 0
    overlay, page = out / "x.jpeg.overlay.png", out / "x.jpeg.pdf"
    assert capsys.readouterr().out.endswith(f"  -> {overlay}  -> {page}\n")
    assert sorted(out.iterdir()) == [overlay, page]


# score


def test_the_table_has_a_row_a_file_with_python_s_numbers(model: str, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.csv"
    assert ask(model, "score", films, "--out", out, "--batch-size", 3) == 0
    text = out.read_text()
    assert text.splitlines()[0] == "path,status,label,p_normal,p_bacterial,p_viral,p_pneumonia,reason"
    rows = read(out)
    assert len(rows) == 4
    classifier = Classifier.from_pretrained(model)
    for row in rows:
        if row["path"].endswith("notes.txt"):
            assert [row[x] for x in COLUMNS[1:-1]] == ["rejected", "", "", "", "", ""]
            assert row["reason"].startswith("The upload is no picture that is known here.")
            continue
        answer = predict(classifier, row["path"])
        assert (row["status"], row["label"]) == (answer.status, answer.label)
        assert row["reason"] == (answer.reason.message if answer.reason else "")
        found = [float(row[f"p_{name.lower()}"]) for name in (*SUBTYPES, "PNEUMONIA")]
        assert found == pytest.approx([*answer.probabilities.values(), answer.p_pneumonia], abs=5e-6)
        assert all(len(row[f"p_{name.lower()}"]) == len("0.123456") for name in SUBTYPES)


def test_a_binary_model_leaves_the_subtypes_empty(make_bundle: MakeBundle, films: Path, tmp_path: Path) -> None:
    source = f"local-dir:{make_bundle('test_resnet', labels=('NORMAL', 'PNEUMONIA'))}"
    assert ask(source, "score", films / "z.jpeg", "--out", tmp_path / "out.csv") == 0
    (row,) = read(tmp_path / "out.csv")
    assert (row["p_bacterial"], row["p_viral"]) == ("", "")
    assert float(row["p_normal"]) + float(row["p_pneumonia"]) == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["{}"], ["a/x.jpeg", "b/notes.txt", "b/x.jpeg", "z.jpeg"]),
        (["{}/b", "{}/a"], ["b/notes.txt", "b/x.jpeg", "a/x.jpeg"]),
        (["{}/*.jpeg"], ["z.jpeg"]),
        (["{}/**/*.jpeg"], ["a/x.jpeg", "b/x.jpeg", "z.jpeg"]),
        (["{}/**"], ["a/x.jpeg", "b/notes.txt", "b/x.jpeg", "z.jpeg"]),
        (["{}/[ab]/x.*", "{}/z.jpeg"], ["a/x.jpeg", "b/x.jpeg", "z.jpeg"]),
        (["{}/z.jpeg", "{}/missing.jpeg"], ["z.jpeg", "missing.jpeg"]),
    ],
)
def test_folders_and_globs_are_expanded_in_order(
    model: str, films: Path, tmp_path: Path, patterns: list[str], expected: list[str]
) -> None:
    assert ask(model, "score", *(x.format(films) for x in patterns), "--out", tmp_path / "out.csv") == 0
    assert [row["path"] for row in read(tmp_path / "out.csv")] == [str(films / name) for name in expected]


def test_a_name_that_looks_like_a_glob_is_itself(model: str, films: Path, tmp_path: Path) -> None:
    odd = shutil.copy(EXAMPLES[0], films / 'film [1], "left".jpeg')
    assert ask(model, "score", odd, "--out", tmp_path / "out.csv") == 0
    assert [row["path"] for row in read(tmp_path / "out.csv")] == [str(odd)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, file names are text")
def test_a_name_that_is_no_utf8_does_not_stop_the_run(model: str, films: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES[0], films / os.fsdecode(b"f\xfclm.jpeg"))
    for options in ((), ("--resume",)):
        assert ask(model, "score", films, "--out", tmp_path / "out.csv", *options) == 0
        assert os.fsencode(films) + b"/f\xfclm.jpeg,ok," in (tmp_path / "out.csv").read_bytes()
        assert len((tmp_path / "out.csv").read_bytes().splitlines()) == 6


def test_a_table_among_the_films_is_no_film(model: str, films: Path) -> None:
    for _ in range(2):
        assert ask(model, "score", films, "--out", films / "out.csv") == 0
        assert len(read(films / "out.csv")) == 4
    assert not list(films.glob("*.tmp"))


@pytest.mark.parametrize("command", ["predict", "score"])
def test_the_exit_code_is_1_if_nothing_was_answered(model: str, films: Path, tmp_path: Path, command: str) -> None:
    files = [films / "b/notes.txt", films / "missing.png"]
    options = ["--out", tmp_path / "out.csv"] if command == "score" else []
    assert ask(model, command, *files, *options) == 1
    if options:
        assert [row["reason"] for row in read(tmp_path / "out.csv")][1] == (
            "The file cannot be read: No such file or directory."
        )


# score --resume


@pytest.fixture
def table(make_bundle: MakeBundle, tmp_path: Path) -> tuple[str, Path, list[str]]:
    """A source, a finished table in which each row has a reason with a comma, and its lines."""
    point = {"threshold": 0.5, "uncertain_log_odds": 100.0}
    source = f"local-dir:{make_bundle('test_resnet', operating_point=point)}"
    out = tmp_path / "out.csv"
    assert ask(source, "score", *EXAMPLES[:4], "--out", out) == 0
    lines = out.read_text().splitlines(keepends=True)
    assert len(lines) == 5
    assert lines[-1].endswith('to lean either way."\n')
    return source, out, lines


@pytest.mark.parametrize("cut", [1, 2, 12, 60, 90, 130])
def test_a_line_cut_off_anywhere_is_scored_again(table: tuple[str, Path, list[str]], cut: int) -> None:
    source, out, lines = table
    # A row that is kept keeps even a number that scoring would not give.
    kept = lines[1].replace(",uncertain,", ",ok,")
    out.write_text("".join([lines[0], kept, *lines[2:]])[:-cut])
    assert ask(source, "score", *EXAMPLES[:4], "--out", out, "--resume") == 0
    found = out.read_text().splitlines(keepends=True)
    assert found[:4] == [lines[0], kept, *lines[2:4]]
    (again,) = csv.DictReader([lines[0], *found[4:]])
    (first,) = csv.DictReader([lines[0], *lines[4:]])
    for column in COLUMNS:
        if column.startswith("p_"):
            assert float(again[column]) == pytest.approx(float(first[column]), abs=5e-6)
        else:
            assert again[column] == first[column]


def test_resume_goes_on_with_what_is_new(table: tuple[str, Path, list[str]]) -> None:
    source, out, lines = table
    assert ask(source, "score", *EXAMPLES[2:6], "--out", out, "--resume") == 0
    assert out.read_text().startswith("".join(lines))
    assert [row["path"] for row in read(out)] == [str(path) for path in EXAMPLES[:6]]


def test_resume_of_a_finished_table_changes_nothing(table: tuple[str, Path, list[str]]) -> None:
    source, out, lines = table
    assert ask(source, "score", *EXAMPLES[:4], "--out", out, "--resume") == 0
    assert out.read_text() == "".join(lines)


def test_resume_without_a_table_is_a_first_run(model: str, films: Path, tmp_path: Path) -> None:
    assert ask(model, "score", films, "--out", tmp_path / "out.csv", "--resume") == 0
    assert len(read(tmp_path / "out.csv")) == 4


def test_resume_of_another_table_leaves_it_alone(
    model: str, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.csv").write_text("name,age\nx,3\n")
    assert ask(model, "score", films, "--out", tmp_path / "out.csv", "--resume") == 2
    assert "has the columns ['name', 'age']; expected path, status" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "name,age\nx,3\n"


def test_a_model_that_cannot_be_had_leaves_the_table_alone(table: tuple[str, Path, list[str]]) -> None:
    _, out, lines = table
    assert ask("local-dir:nowhere", "score", EXAMPLES[5], "--out", out) == 2
    assert out.read_text() == "".join(lines)


# info


def test_info_as_json_is_the_classifier(make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle("test_resnet", size=(64, 96), temperature=2.5)
    (bundle / "metrics.json").write_text('{"n": 3}')
    assert ask(f"local-dir:{bundle}", "info", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "model": {
            "id": "local-dir:bundle",
            "revision": Classifier.from_pretrained(f"local-dir:{bundle}").revision,
        },
        "labels": list(SUBTYPES),
        "explains": [*SUBTYPES, "PNEUMONIA"],
        "preprocessing": {
            "input_size": [1, 64, 96],
            "interpolation": "bicubic",
            "mean": [0.5],
            "std": [0.25],
            "crop_pct": 1.0,
            "crop_mode": "squash",
        },
        "temperature": 2.5,
        "operating_point": {"name": "balanced", "threshold": 0.5, "uncertain_log_odds": 0.0},
        "operating_points": {"balanced": {"name": "balanced", "threshold": 0.5, "uncertain_log_odds": 0.0}},
        "metrics": {"n": 3},
    }


def figure(value: float) -> dict[str, float | None]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


UNDEFINED = {"value": None, "low": None, "high": None}
METRICS: dict[str, Any] = {
    "n": 40,
    "patients": 30,
    "split": "held out",
    "label_names": SUBTYPES,
    "multiclass": {"accuracy": figure(0.5)},
    "binary": {
        "accuracy": figure(0.6),
        "auroc": UNDEFINED,
        "sensitivity": figure(0.7),
        "specificity": figure(0.8),
    },
}


@pytest.mark.parametrize(
    ("metrics", "lines"),
    [
        (None, ["metrics        none with this bundle: python -m train.evaluate measures them"]),
        ({"n": 3}, ["metrics        not of train.evaluate: see info --json"]),
        (
            METRICS,
            [
                "metrics on 40 films of 30 patients (held out), 95% intervals",
                "3-class accuracy   0.500 [0.400, 0.600]",
                "binary accuracy    0.600 [0.500, 0.700]",
                "binary AUROC       none",
                "sensitivity        0.700 [0.600, 0.800]",
                "specificity        0.800 [0.700, 0.900]",
            ],
        ),
    ],
)
def test_info_in_words(
    make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str], metrics: dict[str, Any] | None, lines: list[str]
) -> None:
    bundle = make_bundle("test_resnet", temperature=2.5)
    if metrics:
        (bundle / "metrics.json").write_text(json.dumps(metrics))
    assert ask(f"local-dir:{bundle}", "info") == 0
    found = capsys.readouterr().out.splitlines()
    assert found == [
        "model          local-dir:bundle",
        f"revision       {Classifier.from_pretrained(f'local-dir:{bundle}').revision}",
        "labels         NORMAL, BACTERIAL, VIRAL",
        "preprocessing  input_size [1, 64, 64], interpolation bicubic, mean [0.5], std [0.25], crop_pct 1.0, "
        "crop_mode squash",
        "temperature    2.500",
        "decision       balanced: pneumonia from P = 0.50 on",
        *lines,
        DISCLAIMER,
    ]


# What cannot be carried out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "x.png", "--target", "LUNG"], "--target is 'LUNG'; this model explains NORMAL, BACTERIAL, VIRAL"),
        (["predict", "x.png", "--overlay", "file"], "--overlay: 'file' is a file or below one; expected a folder"),
        (["predict", "x.png", "--report", "file/x"], "--report: 'file/x' is a file or below one; expected a folder"),
        (["score", "empty", "--out", "out.csv"], "Nothing to score: empty matched no file"),
        (["score", "*.none", "--out", "out.csv"], r"Nothing to score: *.none matched no file"),
        (["score", "file", "--out", "file/out.csv"], "--out: 'file' is a file or below one; expected a folder"),
        (["score", "file", "--out", "empty"], "--out is 'empty', which is a folder; expected a CSV file."),
        (["score", "file", "--out", "out.csv", "--batch-size", "0"], "--batch-size is 0; expected at least 1"),
    ],
)
def test_the_exit_code_is_2_and_the_message_says_why(
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "file").write_text("words")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert ask(model, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("pneumocam: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "bundle") == ["empty", "file"]


@pytest.mark.parametrize(
    "arguments", [[], ["guess"], ["predict"], ["score", "x"], ["score", "x", "--out", "y", "--engine", "steam"]]
)
def test_wrong_usage_is_answered_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: pneumocam" in capsys.readouterr().err


def test_help_carries_the_disclaimer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "not a diagnosis" in capsys.readouterr().out


def test_another_operating_point_draws_another_line(
    make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle("test_resnet")
    description = json.loads((bundle / "pneumocam.json").read_text())
    description["operating_points"] |= {
        "screening": {"threshold": 1e-5, "uncertain_log_odds": 0.0},
        "rule_in": {"threshold": 1 - 1e-5, "uncertain_log_odds": 0.0},
    }
    (bundle / "pneumocam.json").write_text(json.dumps(description))
    film, source = str(EXAMPLES[0]), f"local-dir:{bundle}"
    labels = {}
    for name in ("screening", "rule_in"):
        assert main(["predict", film, "--model", source, "--operating-point", name, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["operating_point"]["name"] == name
        labels[name] = answer["label"]
        table = tmp_path / f"{name}.csv"
        assert main(["score", film, "--model", source, "--operating-point", name, "--out", str(table)]) == 0
        assert labels[name] in table.read_text()
    capsys.readouterr()
    assert labels["rule_in"] == "NORMAL" != labels["screening"]
    assert main(["info", "--model", source]) == 0
    printed = capsys.readouterr().out
    assert "decision       balanced: pneumonia from P = 0.50 on\n" in printed
    assert "               rule_in: pneumonia from P = 1.00 on\n" in printed
    assert main(["predict", film, "--model", source, "--operating-point", "x"]) == 2
    assert "operating_point is 'x'; this model has balanced, screening, rule_in." in capsys.readouterr().err
