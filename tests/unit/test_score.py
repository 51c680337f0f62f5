"""Tables: a row a file with Python's numbers, folders and globs, and a run that stopped is resumed."""

import csv
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumocam import DISCLAIMER, Classifier, predict
from pneumocam.score import COLUMNS, find_files, parse_bytes, table_row
from tests.conftest import EXAMPLES, SUBTYPES
from tests.unit.test_cli import MakeBundle, ask, images, model, read, run

__all__ = ["images", "model"]  # fixtures


@pytest.mark.slow
def test_the_installed_command_scores_a_folder(model: str, images: Path, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("pneumocam")
    done = run(command, "score", images, "--out", tmp_path / "out.csv", "--model", model)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    written = f"3 of 3 scored, {tmp_path / 'out.csv'} written."
    assert done.stderr.endswith(f"{written} Files skipped because they are no images: 1. {DISCLAIMER}\n")
    names = ["a/x.jpeg", "b/x.jpeg", "z.jpeg"]
    assert [row["path"] for row in read(tmp_path / "out.csv")] == [str(images / name) for name in names]


@pytest.mark.slow
def test_ray_scores_as_one_process_does(model: str, images: Path, tmp_path: Path) -> None:
    for image in EXAMPLES[2:6]:
        shutil.copy(image, images)
    assert ask(model, "score", images, "--out", tmp_path / "local.csv") == 0
    done = run(
        *(sys.executable, "-m", "pneumocam", "score", images, "--out", tmp_path / "ray.csv", "--model", model),
        *("--engine", "ray", "--batch-size", 4),
        RAY_ADDRESS="local",
        RAY_AUTH_MODE="disabled",
        RAY_USAGE_STATS_ENABLED="0",
    )
    assert done.returncode == 0, done.stderr
    by_ray, here = read(tmp_path / "ray.csv"), read(tmp_path / "local.csv")
    assert len(here) == 7
    for column in COLUMNS:
        a, b = [row[column] for row in by_ray], [row[column] for row in here]
        if column.startswith("p_"):
            np.testing.assert_allclose([float(x or -1) for x in a], [float(x or -1) for x in b], atol=5e-6)
        else:
            assert a == b


def test_the_table_has_a_row_a_file_with_python_s_numbers(model: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.csv"
    assert ask(model, "score", images, images / "b/notes.txt", "--out", out, "--batch-size", 3) == 0
    text = out.read_text()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    rows = read(out)
    assert len(rows) == 4
    classifier = Classifier.from_pretrained(model)
    for row in rows:
        if row["path"].endswith("notes.txt"):
            assert [row[x] for x in COLUMNS[1:8]] == ["rejected", "", "", "", "", "", "not_an_image"]
            assert row["reason"].startswith("The upload is no picture that is known here.")
            continue
        answer = predict(classifier, row["path"])
        assert (row["status"], row["label"]) == (answer.status, answer.label)
        assert row["reason"] == (answer.reason.message if answer.reason else "")
        found = [float(row[f"p_{name.lower()}"]) for name in (*SUBTYPES, "PNEUMONIA")]
        assert found == pytest.approx([*answer.probabilities.values(), answer.p_pneumonia], abs=5e-6)
        assert all(len(row[f"p_{name.lower()}"]) == len("0.123456") for name in SUBTYPES)


def test_a_binary_model_leaves_the_subtypes_empty(make_bundle: MakeBundle, images: Path, tmp_path: Path) -> None:
    source = f"local-dir:{make_bundle('test_resnet', labels=('NORMAL', 'PNEUMONIA'))}"
    assert ask(source, "score", images / "z.jpeg", "--out", tmp_path / "out.csv") == 0
    (row,) = read(tmp_path / "out.csv")
    assert (row["p_bacterial"], row["p_viral"]) == ("", "")
    assert float(row["p_normal"]) + float(row["p_pneumonia"]) == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["{}"], ["a/x.jpeg", "b/x.jpeg", "z.jpeg"]),
        (["{}/b", "{}/a"], ["b/x.jpeg", "a/x.jpeg"]),
        (["{}/*.jpeg"], ["z.jpeg"]),
        (["{}/**/*.jpeg"], ["a/x.jpeg", "b/x.jpeg", "z.jpeg"]),
        (["{}/**"], ["a/x.jpeg", "b/x.jpeg", "z.jpeg"]),
        (["{}/[ab]/x.*", "{}/z.jpeg"], ["a/x.jpeg", "b/x.jpeg", "z.jpeg"]),
        (["{}/z.jpeg", "{}/missing.jpeg", "{}/b/notes.txt"], ["z.jpeg", "missing.jpeg", "b/notes.txt"]),
    ],
)
def test_folders_and_globs_are_expanded_in_order(
    model: str, images: Path, tmp_path: Path, patterns: list[str], expected: list[str]
) -> None:
    assert ask(model, "score", *(x.format(images) for x in patterns), "--out", tmp_path / "out.csv") == 0
    assert [row["path"] for row in read(tmp_path / "out.csv")] == [str(images / name) for name in expected]


def test_a_name_that_looks_like_a_glob_is_itself(model: str, images: Path, tmp_path: Path) -> None:
    odd = shutil.copy(EXAMPLES[0], images / 'image [1], "left".jpeg')
    assert ask(model, "score", odd, "--out", tmp_path / "out.csv") == 0
    assert [row["path"] for row in read(tmp_path / "out.csv")] == [str(odd)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, file names are text")
def test_a_name_that_is_no_utf8_does_not_stop_the_run(model: str, images: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES[0], images / os.fsdecode(b"f\xfclm.jpeg"))
    for options in ((), ("--resume",)):
        assert ask(model, "score", images, "--out", tmp_path / "out.csv", *options) == 0
        assert os.fsencode(images) + b"/f\xfclm.jpeg,ok," in (tmp_path / "out.csv").read_bytes()
        assert len((tmp_path / "out.csv").read_bytes().splitlines()) == 5


def test_a_table_among_the_images_is_no_image(model: str, images: Path) -> None:
    for _ in range(2):
        assert ask(model, "score", images, "--out", images / "out.csv") == 0
        assert len(read(images / "out.csv")) == 3
    assert not list(images.glob("*.tmp"))


@pytest.mark.parametrize("command", ["predict", "score"])
def test_the_exit_code_is_1_if_nothing_was_classified(model: str, images: Path, tmp_path: Path, command: str) -> None:
    files = [images / "b/notes.txt", images / "missing.png"]
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
    assert 'near_threshold,"' in lines[-1]
    return source, out, lines


@pytest.mark.parametrize("cut", [1, 2, 12, 60, 90, 130])
def test_a_row_cut_off_anywhere_is_scored_again(table: tuple[str, Path, list[str]], cut: int) -> None:
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


def test_resume_without_a_table_is_a_first_run(model: str, images: Path, tmp_path: Path) -> None:
    assert ask(model, "score", images, "--out", tmp_path / "out.csv", "--resume") == 0
    assert len(read(tmp_path / "out.csv")) == 3


def test_resume_of_another_table_leaves_it_alone(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out.csv").write_text("name,age\nx,3\n")
    assert ask(model, "score", images, "--out", tmp_path / "out.csv", "--resume") == 2
    assert "has the columns ['name', 'age']; expected path, status" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "name,age\nx,3\n"


def test_a_model_that_cannot_be_had_leaves_the_table_alone(table: tuple[str, Path, list[str]]) -> None:
    _, out, lines = table
    assert ask("local-dir:nowhere", "score", EXAMPLES[5], "--out", out) == 2
    assert out.read_text() == "".join(lines)


def test_a_failure_of_the_service_is_tried_again_and_one_of_the_image_is_not(
    table: tuple[str, Path, list[str]],
) -> None:
    source, out, lines = table
    failed = [lines[2].split(",")[0], "rejected", "", "", "", "", "", "internal_error", "no memory", ""]
    damaged = [lines[3].split(",")[0], "rejected", "", "", "", "", "", "damaged_image", "cut off", ""]
    out.write_text("".join([lines[0], lines[1], ",".join(failed) + "\n", ",".join(damaged) + "\n", lines[4]]))
    assert ask(source, "score", *EXAMPLES[:4], "--out", out, "--resume") == 0
    rows = {row["path"]: row for row in read(out)}
    assert len(rows) == 4
    assert rows[failed[0]]["status"] == "uncertain"
    assert rows[damaged[0]]["code"] == "damaged_image"


# Parts


def test_what_is_plainly_no_image_is_left_out_of_folders(tmp_path: Path) -> None:
    for name, content in {
        "notes.md": "# Äußerst wichtig\n".encode(),
        "long.txt": "ä".encode() * 2000,
        "paper.pdf": b"%PDF-1.7\n\xff",
        "slides.pptx": b"PK\x03\x04\x14\x00",
        "backup.gz": b"\x1f\x8b\x08",
        "cut.jpeg": b"\xff\xd8\xff",
        "empty.dcm": b"",
        "noname": bytes(128) + b"DICM",
    }.items():
        (tmp_path / name).write_bytes(content)
    found, skipped = find_files([str(tmp_path)])
    assert [Path(file).name for file in found] == ["cut.jpeg", "empty.dcm", "noname"]
    assert skipped == 5
    assert find_files([str(tmp_path / "notes.md")]) == ([str(tmp_path / "notes.md")], 0)  # it was named


@pytest.mark.parametrize(
    ("text", "size"), [("500000", 500_000), ("100MB", 100_000_000), ("1.5 gb", 1_500_000_000), (" 20kB ", 20_000)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "MB", "1TB", "1e6", "0.1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size such as 20000000, 100MB or 1GB"):
        parse_bytes(text)


def test_a_row_has_the_steps_of_the_image(bundled: Classifier) -> None:
    pixels = np.zeros((100, 120, 3), np.uint8)
    pixels[20:80, 30:90, 0] = np.arange(60)[:, None] * 4
    prediction = predict(replace(bundled, guard=None), Image.fromarray(pixels)).to_dict()
    assert prediction["image"]["steps"]
    assert table_row("x", prediction)["steps"] == "; ".join(prediction["image"]["steps"])
