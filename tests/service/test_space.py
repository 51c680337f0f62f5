"""A published Space is complete, runs from what was committed, and predicts as its model does."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, SpaceCard, metadata_load
from packaging.requirements import Requirement

from pneumocam import BundleError
from publish.hub import PublishError, files, sign_in
from publish.model import Config, publish, run
from publish.space import REPOSITORY, publish_space, stage_space
from tests.hub import Hub

# The Hub's client uploads large files in a way that its own HTTP library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).parents[2]
SPACE, REPO = "lung/page", "lung/xray"
MODEL = f"{REPO}@v1.0"


@pytest.fixture
def hub(writable_hub: Hub, staged: Path) -> Hub:
    """A Hub with the tiny model on it."""
    publish(HfApi(), staged, REPO, tag="v1.0")
    writable_hub.requests.clear()
    return writable_hub


@pytest.fixture(scope="module")
def space_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "out"
    run(Config(space=SPACE, model=MODEL, dry_run=True, out=folder))
    return folder


@pytest.fixture
def folder(space_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(space_folder, tmp_path / "folder"))


def writes(hub: Hub) -> list[str]:
    return [x for x in hub.requests if x.startswith("POST") and re.search("/(commit|variables|restart)", x)]


def bring(folder: Path, model: str = MODEL, timeout: float = 120, **options: Any) -> str:
    return publish_space(sign_in(SPACE), folder, SPACE, model, pause=0.05, timeout=timeout, **options)


# The folder


def test_the_folder_has_what_the_page_needs_and_nothing_else(space_folder: Path, tmp_path: Path) -> None:
    staged = files(space_folder)
    assert {name.split("/")[0] for name in staged} == {
        *("README.md", "LICENSE", "app.py", "requirements.txt", "web", "pneumocam", "model", "examples", "docs"),
    }
    documents = [name for name in staged if name.startswith("docs/")]
    # The pictures that the README shows.
    assert documents == ["docs/page.jpg"]
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "web").rglob("*") if path.is_file()}
    assert page <= staged.keys()
    for name in set(staged) - {"README.md", "requirements.txt"}:
        assert staged[name].read_bytes() == (ROOT / name).read_bytes()
    for folder in ("model", "examples"):
        assert {name for name in staged if name.startswith(f"{folder}/")} == {
            f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.name != "failures.png"
        }
    stage_space(MODEL, tmp_path / "again")
    assert {name: path.read_bytes() for name, path in files(tmp_path / "again").items()} == {
        name: path.read_bytes() for name, path in staged.items()
    }
    with pytest.raises(PublishError, match="is not empty; expected a new or empty folder"):
        stage_space(MODEL, tmp_path / "again")


def test_the_front_matter_is_complete_and_names_the_model(space_folder: Path) -> None:
    facts = metadata_load(space_folder / "README.md") or {}
    assert facts.keys() >= {
        *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "models"),
        *("license", "short_description", "suggested_hardware", "tags"),
    }
    assert facts["models"] == [REPO]
    assert len(facts["short_description"]) <= 60  # more is refused by the Hub
    assert (space_folder / facts["app_file"]).exists()


def test_links_of_the_card_lead_to_the_repository_and_its_pictures_are_in_the_space(space_folder: Path) -> None:
    ours, theirs = (SpaceCard((root / "README.md").read_text()).text for root in (ROOT, space_folder))
    assert theirs.replace(f"]({REPOSITORY}/blob/main/", "](") == ours
    relative = re.findall(r"(.)\[[^\]]*\]\((?!https?:)([^)]*)\)", theirs)
    assert relative
    assert {mark for mark, _ in relative} == {"!"}
    assert all((space_folder / picture).exists() for _, picture in relative)


def test_gradio_is_left_to_the_sdk(space_folder: Path) -> None:
    lines = (space_folder / "requirements.txt").read_text().splitlines()
    assert not [line for line in lines if Requirement(line).name.startswith("gradio")]


@pytest.mark.parametrize(
    ("space", "model", "message"),
    [
        ("page", MODEL, "--space is 'page'; expected owner/name"),
        (SPACE, REPO, "--model is 'lung/xray'; expected owner/name@revision, such as owner/name@v1.0"),
        (SPACE, f"hf-hub:{MODEL}", "--model is 'hf-hub:lung/xray@v1.0'; expected owner/name@revision"),
    ],
)
def test_a_name_that_would_not_do_is_refused(space: str, model: str, message: str) -> None:
    with pytest.raises(PublishError, match=message):
        run(Config(space=space, model=model, dry_run=True))


# The Hub


@pytest.fixture
def running(hub: Hub, tmp_path: Path) -> Hub:
    """The Hub, which from now on runs what is committed to a Space."""
    hub.home = tmp_path / "spaces"
    hub.home.mkdir()
    return hub


def test_from_the_command_to_a_running_space_and_on_to_the_next_model(running: Hub, folder: Path) -> None:
    run(Config(space=SPACE, model=MODEL))
    space = running.repositories[f"spaces/{SPACE}"]
    first, process = space.main, space.process
    committed = dict(space.commits[first])
    assert committed.pop(".gitattributes")
    assert committed == {name: path.read_bytes() for name, path in files(folder).items()}
    assert len(space.commits) == 2  # the Hub's own first one, and this
    assert space.variables == {"PNEUMOCAM_MODEL": f"hf-hub:{MODEL}"}
    assert (space.hardware, space.private) == (None, False)

    running.requests.clear()
    assert bring(folder) == first
    assert writes(running) == []
    assert space.process is process

    image = running.repositories[REPO]
    description = json.loads(image.commits[image.main]["pneumocam.json"]) | {"temperature": 9.0}
    image.tags["v1.1"] = image.commit({**image.commits[image.main], "pneumocam.json": json.dumps(description).encode()})
    assert bring(folder, f"{REPO}@v1.1") == first
    assert space.variables == {"PNEUMOCAM_MODEL": f"hf-hub:{REPO}@v1.1"}


def test_a_space_that_cannot_have_the_model_is_found_out(running: Hub, folder: Path) -> None:
    running.repositories[REPO].private = True
    with pytest.raises(PublishError, match=f"{SPACE} serves .*'bundled'.*; expected .*'{REPO}'.* secret HF_TOKEN"):
        bring(folder)


def test_a_space_that_fails_is_reported_with_its_logs_and_the_same_again_goes_on(hub: Hub, folder: Path) -> None:
    hub.course = ["BUILDING", "BUILD_ERROR"]
    with pytest.raises(
        PublishError, match=f"{SPACE} is BUILD_ERROR; expected RUNNING. Exit code: 1. Logs: {hub.url}/spaces/"
    ):
        bring(folder)
    hub.course, hub.requests = ["APP_STARTING", "RUNTIME_ERROR"], []
    with pytest.raises(PublishError, match=" is RUNTIME_ERROR"):
        bring(folder)
    assert writes(hub) == [f"POST /api/spaces/{SPACE}/restart"]


def test_what_runs_still_is_not_taken_for_what_was_uploaded(hub: Hub, folder: Path) -> None:
    hub.course = ["CONFIG_ERROR"]
    with pytest.raises(PublishError, match=" is CONFIG_ERROR"):
        bring(folder)
    hub.course = ["RUNNING", "RUNNING_BUILDING", "PAUSED"]
    (folder / "LICENSE").unlink()
    with pytest.raises(PublishError, match=r" is PAUSED; expected RUNNING\. It does not run and will not"):
        bring(folder)
    space = hub.repositories[f"spaces/{SPACE}"]
    assert "LICENSE" not in space.commits[space.main]  # what is gone here is gone there


def test_waiting_has_an_end(hub: Hub, folder: Path) -> None:
    hub.course = ["BUILDING"]
    with pytest.raises(PublishError, match=f"{SPACE} is BUILDING after 0 s; expected RUNNING. Logs: "):
        bring(folder, timeout=0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("/api/repos/create", f"Opening the Space {SPACE} failed: .*500"),
        ("/variables", f"Opening the Space {SPACE} failed: .*500"),
        ("/commit/", f"Updating {SPACE} failed: .*500.* Run the same command again"),
        ("/runtime", f"Asking for the stage of {SPACE} failed: .*500.* It is uploaded"),
    ],
)
def test_a_failure_of_the_hub_is_reported(hub: Hub, folder: Path, broken: str, message: str) -> None:
    hub.fail(broken)
    with pytest.raises(PublishError, match=f"(?s){message}"):
        bring(folder)


def test_a_free_account_is_told_of_zerogpu(hub: Hub, folder: Path) -> None:
    hub.paid, hub.course = False, ["PAUSED"]
    with pytest.raises(PublishError, match=f"(?s)Opening the Space {SPACE} failed: .*402.* --hardware zero-a10g"):
        bring(folder)
    with pytest.raises(PublishError, match=" is PAUSED"):
        bring(folder, hardware="zero-a10g", private=True)
    space = hub.repositories[f"spaces/{SPACE}"]
    assert (space.hardware, space.private) == ("zero-a10g", True)


@pytest.mark.parametrize(
    ("token", "space", "message"),
    [
        ("", SPACE, "There is no Hub token"),
        ("hf_reader", SPACE, "token of lung can only read"),
        ("hf_writer", "heart/page", "The owner of heart/page is not the token's"),
    ],
)
def test_without_the_right_to_write_nothing_is_begun(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, space: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(PublishError, match=message):
        run(Config(space=space, model=MODEL))
    assert set(hub.requests) <= {"GET /api/whoami-v2"}


def test_a_model_that_is_not_there_is_reported_before_anything_is_made(hub: Hub, folder: Path) -> None:
    with pytest.raises(BundleError, match=f"hf-hub:{REPO}@v2.0 could not be downloaded"):
        bring(folder, f"{REPO}@v2.0")
    assert list(hub.repositories) == [REPO]


def test_a_space_of_something_else_and_a_public_one_are_left_alone(hub: Hub, folder: Path) -> None:
    api = sign_in(SPACE)
    api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
    hub.requests.clear()
    with pytest.raises(PublishError, match=f"{SPACE} is public already"):
        bring(folder, private=True)
    api.upload_file(path_or_fileobj=b"", path_in_repo="game.py", repo_id=SPACE, repo_type="space")
    hub.requests.clear()
    with pytest.raises(PublishError, match=f"{SPACE} holds game.py; expected PneumoCAM's page or nothing"):
        bring(folder)
    assert writes(hub) == []
