"""The running app, as `make app` starts it, in Chromium."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, Page, expect

from pneumocam import Classifier, predict
from tests.conftest import EXAMPLES, App, Hub, running_app

NORMAL = next(film for film in EXAMPLES if "NORMAL" in film.name)
BACTERIAL = next(film for film in EXAMPLES if "bacteria" in film.name)


@pytest.fixture
def page(app: App, browser: Browser) -> Iterator[Page]:
    """The loaded page; on leaving, nothing may have been asked of another host and no script may have failed."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    failures: list[str] = []
    hosts: set[str] = set()
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else ""))
    page.goto(app.url)
    expect(page.locator("#upload input[type=file]")).to_be_attached()
    yield page
    page.close()
    assert failures == []
    assert hosts - {""} == {app.url.removeprefix("http://")}


@pytest.fixture(scope="module")
def client(app: App) -> Client:
    return Client(app.url, verbose=False)


def upload(page: Page, film: Path) -> None:
    page.set_input_files("#upload input[type=file]", film)


def test_uploading_a_radiograph_shows_its_overlay_and_probabilities(page: Page, bundled: Classifier) -> None:
    upload(page, BACTERIAL)
    overlay = page.locator("#overlay img")
    expect(overlay).to_be_visible(timeout=60_000)
    expect(page.locator("#verdict h2")).to_be_visible()

    prediction = predict(bundled, BACTERIAL)
    expected = prediction.overlay()
    size = overlay.evaluate("async image => { await image.decode(); return [image.naturalWidth, image.naturalHeight] }")
    assert tuple(size) == expected.size
    shown = page.locator("#probabilities").inner_text()
    for name, share in prediction.probabilities.items():
        assert name in shown
        assert f"{share:.0%}" in shown
    assert f"{prediction.p_pneumonia:.1%}" in page.locator("#verdict").inner_text()


def test_an_example_is_answered_and_another_class_can_be_explained(page: Page) -> None:
    page.locator("#examples button").first.click()
    overlay = page.locator("#overlay img")
    expect(overlay).to_be_visible(timeout=60_000)
    first = overlay.get_attribute("src")
    assert first
    page.get_by_label("Class to explain").click()
    page.get_by_role("option", name="VIRAL").click()
    expect(overlay).not_to_have_attribute("src", first, timeout=60_000)


def test_a_file_that_is_no_image_is_refused_in_words_and_the_page_goes_on(page: Page, tmp_path: Path) -> None:
    (tmp_path / "letter.jpeg").write_text("Dear radiologist, " * 40)
    upload(page, tmp_path / "letter.jpeg")
    expect(page.get_by_text("The upload is no picture that is known here")).to_be_visible(timeout=60_000)
    page.reload()
    upload(page, NORMAL)
    expect(page.locator("#overlay img")).to_be_visible(timeout=60_000)


def test_phone_width_needs_no_sideways_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    upload(page, BACTERIAL)
    expect(page.locator("#overlay img")).to_be_visible(timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_no_upload_is_named_in_the_log(app: App, client: Client) -> None:
    client.predict(image=handle_file(BACTERIAL), api_name="/predict")
    with pytest.raises(AppError):
        client.predict(image=handle_file(EXAMPLES[0].with_name("README.md")), api_name="/predict")
    log = app.log.read_text()
    assert BACTERIAL.stem not in log
    assert "README" not in log


def test_the_models_notice_is_absent_where_there_is_nothing_to_note(page: Page, bundled: Classifier) -> None:
    expect(page.get_by_text(f"Model bundled, revision {bundled.revision}.")).to_be_attached()
    expect(page.locator("#notice")).to_have_count(0)


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
