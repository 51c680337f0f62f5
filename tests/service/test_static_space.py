"""A static Space holds the page without a server, and the Hub serves it as it was uploaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, metadata_load

from publish.hub import PublishError, files, sign_in
from publish.model import Config, publish, run
from publish.static_space import publish_static_space, stage_static_space
from tests.conftest import ROOT
from tests.hub import Hub

# The Hub's client uploads large files in a way that its own HTTP library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

SPACE, REPO = "lung/page", "lung/xray"
MODEL = f"{REPO}@v1.0"


@pytest.fixture
def hub(writable_hub: Hub, staged: Path) -> Hub:
    """A Hub with the tiny model on it."""
    publish(HfApi(), staged, REPO, tag="v1.0")
    writable_hub.requests.clear()
    return writable_hub


@pytest.fixture
def folder(hub: Hub, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is uploaded; it is written once."""
    made = tmp_path_factory.getbasetemp() / "static-space"
    if not made.exists():
        assert REPO in hub.repositories  # from which the model comes
        stage_static_space(MODEL, made, runtime=ROOT / "node_modules" / "onnxruntime-web")
    return Path(shutil.copytree(made, tmp_path / "folder"))


def bring(folder: Path, **options: Any) -> str:
    return publish_static_space(sign_in(SPACE), folder, SPACE, pause=0.05, **options)


def test_the_space_is_static_and_names_the_model_and_its_revision(hub: Hub, folder: Path) -> None:
    facts = metadata_load(folder / "README.md") or {}
    assert (facts["sdk"], facts["app_file"], facts["models"]) == ("static", "index.html", [REPO])
    assert not facts.keys() & {"sdk_version", "python_version", "suggested_hardware"}
    assert len(facts["short_description"]) <= 60  # the Hub refuses more
    model = json.loads((folder / "model" / "model.json").read_text())["model"]
    assert model == {"id": REPO, "revision": hub.repositories[REPO].tags["v1.0"]}
    assert {"index.html", "sw.js", "files.js", "LICENSE", "model/onnxruntime-web.LICENSE"} <= files(folder).keys()


def test_the_space_holds_and_serves_the_folder_and_the_same_again_changes_nothing(hub: Hub, folder: Path) -> None:
    commit = bring(folder)
    space = hub.repositories[f"spaces/{SPACE}"]
    committed = dict(space.commits[commit])
    assert committed.pop(".gitattributes")
    assert committed == {name: path.read_bytes() for name, path in files(folder).items()}
    served = {path.rpartition(f"/static/{SPACE}/")[2] for path in hub.requests if f"/static/{SPACE}/" in path}
    assert served == files(folder).keys()
    assert bring(folder) == commit
    assert sum("/commit/" in line for line in hub.requests) == 1


def test_a_host_that_sends_the_browser_elsewhere_is_told(hub: Hub, folder: Path) -> None:
    hub.elsewhere = hub.url.replace("127.0.0.1", "localhost")
    with pytest.raises(PublishError, match=r"redirects model/.*\.bin to localhost; the page's policy allows no other"):
        bring(folder)


def test_a_space_of_something_else_is_left_alone(hub: Hub, folder: Path) -> None:
    api = sign_in(SPACE)
    api.create_repo(SPACE, repo_type="space", space_sdk="static")
    api.upload_file(path_or_fileobj=b"", path_in_repo="game.js", repo_id=SPACE, repo_type="space")
    hub.requests.clear()
    with pytest.raises(PublishError, match=f"{SPACE} holds game.js; expected PneumoCAM's static page or nothing"):
        bring(folder)
    with pytest.raises(PublishError, match=f"{SPACE} is public already"):
        bring(folder, private=True)
    assert not [line for line in hub.requests if "/commit/" in line]


def test_a_failure_of_the_hub_is_told(hub: Hub, folder: Path) -> None:
    for broken, message in (("/commit/", f"Updating {SPACE} failed"), ("/static/", "has not served the upload")):
        hub.fail(broken)
        with pytest.raises(PublishError, match=message):
            bring(folder, timeout=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"static_space": "page", "model": MODEL}, "--static-space is 'page'; expected owner/name"),
        ({"static_space": SPACE, "model": REPO}, "--model is 'lung/xray'; expected owner/name@revision"),
        ({"static_space": SPACE, "space": SPACE, "model": MODEL}, "--space --static-space --model came; expected"),
        ({"static_space": SPACE, "model": MODEL, "hardware": "cpu-basic"}, "--hardware came; expected"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PublishError, match=message):
        run(Config(**options))
