"""The running app, as `make app` starts it: in Chromium, by gradio_client and by curl."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from pneumocam import Classifier, predict
from tests.conftest import EXAMPLES, Hub

ROOT = Path(__file__).parents[1]
NORMAL = next(film for film in EXAMPLES if "NORMAL" in film.name)
BACTERIAL = next(film for film in EXAMPLES if "bacteria" in film.name)


@dataclass
class App:
    url: str
    log: Path


@contextmanager
def running_app(folder: Path, **settings: str) -> Iterator[App]:
    """`python app.py` as a process of its own, from the moment that it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("PNEUMOCAM_MODEL", None)
    environment |= settings
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdout
        for line in process.stdout:
            log.write(line)
            if "Running on local URL" in line:
                break
        else:
            pytest.fail(f"app.py ended before it served: {(folder / 'log').read_text()}")
        yield App(f"http://127.0.0.1:{port}", folder / "log")
        process.terminate()
        log.write(process.communicate(timeout=30)[0])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running_app(tmp_path_factory.mktemp("app")) as app:
        yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def client(app: App) -> Client:
    return Client(app.url, verbose=False)


@pytest.mark.parametrize("film", [NORMAL, BACTERIAL], ids=lambda film: film.stem)
def test_client_gets_the_numbers_and_the_picture_that_python_gets(
    client: Client, bundled: Classifier, film: Path
) -> None:
    overlay, probabilities, answer = client.predict(image=handle_file(film), target="PNEUMONIA", api_name="/predict")
    prediction = predict(bundled, film)
    assert answer == json.loads(json.dumps(prediction.to_dict()))
    assert {row["label"]: row["confidence"] for row in probabilities["confidences"]} == prediction.probabilities
    with Image.open(overlay) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(prediction.overlay("PNEUMONIA")))


def test_target_may_be_left_out(client: Client, bundled: Classifier) -> None:
    overlay, _, answer = client.predict(image=handle_file(BACTERIAL), api_name="/predict")
    prediction = predict(bundled, BACTERIAL)
    assert answer["label"] == prediction.label
    with Image.open(overlay) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(prediction.overlay()))


def test_sixteen_bit_png_gets_the_answer_of_its_eight_bit_original(client: Client, tmp_path: Path) -> None:
    with Image.open(NORMAL) as film:
        pixels = np.asarray(film.convert("L"))
    Image.fromarray(pixels).save(tmp_path / "eight.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    answers = [
        client.predict(image=handle_file(tmp_path / f"{name}.png"), api_name="/predict")[2]
        for name in ("eight", "sixteen")
    ]
    assert answers[0] == answers[1]


def test_errors_reach_the_client_in_words(client: Client, tmp_path: Path) -> None:
    with pytest.raises(AppError, match="No image came"):
        client.predict(image=None, api_name="/predict")
    with pytest.raises(AppError, match="LUNG"):
        client.predict(image=handle_file(NORMAL), target="LUNG", api_name="/predict")
    (tmp_path / "half.jpeg").write_bytes(NORMAL.read_bytes()[:20_000])
    with pytest.raises(AppError, match="truncated"):
        client.predict(image=handle_file(tmp_path / "half.jpeg"), api_name="/predict")


def test_curl_gets_the_same_answer(app: App, bundled: Classifier) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.run(["curl", "-sSf", *arguments], capture_output=True, text=True, check=True).stdout

    path = json.loads(curl("-F", f"files=@{BACTERIAL}", f"{app.url}/gradio_api/upload"))[0]
    body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "PNEUMONIA"]}
    call = curl(f"{app.url}/gradio_api/call/predict", "-H", "Content-Type: application/json", "-d", json.dumps(body))
    stream = curl("-N", f"{app.url}/gradio_api/call/predict/{json.loads(call)['event_id']}")
    data: list[Any] = json.loads(stream.split("event: complete\ndata: ")[1].splitlines()[0])
    assert data[2] == json.loads(json.dumps(predict(bundled, BACTERIAL).to_dict()))


def test_only_predict_is_offered_and_its_parameters_are_documented(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert isinstance(endpoints, dict)
    assert list(endpoints["named_endpoints"]) == ["/predict"]
    names = [p["parameter_name"] for p in endpoints["named_endpoints"]["/predict"]["parameters"]]
    assert names == ["image", "target"]


def test_no_upload_is_named_in_the_log(app: App, client: Client) -> None:
    client.predict(image=handle_file(BACTERIAL), api_name="/predict")
    with pytest.raises(AppError):
        client.predict(image=handle_file(EXAMPLES[0].with_name("README.md")), api_name="/predict")
    log = app.log.read_text()
    assert BACTERIAL.stem not in log
    assert "README" not in log


@pytest.fixture
def hub_settings(hub: Hub, make_bundle: Callable[..., Path], tmp_path: Path) -> dict[str, str]:
    """What sends an app to a model on the Hub, with an empty cache."""
    hub.add("lung/film", make_bundle("test_resnet"), "v1")
    return {
        "PNEUMOCAM_MODEL": "hf-hub:lung/film@v1",
        "PNEUMOCAM_START_TIMEOUT": "20",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf-home"),
        "HF_TOKEN": "hf_secret",
        "TQDM_POSITION": "-1",  # as Spaces set it, so that progress shows in a log too
    }


def test_a_model_of_the_hub_is_downloaded_in_view_and_answers(
    hub: Hub, hub_settings: dict[str, str], tmp_path: Path, browser: Browser
) -> None:
    commit = hub.refs["v1"]
    with running_app(tmp_path, **hub_settings) as app:
        answer = Client(app.url, verbose=False).predict(image=handle_file(NORMAL), api_name="/predict")[2]
        page = browser.new_page()
        page.goto(app.url)
        expect(page.get_by_text(f"Model lung/film, revision {commit}.")).to_be_attached()
        expect(page.locator("#notice")).to_have_count(0)
        page.close()
    assert answer["model"] == {"id": "lung/film", "revision": commit}
    log = app.log.read_text()
    assert "model.safetensors: 100%" in log
    assert "hf_secret" not in log


def test_a_hub_that_hangs_leaves_the_bundled_model_to_answer_and_the_page_says_so(
    hub: Hub, hub_settings: dict[str, str], tmp_path: Path, browser: Browser, bundled: Classifier
) -> None:
    hub.hang("GET /lung/film/resolve")
    with running_app(tmp_path, **hub_settings | {"PNEUMOCAM_START_TIMEOUT": "1"}) as app:
        answer = Client(app.url, verbose=False).predict(image=handle_file(NORMAL), api_name="/predict")[2]
        page = browser.new_page()
        page.goto(app.url)
        notice = "hf-hub:lung/film@v1 did not come within 1 s. The bundled model answers."
        expect(page.locator("#notice")).to_contain_text(notice)
        page.close()
    assert answer == json.loads(json.dumps(predict(bundled, NORMAL).to_dict()))
    log = app.log.read_text()
    assert [line for line in log.splitlines() if "hf-hub:" in line] == [notice]
    assert "hf_secret" not in log
