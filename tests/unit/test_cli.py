"""The command line: its numbers are those of Python, its exit codes and messages are for people and for programs."""

import csv
import json
import os
import re
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

from pneumocam import DISCLAIMER, Classifier, __version__, predict
from pneumocam.cli import main
from tests.conftest import EXAMPLES, SUBTYPES

Lines = list[dict[str, str]]
MakeBundle = Callable[..., Path]


@pytest.fixture
def model(make_bundle: MakeBundle) -> str:
    """A model with some uncertain predictions."""
    point = {"threshold": 0.5, "uncertain_log_odds": 0.3}
    return f"local-dir:{make_bundle('test_resnet', temperature=0.05, operating_point=point)}"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder in which two images share a name, with one file that is no image and one that is hidden."""
    folder = tmp_path / "images"
    for name, image in (("a/x.jpeg", EXAMPLES[0]), ("b/x.jpeg", EXAMPLES[-1]), ("z.jpeg", EXAMPLES[1])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / name)
    (folder / "b" / "notes.txt").write_text('no image, "quoted", and a comma\n')
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


@pytest.mark.slow
def test_python_dash_m_predict_says_what_python_says(model: str, images: Path) -> None:
    paths = [images / "a/x.jpeg", images / "b/notes.txt", images / "b/x.jpeg"]
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


@pytest.mark.slow
def test_a_user_error_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "pneumocam", "info", "--model", f"local-dir:{tmp_path / 'nowhere'}")
    expected = "expected a bundle with config.json, model.safetensors, pneumocam.json."
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"pneumocam: {tmp_path / 'nowhere' / 'config.json'} is missing: {expected}\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", [["predict", EXAMPLES[0], EXAMPLES[1]], ["info"]], ids=lambda x: x[0])
def test_an_answer_that_nobody_reads_ends_the_command_quietly(model: str, command: list[object]) -> None:
    """As `| head` leaves it, once it has what it wants."""
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, "-m", "pneumocam", *map(str, command), "--model", model]
    done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


# predict


def test_predict_in_words(model: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, notes = images / "a/x.jpeg", images / "b/notes.txt"
    assert ask(model, "predict", path, notes) == 0
    out, err = capsys.readouterr()
    prediction = predict(Classifier.from_pretrained(model), path)
    first, second = out.splitlines()
    assert prediction.p_pneumonia is not None
    word = prediction.label if prediction.status == "ok" else "uncertain"
    assert re.split(" {2,}", first)[:2] == [str(path), word]
    for name, p in (*prediction.probabilities.items(), ("P(pneumonia)", prediction.p_pneumonia)):
        assert re.search(rf"{re.escape(name)} +{p:.1%}", first)
    assert second.startswith(f"{notes}  rejected   The upload is no picture that is known here.")
    assert err == DISCLAIMER + "\n"


def test_columns_are_aligned_and_an_uncertain_prediction_says_so(
    make_bundle: MakeBundle, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point = {"threshold": 0.5, "uncertain_log_odds": 100.0}
    bundle = f"local-dir:{make_bundle('test_resnet', operating_point=point)}"
    assert ask(bundle, "predict", images) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 3
    for column in ("uncertain", "P(pneumonia)", "NORMAL", "BACTERIAL", "VIRAL"):
        assert len({line.index(column) for line in lines}) == 1
    assert err.splitlines() == ["Files skipped because they are no images: 1.", DISCLAIMER]


@pytest.mark.slow
def test_standard_input_is_an_image(model: str) -> None:
    command = [sys.executable, "-m", "pneumocam", "predict", "-", "--json", "--model", model]
    with EXAMPLES[0].open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["path"] == "-"
    assert line["image"] == predict(Classifier.from_pretrained(model), EXAMPLES[0]).to_dict()["image"]


def test_the_size_limit_is_an_option(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    size = EXAMPLES[0].stat().st_size
    for limit, status in ((f"{size}", 0), ("0.001 MB", 1)):
        assert ask(model, "predict", EXAMPLES[0], "--json", "--max-bytes", limit) == status
        line = json.loads(capsys.readouterr().out)
        assert (line["reason"] or {}).get("code") == (None if status == 0 else "too_large")


def test_the_prevalence_is_an_option(
    make_bundle: MakeBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle("test_resnet")
    description = json.loads((bundle / "pneumocam.json").read_text())
    description["prior"] = {"NORMAL": 0.25, "BACTERIAL": 0.5, "VIRAL": 0.25}
    (bundle / "pneumocam.json").write_text(json.dumps(description))
    source = f"local-dir:{bundle}"
    assert ask(source, "predict", EXAMPLES[0], "--json", "--prevalence", 0.1) == 0
    line = json.loads(capsys.readouterr().out)
    expected = predict(Classifier.from_pretrained(source), EXAMPLES[0], prevalence=0.1)
    assert (line["prevalence"], line["p_pneumonia"]) == (0.1, pytest.approx(expected.p_pneumonia))
    assert ask(source, "score", EXAMPLES[0], "--out", tmp_path / "out.csv", "--prevalence", 0.1) == 0
    assert read(tmp_path / "out.csv")[0]["p_pneumonia"] == f"{expected.p_pneumonia:.6f}"


@pytest.mark.slow
def test_overlays_of_images_of_one_name_are_all_kept(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(EXAMPLES[2], images / "x.jpeg.2")  # the very name that the second x.jpeg is given
    paths = [images / "a/x.jpeg", images / "b/x.jpeg", images / "x.jpeg.2", images / "b/notes.txt"]
    out = tmp_path / "deep" / "overlays"
    assert ask(model, "predict", *paths, "--json", "--overlay", out, "--target", "PNEUMONIA") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    written = [line["overlay"] for line in lines]
    assert [line["map"] and line["map"]["target"] for line in lines] == ["PNEUMONIA"] * 3 + [None]
    names = ["x.jpeg", "x.jpeg.2", "x.jpeg.2.2"]
    assert written == [*(str(out / f"{name}.overlay.png") for name in names), None]
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.overlay.png" for name in names)
    classifier = Classifier.from_pretrained(model)
    for path, overlay in zip(paths, written[:3], strict=False):
        with Image.open(overlay) as picture:
            expected = np.asarray(predict(classifier, path).overlay("PNEUMONIA"), int)
            difference = np.abs(np.asarray(picture, int) - expected)
        assert np.percentile(difference, 99.9) <= 1  # a batch is rounded differently


@pytest.mark.slow
@pytest.mark.parametrize("target", SUBTYPES)
def test_the_target_decides_what_is_drawn(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    path = images / "a/x.jpeg"
    assert ask(model, "predict", path, "--overlay", tmp_path, "--target", target) == 0
    overlay = tmp_path / "x.jpeg.overlay.png"
    assert capsys.readouterr().err.startswith(f"Overlays: 1, in {tmp_path}.\n")
    with Image.open(overlay) as picture:
        expected = predict(Classifier.from_pretrained(model), path).overlay(target)
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


@pytest.mark.slow
def test_reports_of_images_of_one_name_are_all_kept(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(EXAMPLES[2], images / "x.jpeg.2")
    paths = [images / "a/x.jpeg", images / "b/x.jpeg", images / "x.jpeg.2", images / "b/notes.txt"]
    out = tmp_path / "deep" / "reports"
    assert ask(model, "predict", *paths, "--json", "--report", out, "--target", "PNEUMONIA") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = ["x.jpeg", "x.jpeg.2", "x.jpeg.2.2"]
    assert [line["report"] for line in lines] == [*(str(out / f"{name}-report.pdf") for name in names), None]
    assert [line["overlay"] for line in lines] == [None] * 4
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}-report.pdf" for name in names)
    for line in lines[:3]:
        text = PdfReader(line["report"]).pages[0].extract_text()
        assert f"Grad-CAM for PNEUMONIA, {line['p_pneumonia']:.1%}" in text
        assert all(f"{name} {p:.1%}" in text for name, p in line["probabilities"].items())


@pytest.mark.slow
def test_overlay_and_report_can_share_a_folder(
    model: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert ask(model, "predict", images / "a/x.jpeg", "--overlay", out, "--report", out) == 0
    overlay, page = out / "x.jpeg.overlay.png", out / "x.jpeg-report.pdf"
    assert capsys.readouterr().err == f"Overlays: 1, in {out}.\nReports: 1, in {out}.\n{DISCLAIMER}\n"
    assert sorted(out.iterdir()) == sorted([overlay, page])


# info


POINT = {"name": "balanced", "threshold": 0.5, "uncertain_log_odds": 0.0, "uncertain_error": None}


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
        "prior": {"NORMAL": 0.5, "BACTERIAL": 0.25, "VIRAL": 0.25},
        "prevalence": 0.5,
        "operating_point": POINT,
        "operating_points": {"balanced": POINT},
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
        (None, ["metrics          none with this bundle: python -m train.evaluate measures them"]),
        ({"n": 3}, ["metrics          in another form than that of train.evaluate: see info --json"]),
        (
            METRICS,
            [
                "metrics on 40 images of 30 patients (held out), 95% intervals",
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
        "model            local-dir:bundle",
        f"revision         {Classifier.from_pretrained(f'local-dir:{bundle}').revision}",
        "labels           NORMAL, BACTERIAL, VIRAL",
        "preprocessing    input_size [1, 64, 64], interpolation bicubic, mean [0.5], std [0.25], crop_pct 1.0, "
        "crop_mode squash",
        "temperature      2.500",
        "prevalence       50%",
        "operating point  balanced: pneumonia from P = 0.50 on",
        *lines,
        DISCLAIMER,
    ]


# What cannot be carried out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "photo.png", "--target", "LUNG"], "--target is 'LUNG'; this model explains NORMAL, BACTERIAL"),
        (["predict", "photo.png", "--overlay", "file"], "--overlay: 'file' is a file or below one; expected a folder"),
        (["predict", "photo.png", "--report", "file/x"], "--report: 'file/x' is a file or below one; expected a"),
        (["score", "empty", "--out", "out.csv"], "Nothing to score: no image in empty"),
        (["score", "*.none", "--out", "out.csv"], "Nothing to score: no image in *.none"),
        (["score", "file", "--out", "file/out.csv"], "--out: 'file' is a file or below one; expected a folder"),
        (["score", "file", "--out", "empty"], "--out is 'empty', which is a folder; expected a CSV file."),
        (["predict", "x.png"], "No such file: x.png."),
        (["predict", "empty"], "No image in empty; expected image files, or folders of them."),
        (["predict", "photo.png", "--prevalence", "1"], "--prevalence is 1.0; expected a share between 0 and 1"),
        (["predict", "photo.png", "--max-bytes", "2 apples"], "--max-bytes is '2 apples'; expected a size such as"),
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
    shutil.copy(EXAMPLES[0], tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    assert ask(model, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("pneumocam: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "bundle") == ["empty", "file", "photo.png"]


def test_a_prevalence_needs_a_bundle_that_states_its_prior(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(model.removeprefix("local-dir:")) / "pneumocam.json"
    description = json.loads(path.read_text())
    del description["prior"]
    path.write_text(json.dumps(description))
    assert ask(model, "predict", EXAMPLES[0], "--prevalence", "0.2") == 2
    assert "the bundle of this model does not state its prior" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["guess"], ["score", "x"], ["score", "x", "--out", "y", "--engine", "steam"], ["predict", "--x"]]
)
def test_wrong_usage_ends_with_code_2_and_points_to_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "--help" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_the_commands_and_carries_the_disclaimer(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("predict", "score", "info", "serve", "not a diagnosis"))


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pneumocam {__version__}\n"


def imported(arguments: list[str], modules: set[str]) -> str:
    """Which of these modules a command imports."""
    code = (
        "import sys\n"
        "from pneumocam.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print(sorted({modules!r} & sys.modules.keys()))"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["predict", "--help"], ["guess"], ["predict", "none.png"]], ids=" ".join
)
def test_no_heavy_library_is_imported_before_arguments_and_files_are_checked(arguments: list[str]) -> None:
    heavy = {"torch", "torchvision", "timm", "captum", "matplotlib", "numpy", "PIL", "pydicom", "gradio"}
    assert imported(arguments, heavy) == "[]"


@pytest.mark.slow
def test_a_prediction_without_a_map_needs_no_captum_matplotlib_or_compiler(model: str) -> None:
    modules = {"captum", "matplotlib", "gradio", "torch", "torch._dynamo", "sympy"}
    assert imported(["predict", str(EXAMPLES[0]), "--model", model], modules) == "['torch']"


def test_another_operating_point_has_another_threshold(
    make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle("test_resnet")
    description = json.loads((bundle / "pneumocam.json").read_text())
    description["operating_points"] |= {
        "screening": {"threshold": 1e-5, "uncertain_log_odds": 0.0},
        "rule_in": {"threshold": 1 - 1e-5, "uncertain_log_odds": 0.0},
    }
    (bundle / "pneumocam.json").write_text(json.dumps(description))
    image, source = str(EXAMPLES[0]), f"local-dir:{bundle}"
    labels = {}
    for name in ("screening", "rule_in"):
        assert main(["predict", image, "--model", source, "--operating-point", name, "--json"]) == 0
        prediction = json.loads(capsys.readouterr().out)
        assert prediction["operating_point"]["name"] == name
        labels[name] = prediction["label"]
        table = tmp_path / f"{name}.csv"
        assert main(["score", image, "--model", source, "--operating-point", name, "--out", str(table)]) == 0
        assert labels[name] in table.read_text()
    capsys.readouterr()
    assert labels["rule_in"] == "NORMAL" != labels["screening"]
    assert main(["info", "--model", source]) == 0
    printed = capsys.readouterr().out
    assert "operating point  balanced: pneumonia from P = 0.50 on\n" in printed
    assert "                 rule_in: pneumonia from P = 1.00 on\n" in printed
    assert main(["predict", image, "--model", source, "--operating-point", "x"]) == 2
    assert "operating_point is 'x'; this model has balanced, screening, rule_in." in capsys.readouterr().err
