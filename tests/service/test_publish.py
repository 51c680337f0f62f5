"""A published model is the checked one, loads for everybody, and a failed upload leaves nothing misleading."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import HfApi
from packaging.requirements import Requirement

from pneumocam import BundleError, Classifier, load_radiograph, predict
from pneumocam.export import _write
from publish.hub import PublishError, files, sign_in
from publish.model import Config, publish, run, stage
from tests.conftest import EXAMPLES, SUBTYPES
from tests.hub import Hub

# The Hub's client uploads large files in a way that its own HTTP library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).parents[2]
REPO = "lung/xray"


@pytest.fixture
def bundle(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "bundle"))


@pytest.fixture
def folder(staged: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(staged, tmp_path / "folder"))


@pytest.fixture
def hub(writable_hub: Hub) -> Hub:
    return writable_hub


def contents(folder: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files(folder).items()}


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def writes(hub: Hub) -> list[str]:
    return [x for x in hub.requests if "/commit/" in x or "/tag/" in x]


# The folder


def test_the_folder_is_complete_and_the_same_each_time(
    measured: Path, staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = contents(staged)
    package = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "pneumocam").rglob("*.py")}
    copied = contents(measured) | package | {"handler.py": (ROOT / "handler.py").read_bytes()}
    del copied["README.md"]
    copied.pop("failures.png", None)  # shows images of the data
    assert folder.items() >= copied.items()
    assert f'create_model("hf-hub:{REPO}", pretrained=True)'.encode() in folder["README.md"]
    assert folder.keys() - copied.keys() == {
        *("README.md", "model.onnx", "predictions.json", "requirements.txt", "SHA256SUMS")
    }
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=staged, check=True)
    assert len(folder["SHA256SUMS"].splitlines()) == len(folder) - 1

    monkeypatch.setattr("pneumocam.export._write", _write)  # not an earlier test's file
    stage(staged, tmp_path / "again", repo=REPO)  # what was published is a bundle too
    assert contents(tmp_path / "again") == folder


def test_requirements_agree_with_what_the_hub_installs_beside_them(staged: Path) -> None:
    """Regression: exact pins leave a Space's installation no solution, and a newer Hub client breaks an Endpoint's."""
    lines = (staged / "requirements.txt").read_text().splitlines()
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert lines == [line for line in dependencies if Requirement(line).name != "gradio"]
    allowed = {Requirement(line).name: Requirement(line).specifier for line in lines}
    assert not [line for line in lines if "==" in line]
    endpoint = {"torch": "2.5.1", "torchvision": "0.20.1", "huggingface-hub": "0.30.2", "numpy": "1.26.4"}
    for name, version in endpoint.items():
        assert version in allowed[name], name


def test_the_bundled_model_can_be_published_and_its_onnx_answers_the_same(
    bundled: Classifier, staged_bundled: Path
) -> None:
    session = onnxruntime.InferenceSession(staged_bundled / "model.onnx", providers=["CPUExecutionProvider"])
    stored = json.loads((staged_bundled / "predictions.json").read_text())["predictions"]
    assert [x["image"] for x in stored] == [image.name for image in EXAMPLES]

    batch = torch.stack([bundled.transform(load_radiograph(radiograph)) for radiograph in EXAMPLES])  # (16, C, H, W)
    for images in (batch, batch[:1], batch[3:8]):
        features = bundled.features(images)
        found = session.run(["features", "logits"], {"image": images.numpy()})
        np.testing.assert_allclose(found[0], features, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found[1], bundled.head(features), rtol=1e-4, atol=1e-4)
    for radiograph, answer in zip(EXAMPLES, stored, strict=True):
        prediction = predict(bundled, radiograph)
        assert (answer["label"], answer["status"]) == (prediction.label, prediction.status)
        assert answer["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda b: (b / "model.safetensors").unlink(), "model.safetensors is missing"),
    "a pickle": (lambda b: (b / "pytorch_model.bin").touch(), "holds pytorch_model.bin; expected only files of"),
    "a folder": (lambda b: (b / "images").mkdir(), "holds images; expected only"),
    "no metrics": (lambda b: (b / "metrics.json").unlink(), "metrics.json is missing.*python -m train.evaluate"),
    "other weights": (
        lambda b: edit(b / "metrics.json", lambda m: m["model"].update(revision="sha256:0")),
        "metrics.json does not belong to this model .* its revision is sha256:0; expected sha256:",
    ),
    "other images": (
        lambda b: edit(b / "metrics.json", lambda m: m.update(manifest_sha256="0")),
        "does not belong to this model and its validation images: its manifest is 0; expected",
    ),
    "another threshold": (
        lambda b: edit(b / "metrics.json", lambda m: m["binary"].update(threshold=0.25)),
        "does not belong to this model .* its threshold is 0.25; expected 0.5",
    ),
    "a number less": (
        lambda b: edit(b / "metrics.json", lambda m: m["binary"].pop("sensitivity")),
        "card of .* cannot be filled in: .*sensitivity.* Run `python -m train.evaluate",
    ),
    "a figure less": (
        lambda b: edit(b / "metrics.json", lambda m: m["binary"]["sensitivity"].pop("low")),
        "card of .* cannot be filled in: .*low",
    ),
    "no number": (
        lambda b: edit(b / "metrics.json", lambda m: m["binary"]["sensitivity"].update(low="x")),
        "card of .* cannot be filled in",
    ),
    "no origin": (
        lambda b: edit(b / "pneumocam.json", lambda p: p.update(training={})),
        "card of .* cannot be filled in: 'manifest_sha256' is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_is_not_published(bundle: Path, tmp_path: Path, damage: str) -> None:
    break_it, message = DAMAGES[damage]
    break_it(bundle)
    with pytest.raises((BundleError, PublishError), match=message):
        stage(bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(bundle: Path) -> None:
    before = contents(bundle)
    with pytest.raises(PublishError, match="is not empty; expected a new or empty folder"):
        run(Config(bundle, REPO, dry_run=True, out=bundle))
    assert contents(bundle) == before


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("image", "v1", "--repo is 'image'; expected owner/name"),
        ("a/b/c", "v1", "--repo is 'a/b/c'; expected owner/name"),
        (REPO, "main", "--revision is 'main'; expected a version such as v1.0"),
        (REPO, "v1/x", "--revision is 'v1/x'; expected a version"),
    ],
)
def test_a_name_that_would_not_do_is_refused(bundle: Path, repo: str, revision: str, message: str) -> None:
    with pytest.raises(PublishError, match=message):
        run(Config(bundle, repo, revision, dry_run=True))


@pytest.mark.parametrize(
    ("given", "came"),
    [
        ({}, "Nothing"),
        ({"repo": REPO}, "--repo"),
        ({"bundle": ROOT / "model"}, "BUNDLE"),
        ({"bundle": ROOT / "model", "repo": REPO, "space": REPO}, "BUNDLE --repo --space"),
        ({"space": REPO}, "--space"),
        ({"space": REPO, "model": f"{REPO}@v1", "revision": "v1"}, "--revision --space --model"),
        ({"bundle": ROOT / "model", "repo": REPO, "hardware": "zero-a10g"}, "BUNDLE --repo --hardware"),
    ],
)
def test_options_of_neither_a_model_nor_a_space_are_refused(given: dict[str, Any], came: str) -> None:
    with pytest.raises(PublishError, match=f"^{came} came; expected BUNDLE --repo owner/name .* or --space owner/name"):
        run(Config(**given, dry_run=True))


# The Hub


def test_from_the_command_line_to_a_stranger(bundle: Path, hub: Hub, tmp_path: Path) -> None:
    """Published by the command; read by timm in a process that cannot import this project."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "train.publish", str(bundle), "--repo", REPO, "--revision", "v1.0"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"hf-hub:{REPO}@v1.0" in done.stdout

    stranger = """
import json, sys
sys.modules.update(pneumocam=None, train=None)  # an import of them fails
import timm, torch
from PIL import Image
network = timm.create_model(sys.argv[1], pretrained=True).eval()
config = timm.data.resolve_data_config({}, model=network)
with Image.open(sys.argv[2]) as image:
    batch = timm.data.create_transform(**config)(image.convert("L"))[None]
with torch.no_grad():
    logits = network(batch)[0].tolist()
torch.save(batch, sys.argv[3])
print(json.dumps({"logits": logits, "labels": network.pretrained_cfg["label_names"]}))
"""
    del environment["HF_TOKEN"]
    command = [sys.executable, "-P", "-c", stranger, f"hf-hub:{REPO}@v1.0", str(EXAMPLES[0]), str(tmp_path / "batch")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])

    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    batch = classifier.transform(load_radiograph(EXAMPLES[0]))[None]
    assert torch.equal(torch.load(tmp_path / "batch", weights_only=True), batch)
    np.testing.assert_allclose(answer["logits"], classifier.head(classifier.features(batch))[0], rtol=1e-4, atol=1e-5)
    assert tuple(answer["labels"]) == SUBTYPES


def test_what_is_pulled_is_what_a_dry_run_shows(bundle: Path, hub: Hub, tmp_path: Path) -> None:
    run(Config(bundle, REPO, dry_run=True, out=tmp_path / "out"))
    assert hub.requests == []
    run(Config(bundle, REPO, revision="v1.0"))
    repository = hub.repositories[REPO]
    assert repository.tags == {"v1.0": repository.main}
    committed = dict(repository.commits[repository.main])
    assert committed.pop(".gitattributes")
    assert committed == contents(tmp_path / "out")

    assert set(HfApi().list_repo_files(REPO, revision="v1.0")) == committed.keys() | {".gitattributes"}
    pulled = Classifier.from_pretrained(f"hf-hub:{REPO}@v1.0")
    assert (pulled.id, pulled.revision) == (REPO, repository.main)
    assert pulled.metrics == json.loads((bundle / "metrics.json").read_text())
    here = Classifier.from_pretrained(f"local-dir:{bundle}")
    for radiograph in EXAMPLES[::5]:
        assert predict(pulled, radiograph).probabilities == predict(here, radiograph).probabilities


def test_the_same_again_changes_nothing(folder: Path, hub: Hub) -> None:
    api = sign_in(REPO)
    first = publish(api, folder, REPO, tag="v1.0")
    repository = hub.repositories[REPO]
    hub.requests.clear()
    assert publish(api, folder, REPO, tag="v1.0") == first
    assert publish(api, folder, REPO) == first
    assert writes(hub) == []
    assert publish(api, folder, REPO, tag="v1.0.1") == first  # another name for the same
    assert len(repository.commits) == 2  # the Hub's own first one, and this
    assert repository.tags == {"v1.0": first, "v1.0.1": first}


def test_a_version_that_is_out_does_not_change(folder: Path, hub: Hub) -> None:
    api = sign_in(REPO)
    first = publish(api, folder, REPO, tag="v1.0")
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card + "\nMore.\n")
    (folder / "roc.png").unlink()
    hub.requests.clear()
    with pytest.raises(
        PublishError, match=f"v1.0 of {REPO} is another model: commit {first} differs in README.md, roc"
    ):
        publish(api, folder, REPO, tag="v1.0")
    assert writes(hub) == []

    second = publish(api, folder, REPO, tag="v1.1")
    repository = hub.repositories[REPO]
    assert repository.tags == {"v1.0": first, "v1.1": second}
    assert "roc.png" not in repository.commits[second]  # what is gone here is gone there

    (folder / "README.md").write_text(card)
    assert publish(api, folder, REPO) == repository.main
    (folder / "README.md").write_text(card + "\nMore.\n")
    hub.requests.clear()
    assert publish(api, folder, REPO, tag="v1.1") == second  # as it is, though main has gone on
    assert writes(hub) == []


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        ("", REPO, "There is no Hub token. Create one that can write at .* HF_TOKEN .* `hf auth login`"),
        ("hf_reader", REPO, "token of lung can only read. Create one that can write"),
        ("hf_stranger", REPO, "owner of the token failed: .*Invalid user token.* HF_TOKEN"),
        ("hf_writer", "heart/xray", "The owner of heart/xray is not the token's; this token publishes as lung"),
    ],
)
def test_without_the_right_to_write_nothing_is_begun(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, repo: str, message: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PublishError, match=f"(?s){message}"):
        run(Config(tmp_path / "no bundle", repo, revision="v1.0"))
    assert set(hub.requests) <= {"GET /api/whoami-v2"}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("/api/repos/create", f"Opening {REPO} failed: .*500.* Nothing was uploaded"),
        ("/commit/", f"The upload failed: .*500.* {REPO} was not tagged. Run the same command again"),
        ("/tag/", "Tagging .* failed: .*500.* uploaded and verified. Run the same command again to tag it"),
    ],
)
def test_a_failure_half_way_leaves_no_tag_and_the_same_again_goes_on(
    folder: Path, hub: Hub, broken: str, message: str
) -> None:
    api = sign_in(REPO)
    hub.fail(broken)
    with pytest.raises(PublishError, match=f"(?s){message}"):
        publish(api, folder, REPO, tag="v1.0")
    assert all(not repository.tags for repository in hub.repositories.values())
    hub.heal()
    commit = publish(api, folder, REPO, tag="v1.0")
    assert hub.repositories[REPO].tags == {"v1.0": commit}
    assert len(hub.repositories[REPO].commits) == 2


@pytest.mark.parametrize("file", ["model.safetensors", "SHA256SUMS"])
def test_a_download_that_is_not_what_was_uploaded_gets_no_tag(folder: Path, hub: Hub, file: str) -> None:
    api = sign_in(REPO)
    hub.garbled = file
    with pytest.raises(PublishError, match=f"{file} of {REPO} at .* differ from the uploaded files. Nothing was t"):
        publish(api, folder, REPO, tag="v1.0")
    assert hub.repositories[REPO].tags == {}
    hub.heal()
    commit = publish(api, folder, REPO, tag="v1.0")
    assert hub.repositories[REPO].tags == {"v1.0": commit}


def test_a_model_that_answers_otherwise_than_was_stored_gets_no_tag(folder: Path, hub: Hub) -> None:
    edit(folder / "pneumocam.json", lambda p: p.update(temperature=9.0))
    with pytest.raises(PublishError, match=r"The downloaded model predicts .*; expected .* Nothing was tagged"):
        publish(sign_in(REPO), folder, REPO, tag="v1.0")
    assert hub.repositories[REPO].tags == {}


def test_a_private_model_stays_private(folder: Path, hub: Hub) -> None:
    api = sign_in(REPO)
    publish(api, folder, REPO, private=True)
    assert hub.repositories[REPO].private
    hub.repositories[REPO].private = False
    (folder / "roc.png").unlink()
    hub.requests.clear()
    with pytest.raises(PublishError, match=f"{REPO} is public already"):
        publish(api, folder, REPO, private=True)
    assert writes(hub) == []


def test_a_repository_of_something_else_is_left_alone(folder: Path, hub: Hub) -> None:
    api = sign_in(REPO)
    api.create_repo(REPO)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="tokenizer.json", repo_id=REPO)
    hub.requests.clear()
    with pytest.raises(PublishError, match=f"{REPO} holds tokenizer.json; expected a PneumoCAM bundle or nothing"):
        publish(api, folder, REPO)
    assert writes(hub) == []
