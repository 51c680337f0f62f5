"""The running app, as `make app` starts it, in Chromium."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, expect

from pneumocam import Classifier, predict
from tests.conftest import EXAMPLES, App, Hub, running_app

NORMAL = next(film for film in EXAMPLES if "NORMAL" in film.name)
BACTERIAL = next(film for film in EXAMPLES if "bacteria" in film.name)


@pytest.fixture(scope="module")
def client(app: App) -> Client:
    return Client(app.url, verbose=False)


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
        notice = "hf-hub:lung/film@v1 did not come within 1 s. The bundled model is used instead."
        expect(page.locator("#notice")).to_contain_text(notice)
        page.close()
    assert answer == json.loads(json.dumps(predict(bundled, NORMAL).to_dict()))
    log = app.log.read_text()
    assert [line for line in log.splitlines() if "hf-hub:" in line] == [notice]
    assert "hf_secret" not in log
