"""`python app.py` as a process: where the model comes from, where it listens, how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from pneumocam import Classifier, predict
from tests.conftest import EXAMPLES, ROOT, running_app
from tests.hub import Hub

IMAGE = EXAMPLES[0].read_bytes()


@pytest.fixture
def hub_settings(hub: Hub, make_bundle: Callable[..., Path], tmp_path: Path) -> dict[str, str]:
    """Settings of an app whose model is on the Hub, with an empty cache."""
    hub.add("lung/image", make_bundle("test_resnet"), "v1")
    return {
        "PNEUMOCAM_MODEL": "hf-hub:lung/image@v1",
        "PNEUMOCAM_START_TIMEOUT": "20",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf-home"),
        "HF_TOKEN": "hf_secret",
        "TQDM_POSITION": "-1",  # as Spaces set it, so that progress shows in a log too
    }


def test_a_model_of_the_hub_is_downloaded_in_view_and_answers(
    hub: Hub, hub_settings: dict[str, str], tmp_path: Path
) -> None:
    with running_app(tmp_path, **hub_settings) as app:
        answer = httpx.post(f"{app.url}/api/predict", content=IMAGE, timeout=60).json()
        facts = httpx.get(f"{app.url}/page/info").json()
    assert (
        answer["model"] == facts["model"] == {"id": "lung/image", "revision": hub.repositories["lung/image"].tags["v1"]}
    )
    assert facts["notice"] is None
    log = app.log.read_text()
    assert "model.safetensors: 100%" in log
    assert "hf_secret" not in log


def test_a_hub_that_hangs_leaves_the_bundled_model_to_answer_and_the_page_says_so(
    hub: Hub, hub_settings: dict[str, str], tmp_path: Path, bundled: Classifier
) -> None:
    hub.hang("GET /lung/image/resolve")
    with running_app(tmp_path, **hub_settings | {"PNEUMOCAM_START_TIMEOUT": "1"}) as app:
        answer = httpx.post(f"{app.url}/api/predict", content=IMAGE, timeout=60).json()
        notice = httpx.get(f"{app.url}/page/info").json()["notice"]
    assert "hf-hub:lung/image@v1" in notice
    assert answer == json.loads(json.dumps(predict(bundled, IMAGE).to_dict()))
    log = app.log.read_text()
    assert notice in log
    assert "hf_secret" not in log


def test_below_a_root_path_clients_are_told_the_whole_address(tmp_path: Path) -> None:
    with running_app(tmp_path, GRADIO_ROOT_PATH="/lungs", SPACE_HOST="you-lungs.hf.space") as app:
        config = httpx.get(f"{app.url}/config").json()
        page = httpx.get(f"{app.url}/").text
    assert config["root"].endswith("/lungs")
    assert 'src="/' not in page  # the page names its files relative to its own address
    assert 'href="/' not in page
    assert 'content="https://you-lungs.hf.space/web/card.png?v=' in page  # so that a shared link shows the card


@pytest.mark.parametrize(
    "name", ["PNEUMOCAM_START_TIMEOUT", "GRADIO_SERVER_PORT", "PNEUMOCAM_IMAGES", "PNEUMOCAM_RUNTIME"]
)
def test_a_setting_with_a_wrong_value_is_told(name: str) -> None:
    settings = os.environ | {"HOME": "/proc/nowhere", name: "abc"}
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{name} is 'abc'; expected")
    assert "Traceback" not in done.stderr


def mounting(*commands: str) -> tuple[str, ...]:
    """Starts a command with other mounts; skips the test where that is not allowed."""
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        prefix = [*unshare, "sh", "-ec", "\n".join(["mount --make-rprivate /", *commands, 'exec "$@"']), "sh"]
        with suppress(FileNotFoundError):
            if not subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
                return tuple(prefix)
    pytest.skip("this machine allows no mount, not even in a namespace; the test needs a read-only one")


def test_a_read_only_disk_is_survived(tmp_path: Path, bundled: Classifier) -> None:
    """Where nothing but shared memory can be written, uploads lie there, and plain HTTP needs no disk."""
    prefix = mounting("mount -o remount,bind,ro /", "mount -t tmpfs -o size=1m tmpfs /dev/shm")
    with running_app(tmp_path, *prefix, GRADIO_TEMP_DIR="") as app:
        answer = httpx.post(f"{app.url}/api/predict", content=IMAGE, timeout=60).json()
        assert answer == json.loads(json.dumps(predict(bundled, IMAGE).to_dict()))
        files = {"files": ("x", bytes(1000))}
        [path] = httpx.post(f"{app.url}/gradio_api/upload", files=files).json()
        assert path.startswith("/dev/shm/")
        full = httpx.post(f"{app.url}/gradio_api/upload", files={"files": ("x", bytes(3_000_000))})
        assert (full.status_code, full.json()["error"]["code"]) == (507, "no_space")
        assert "/dev/shm" not in full.text
