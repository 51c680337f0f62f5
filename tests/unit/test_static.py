"""Which models and packages `pneumocam static` takes, and what it says of the others."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pneumocam import BundleError, Classifier
from pneumocam.cli import main
from pneumocam.static import INTEGRITY, RUNTIME, StaticError, head_weights, write_static
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arch", "options", "reason"),
    [
        ("mobilenetv3_small_050", {}, "its head is more than global average pooling and one linear layer"),
        ("test_convnext", {}, "its head is more than global average pooling and one linear layer"),
        ("test_resnet", {"crop_mode": "center"}, "its crop_mode is 'center'; the page supports 'squash' only"),
    ],
)
def test_a_model_that_a_browser_cannot_run_is_refused_with_the_reason(
    make_bundle: Callable[..., Path], arch: str, options: dict[str, str], reason: str
) -> None:
    classifier = Classifier.from_pretrained(f"local-dir:{make_bundle(arch, **options)}")
    with pytest.raises(BundleError, match=f"local-dir:bundle cannot run in a browser: {reason}"):
        head_weights(classifier)


def test_the_heads_weights_are_those_of_its_linear_layer(bundled: Classifier) -> None:
    weights = head_weights(bundled)
    assert weights.shape == (len(bundled.label_names), bundled.network.num_features)
    assert weights.equal(bundled.network.classifier.weight)


def test_a_folder_that_is_not_empty_is_left_alone(
    tmp_path: Path, bundled: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(StaticError, match="is not empty; expected a new or empty folder"):
        write_static(bundled, tmp_path)
    assert main(["static", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_another_package_than_onnxruntime_web_is_refused(tmp_path: Path, bundled: Classifier) -> None:
    package = tmp_path / "package"
    package.mkdir()
    expected = f"expected the npm package onnxruntime-web {RUNTIME}"
    with pytest.raises(StaticError, match=f"holds no onnxruntime-web without ort.*; {expected}"):
        write_static(bundled, tmp_path / "out", runtime=package)
    (package / "package.json").write_text('{"version": "1.2.0"}')
    with pytest.raises(StaticError, match=f"holds version 1.2.0 without ort.*; {expected}"):
        write_static(bundled, tmp_path / "out", runtime=package)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "npm is not installed, which downloads onnxruntime-web. Install Node.js, or unpack"),
        ("echo no network >&2; exit 1", "npm could not download onnxruntime-web .*: no network Install Node.js"),
        (f"echo other > onnxruntime-web-{RUNTIME}.tgz", "npm gave another onnxruntime-web .* than was published"),
    ],
)
def test_a_download_that_fails_is_told_with_what_to_do(
    tmp_path: Path, bundled: Classifier, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str
) -> None:
    if script:
        npm = tmp_path / "bin" / "npm"
        npm.parent.mkdir()
        npm.write_text(f"#!/bin/sh\n{script}\n")
        npm.chmod(npm.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(StaticError, match=message):
        write_static(bundled, tmp_path / "out")


def test_the_pinned_package_is_the_one_that_the_tests_run_with() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())["packages"]["node_modules/onnxruntime-web"]
    assert lock["version"] == RUNTIME
    assert lock["integrity"] == f"sha512-{INTEGRITY}"
