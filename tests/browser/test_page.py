"""The page in Chromium, with real files and real clicks: what it shows is what Python answers, for everybody."""

import base64
import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Download, Locator, Page, Route, expect

from pneumocam import Classifier, Prediction, RadiographError, predict
from pneumocam.cli import COLUMNS, table_row
from pneumocam.report import report
from tests.conftest import EXAMPLES, App, running_app
from tests.unit.test_image import dicom

expect.set_options(timeout=60_000)  # on cores that are busy
WEB = Path(__file__).parents[2] / "web"
TEXTS: dict[str, dict[str, str]] = json.loads((WEB / "i18n.json").read_text())
EN = TEXTS["en"]
BACTERIAL = next(film for film in EXAMPLES if "bacteria" in film.name)
NORMAL = next(film for film in EXAMPLES if "NORMAL" in film.name)


class Visit:
    """A page, and what it asked for since `quiet` began."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.host = page, url.removeprefix("http://")
        self.requests: list[str] = []
        self.failures: list[str] = []
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.failures.append(str(error)))
        page.on("console", lambda message: self.failures.append(message.text) if message.type == "error" else None)
        page.goto(url)
        expect(page.locator(".before")).to_be_visible()
        expect(page.locator("#upload input[type=file]")).to_be_attached()

    def check(self) -> None:
        assert self.failures == []
        assert {url.split("/")[2] for url in self.requests if url.startswith(("http", "ws"))} == {self.host}

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing may be asked of the server meanwhile."""
        before = len(self.requests)
        yield
        assert [url for url in self.requests[before:] if not url.startswith(("data:", "blob:"))] == []


@pytest.fixture
def visits(app: App, browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open the page, in any width, colour scheme or language."""
    opened: list[Visit] = []

    def visit(width: int = 1280, height: int = 1000, **options: Any) -> Visit:
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        opened.append(Visit(page, app.url))
        return opened[-1]

    yield visit
    for visited in opened:
        visited.page.close()
        visited.check()


@pytest.fixture
def visit(visits: Callable[..., Visit]) -> Visit:
    return visits()


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page


def give(page: Page, *films: Path) -> None:
    page.set_input_files("#upload input[type=file]", films)


def answered(page: Page, name: str) -> Locator:
    """The card with the answer about that file."""
    card = page.locator(".answer", has_text=name)
    expect(card).to_be_visible()
    return card


def shown_json(page: Page) -> Any:
    return json.loads(page.locator(".details pre").text_content() or "")


def as_json(prediction: Prediction) -> Any:
    return json.loads(json.dumps(prediction.to_dict()))


def picture(page: Page) -> np.ndarray:
    """The film on the stage, cut out of the canvas and made small; the whole of it has to be in view."""
    stage = page.locator(".stage")
    data = stage.locator("canvas").evaluate("canvas => canvas.toDataURL()")
    left, top, width, height = (float(x) for x in (stage.get_attribute("data-box") or "").split())
    with Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))) as canvas:
        return small(canvas, (left, top, left + width, top + height))


def small(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """(100, 100, 3), so that neither JPEG's noise nor how pixels fall counts."""
    return np.asarray(image.convert("RGB").resize((100, 100), Image.Resampling.BOX, box=box), np.float32)


def slide(page: Page, label: str, value: int) -> None:
    page.get_by_label(EN[label], exact=True).fill(str(value))


def differ(shown: np.ndarray, expected: Image.Image) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(shown - small(expected)).mean())


def film_of(path: Path, width: int, height: int, folder: Path) -> Path:
    """That film, squashed to another shape."""
    with Image.open(path) as film:
        film.convert("L").resize((width, height)).save(folder / f"{width}x{height}.png")
    return folder / f"{width}x{height}.png"


# One film


def test_the_answer_comes_first_with_its_probability_and_what_the_setting_means(
    page: Page, bundled: Classifier
) -> None:
    give(page, BACTERIAL)
    card = answered(page, BACTERIAL.name)
    prediction = predict(bundled, BACTERIAL)
    expected = EN[f"answer_{prediction.label}"] if prediction.status == "ok" else EN["answer_uncertain"]
    expect(card.get_by_role("heading")).to_contain_text(expected)
    assert prediction.p_pneumonia is not None
    expect(card).to_contain_text(f"{prediction.p_pneumonia:.1%} {EN['probability']}")
    measured = (bundled.metrics or {})["operating_points"]["balanced"]
    found, alarms = 100 * measured["sensitivity"]["value"], 100 * (1 - measured["specificity"]["value"])
    expect(card).to_contain_text(EN["meaning"].format(found=round(found), alarms=round(alarms)))
    expect(card).to_contain_text("Measured on 751 films")
    bars = page.locator(".bars")
    for name, share in prediction.probabilities.items():
        expect(bars.locator("div", has_text=EN[f"label_{name}"]).last).to_contain_text(f"{share:.1%}")
    assert shown_json(page) == as_json(prediction)
    expect(page.get_by_role("status").filter(has_text=expected)).to_be_attached()
    for end in ("0", "document.body.scrollHeight"):
        page.evaluate(f"scrollTo(0, {end})")
        expect(page.locator("#disclaimer")).to_be_in_viewport()
    expect(page.get_by_text(f"Model bundled, revision {bundled.revision}.")).to_be_attached()
    expect(page.locator("#notice")).to_have_count(0)


def test_image_facts_say_what_was_done_and_nothing_of_the_patient(page: Page, tmp_path: Path) -> None:
    with Image.open(NORMAL) as film:
        pixels = np.asarray(film.convert("L"))
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "sixteen.png", pnginfo=None)
    give(page, tmp_path / "sixteen.png")
    answered(page, "sixteen.png")
    page.get_by_text(EN["image"], exact=True).click()
    facts = page.locator(".details details").first
    expect(facts).to_contain_text("PNG")
    expect(facts).to_contain_text(f"{pixels.shape[1]} × {pixels.shape[0]} pixels")
    expect(facts).to_contain_text("16 bit scaled to 8 bit")


def test_nothing_of_a_dicoms_patient_is_on_the_page(page: Page, tmp_path: Path) -> None:
    with Image.open(NORMAL) as film:
        dataset = dicom(np.asarray(film.convert("L")), PatientName="Castorp^Hans", PatientID="4711-34")
    dataset.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    give(page, tmp_path / "film.dcm")
    answered(page, "film.dcm")
    for summary in page.locator(".details summary").all():
        summary.click()
    expect(page.locator(".details")).to_contain_text("DICOM")
    content = page.content()
    assert "Castorp" not in content
    assert "4711-34" not in content


def test_what_comes_while_others_are_read_has_its_turn_after_them(page: Page) -> None:
    give(page, *EXAMPLES[:3])
    expect(page.locator(".compare")).to_be_visible()
    give(page, BACTERIAL)
    answered(page, BACTERIAL.name)
    expect(page.locator(".compare")).to_have_count(0)


@pytest.mark.parametrize("shape", [None, (900, 300), (300, 900)], ids=["film", "wide", "tall"])
def test_the_canvas_shows_what_python_draws(
    page: Page, bundled: Classifier, tmp_path: Path, shape: tuple[int, int] | None
) -> None:
    film = film_of(BACTERIAL, *shape, tmp_path) if shape else BACTERIAL
    prediction = predict(bundled, film)
    assert prediction.radiograph
    plain = prediction.radiograph.to_pil()
    give(page, film)
    answered(page, film.name)
    slide(page, "split", 100)
    assert differ(picture(page), plain) < 1.5
    slide(page, "split", 0)
    for target, opacity, colour_map in (("PNEUMONIA", 0.6, "inferno"), ("VIRAL", 0.9, "turbo")):
        page.get_by_label(EN["target"]).select_option(target)
        page.get_by_label(EN["colours"]).select_option(colour_map)
        slide(page, "opacity", round(100 * opacity))
        expected = prediction.overlay(target, opacity=opacity, colour_map=colour_map).crop((0, 0, *plain.size))
        assert differ(picture(page), expected) < 1.5
        assert differ(picture(page), plain) > 4


def test_slider_class_colours_opacity_and_zoom_change_the_picture_without_a_request(visit: Visit) -> None:
    page = visit.page
    give(page, BACTERIAL)
    answered(page, BACTERIAL.name)
    stage = page.locator(".stage")
    canvas = "document.querySelector('.stage canvas').toDataURL()"
    seen = [page.evaluate(canvas)]

    def changed() -> None:
        seen.append(page.evaluate(canvas))
        assert seen[-1] not in seen[:-1]

    def drag(*path: float) -> None:
        """From one point to another, in pixels from the middle of the stage."""
        stage.scroll_into_view_if_needed()
        box = stage.bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x + path[0], y + path[1])
        page.mouse.down()
        page.mouse.move(x + path[2], y + path[3])
        page.mouse.up()

    with visit.quiet():
        slide(page, "split", 20)
        changed()
        for target in ("VIRAL", "PNEUMONIA"):
            page.get_by_label(EN["target"]).select_option(target)
            changed()
        for colour_map in ("viridis", "cividis", "turbo"):
            page.get_by_label(EN["colours"]).select_option(colour_map)
            changed()
        slide(page, "opacity", 90)
        changed()
        drag(0, 0, 60, 0)
        changed()  # the line was dragged
        assert int(page.get_by_label(EN["split"]).input_value()) > 50
        whole = seen[-1]
        page.get_by_label(EN["zoom_in"]).click()
        changed()
        stage.focus()
        stage.hover()
        page.mouse.wheel(0, -300)
        expect(stage).not_to_have_attribute("data-zoom", "1.25")
        changed()
        page.keyboard.press("ArrowRight")
        changed()
        drag(-150, 0, -150, 40)
        changed()  # the film was dragged
        page.keyboard.press("-")
        changed()
        page.get_by_label(EN["zoom_reset"], exact=True).last.click()
        assert page.evaluate(canvas) == whole
        expect(stage).to_have_attribute("data-zoom", "1.00")


def test_the_operating_point_is_switched_without_a_request(visit: Visit, bundled: Classifier) -> None:
    page = visit.page
    give(page, NORMAL)
    card = answered(page, NORMAL.name)
    with visit.quiet():
        for point in ("screening", "rule_in", "balanced"):
            card.get_by_role("radio", name=EN[f"point_{point}"]).check()
            prediction = predict(bundled.at(point), NORMAL)
            assert shown_json(page) == as_json(prediction)
            word = EN["answer_uncertain"] if prediction.status == "uncertain" else EN[f"answer_{prediction.label}"]
            expect(card.get_by_role("heading")).to_contain_text(word)
            specificity = (bundled.metrics or {})["operating_points"][point]["specificity"]["value"]
            expect(card).to_contain_text(f"wrongly calls {100 * (1 - specificity):.0f}.")


def test_an_uncertain_answer_says_why(page: Page, bundled: Classifier) -> None:
    predictions = {film: predict(bundled, film) for film in EXAMPLES}
    film, prediction = next((x, p) for x, p in predictions.items() if p.status == "uncertain")
    give(page, film)
    card = answered(page, film.name)
    expect(card.get_by_role("heading")).to_contain_text(EN["answer_uncertain"])
    expect(card).to_contain_text(EN["leaning"].format(label=EN[f"label_{prediction.label}"]))
    expect(card).to_contain_text(f"{prediction.p_pneumonia:.1%} is too near to the line of 50%")


def test_a_bad_file_is_told_in_words_and_the_page_goes_on(page: Page, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.jpeg"
    (tmp_path / name).write_text("Dear radiologist, " * 40)
    give(page, tmp_path / name)
    card = answered(page, "onerror")  # as text, as it is named
    expect(card.get_by_role("heading")).to_contain_text(EN["answer_rejected"])
    expect(card).to_contain_text(EN["reason_not_an_image"])
    expect(card).to_contain_text(EN["remedy_not_an_image"])
    expect(page.locator(".stage")).to_have_count(0)
    assert page.locator(".answer img").count() == 0
    give(page, NORMAL)
    answered(page, NORMAL.name)
    expect(page.locator(".stage")).to_be_visible()


def test_a_file_that_is_too_large_has_its_reason_too(page: Page, tmp_path: Path) -> None:
    with (tmp_path / "large.jpeg").open("wb") as file:
        file.write(BACTERIAL.read_bytes())
        file.truncate(25_000_000)
    give(page, tmp_path / "large.jpeg")
    expect(answered(page, "large.jpeg")).to_contain_text(EN["reason_too_large"])


# The ways in

DROP = """([selector, kind, name, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (x) => x.charCodeAt(0));
  transfer.items.add(new File([bytes], name, {type: "image/jpeg"}));
  const options = {bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer};
  const event = kind === "paste" ? new ClipboardEvent(kind, options) : new DragEvent(kind, options);
  document.querySelector(selector).dispatchEvent(event);
}"""


@pytest.mark.parametrize(
    ("selector", "kind"),
    [("#upload button[aria-dropeffect]", "drop"), (".before", "drop"), ("body", "paste")],
    ids=["drop", "drop beside", "paste"],
)
def test_a_film_can_be_dropped_and_pasted(page: Page, bundled: Classifier, selector: str, kind: str) -> None:
    page.evaluate(DROP, [selector, kind, "film.jpeg", base64.b64encode(BACTERIAL.read_bytes()).decode()])
    answered(page, "film.jpeg")
    assert shown_json(page) == as_json(predict(bundled, BACTERIAL))


def test_a_film_can_be_picked(page: Page) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=EN["drop_title"]).click()
    assert chooser.value.is_multiple()
    chooser.value.set_files(NORMAL)
    answered(page, NORMAL.name)


def test_an_example_can_be_tried_and_the_same_one_again(page: Page, bundled: Classifier) -> None:
    first = page.locator("#examples button").first
    expect(first).to_have_text(EN["short_NORMAL"])
    for _ in range(2):
        first.click()
        expect(page.locator(".answer h2")).to_be_visible()
        expect(page.locator(".waiting")).to_have_count(0)
    expect(page.locator(".answer .eyebrow")).to_contain_text("True label: Normal")
    name = page.locator(".answer .eyebrow span").inner_text()
    assert shown_json(page) == as_json(predict(bundled, NORMAL.with_name(name)))


def test_all_of_it_by_keyboard_alone(page: Page) -> None:
    def go_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"Tab never comes to {selector}")

    go_to("#examples button")
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_be_visible()
    go_to("input[name=operating-point]")
    page.keyboard.press("ArrowRight")
    assert shown_json(page)["operating_point"]["name"] == "screening"
    go_to(".stage")
    page.keyboard.press("+")
    expect(page.locator(".stage")).to_have_attribute("data-zoom", "1.25")
    go_to(".slide input")
    page.keyboard.press("End")
    assert page.get_by_label(EN["split"]).input_value() == "100"
    go_to(".controls select")
    page.keyboard.press("ArrowDown")
    go_to(".details summary")
    page.keyboard.press("Enter")
    expect(page.locator(".details details").first).to_have_attribute("open", "")
    go_to("#read button")
    page.keyboard.press("Enter")
    expect(page.get_by_text("It shows what moved the network")).to_be_visible()


def test_how_to_read_this_has_examples_that_the_model_gets_wrong(page: Page) -> None:
    page.get_by_role("button", name=EN["read_title"]).click()
    button = page.locator("#failures button").first
    button.click()
    name = answered(page, ".jpeg").locator(".eyebrow span").inner_text()
    truth = "NORMAL" if name.startswith("NORMAL") else "BACTERIAL"
    label = shown_json(page)["label"]
    assert label != truth
    assert f"True: {EN[f'short_{truth}']}. Its answer: {EN[f'short_{label}']}" in button.inner_text()


# Impatience, and refusals


REFUSED = {
    "status": 503,
    "content_type": "application/json",
    "body": '{"error": {"code": "queue_full", "message": ""}}',
}


@contextmanager
def held_back(page: Page) -> Iterator[None]:
    """What Gradio's queue is asked for first has to wait until the end of the block."""
    held: list[Route] = []
    page.route("**/queue/join*", lambda route: held.append(route), times=1)
    yield
    held[0].continue_()


def test_of_two_rows_chosen_at_once_the_last_is_shown_and_marked_whatever_comes_last(page: Page) -> None:
    give(page, *EXAMPLES[:6])
    expect(page.locator(".compare")).to_contain_text(EN["finished"].format(answered=6, total=6))
    page.evaluate("""() => {
      const view = pneumocam.shown, show = view.show;
      view.show = async (value) => {
        await show.call(view, value);
        (window.came ??= []).push(value?.index);
      };
    }""")
    with held_back(page):
        with page.expect_request("**/queue/join*"):
            page.locator(".compare button.name").nth(2).click()
        page.locator(".compare button.name").nth(5).click()
        answered(page, EXAMPLES[5].name)
    page.wait_for_function("window.came.includes(2)")
    answered(page, EXAMPLES[5].name)
    expect(page.locator(".compare tr[aria-current]")).to_contain_text(EXAMPLES[5].name)


def test_of_two_examples_chosen_at_once_the_last_is_shown(page: Page) -> None:
    with held_back(page):
        with page.expect_request("**/queue/join*"):
            page.locator("#examples button").nth(0).click()
        page.locator("#examples button").nth(4).click()
    answered(page, EN["truth"].format(label=EN["label_BACTERIAL"]))


def test_an_example_chosen_while_films_are_read_comes_after_them_and_alone(page: Page) -> None:
    page.evaluate("""() => {
      const table = pneumocam.compared, show = table.show;
      table.show = (value) => {
        show.call(table, value);
        if (value?.rows?.length === 1) document.querySelector("#examples button").click();
      };
    }""")
    give(page, *EXAMPLES[:6])
    answered(page, EN["truth"].format(label=EN["label_NORMAL"]))
    expect(page.locator(".compare")).to_have_count(0)


def test_a_film_opened_while_others_are_read_stays(page: Page) -> None:
    page.evaluate("""() => {
      const table = pneumocam.compared, show = table.show;
      table.show = (value) => {
        show.call(table, value);
        if (value?.rows?.length === 1) table.choose(0);
      };
    }""")
    give(page, *EXAMPLES, *EXAMPLES)
    expect(page.locator(".compare")).to_contain_text(EN["finished"].format(answered=32, total=32))
    answered(page, EXAMPLES[0].name)


def test_what_is_cleared_while_it_is_read_stays_away(page: Page) -> None:
    page.evaluate("""() => {
      const table = pneumocam.compared, show = table.show;
      table.show = (value) => {
        window.whole ||= Boolean(value?.done);
        show.call(table, value);
      };
    }""")
    give(page, *EXAMPLES)
    expect(page.locator(".compare button.name").first).to_be_visible()
    page.get_by_role("button", name=EN["clear"], exact=True).click()
    page.wait_for_function("window.whole")
    expect(page.locator(".compare")).to_have_count(0)
    expect(page.locator(".before")).to_be_visible()
    give(page, *EXAMPLES[:2])
    expect(page.locator(".compare")).to_contain_text(EN["finished"].format(answered=2, total=2))


def test_what_is_dropped_during_an_upload_has_its_turn_after_it(page: Page) -> None:
    held: list[Route] = []
    page.route(re.compile(r"/gradio_api/upload\b(?!_)"), lambda route: held.append(route), times=1)
    give(page, NORMAL)
    expect(page.locator("#upload input[type=file]")).to_have_count(0)
    page.evaluate(DROP, ["#upload", "drop", "film.jpeg", base64.b64encode(BACTERIAL.read_bytes()).decode()])
    held[0].continue_()
    answered(page, "film.jpeg")


def test_a_refused_call_is_told_in_the_readers_language_and_takes_nothing_away(visits: Callable[..., Visit]) -> None:
    visit = visits(locale="fr-FR")
    page, texts = visit.page, TEXTS["fr"]
    give(page, *EXAMPLES[:2])
    finished = texts["finished"].format(answered=2, total=2)
    expect(page.locator(".compare")).to_contain_text(finished)
    page.route("**/queue/join*", lambda route: route.fulfill(**REFUSED))
    page.locator("#examples button").first.click()
    expect(page.get_by_test_id("toast-text")).to_have_text(texts["notice_busy"])
    expect(page.locator(".toast-title")).to_contain_text(texts["notice_title"])
    expect(page.locator(".compare")).to_contain_text(finished)
    page.unroute_all()
    page.locator(".compare button.name").first.click()
    answered(page, EXAMPLES[0].name)
    page.route("**/queue/join*", lambda route: route.fulfill(**REFUSED))
    with page.expect_response("**/queue/join*"):
        page.locator(".compare button.name").nth(1).click()
    expect(page.locator(".compare tr[aria-current]")).to_contain_text(EXAMPLES[0].name)
    give(page, *EXAMPLES[2:4])
    expect(page.locator(".compare")).to_contain_text(EXAMPLES[0].name)
    answered(page, EXAMPLES[0].name)
    assert all("503" in failure for failure in visit.failures)
    visit.failures.clear()


def test_a_refused_upload_is_told_without_its_json(visit: Visit) -> None:
    page = visit.page
    body = '{"error": {"code": "no_space", "message": "The space is used up."}, "detail": "The space is used up."}'
    page.route("**/upload?*", lambda route: route.fulfill(status=507, content_type="application/json", body=body))
    give(page, NORMAL)
    expect(page.get_by_test_id("toast-text")).to_have_text(EN["notice_no_space"])
    page.unroute_all()
    give(page, NORMAL)
    answered(page, NORMAL.name)
    assert len(visit.failures) == 1
    assert "507" in visit.failures.pop()


# Several films


def rows(page: Page) -> list[str]:
    return page.locator(".compare tbody .name").all_inner_texts()


def saved(page: Page, button: str) -> Download:
    with page.expect_download() as download:
        page.get_by_role("button", name=EN[button]).click()
    return download.value


def content(download: Download) -> bytes:
    return Path(download.path()).read_bytes()


def test_several_films_become_a_table_to_sort_open_and_take_away(
    visit: Visit, bundled: Classifier, tmp_path: Path
) -> None:
    page = visit.page
    bad = tmp_path / "=1+1.txt"
    bad.write_text("no film " * 20)
    films = [EXAMPLES[0], bad, EXAMPLES[8], EXAMPLES[6]]
    give(page, *films)
    expect(page.locator(".compare")).to_contain_text(EN["finished"].format(answered=3, total=4))
    assert rows(page) == [film.name for film in films]
    rejected = page.locator(".compare tr", has_text=bad.name)
    expect(rejected).to_contain_text(EN["reason_not_an_image"])
    predictions = {film.name: predict(bundled, film) for film in films if film != bad}

    with visit.quiet():
        header = page.get_by_role("columnheader", name=EN["column_p"].format(label=EN["short_PNEUMONIA"]))
        by_share = sorted(predictions, key=lambda name: predictions[name].p_pneumonia or 0)
        for order, expected in (("descending", by_share[::-1]), ("ascending", by_share)):
            header.get_by_role("button").click()
            expect(header).to_have_attribute("aria-sort", order)
            assert rows(page) == [*expected, bad.name]  # what has no number stays at the end
        page.get_by_role("columnheader", name=EN["column_name"]).get_by_role("button").click()
        assert rows(page)[-2:] == [EXAMPLES[6].name, EXAMPLES[8].name]
        page.locator(".compare select").select_option("screening")
        for name in predictions:
            shown = predict(bundled.at("screening"), EXAMPLES[0].with_name(name))
            row = page.locator(".compare tr", has_text=name)
            expect(row).to_contain_text(EN[f"status_{shown.status}"])
            expect(row).to_contain_text(f"{shown.p_pneumonia:.1%}")

    page.get_by_role("button", name=EN["open"].format(name=EXAMPLES[8].name)).click()
    answered(page, EXAMPLES[8].name)
    expect(page.locator(".compare tr[aria-current]")).to_contain_text(EXAMPLES[8].name)
    assert shown_json(page) == as_json(predict(bundled.at("screening"), EXAMPLES[8]))

    table = list(csv.DictReader(io.StringIO(content(saved(page, "save_csv")).decode())))
    assert list(table[0]) == list(COLUMNS)
    assert table[1]["path"] == f"'{bad.name}"  # no formula
    for i in (0, 2, 3):
        answer = predict(bundled.at("screening"), films[i])
        assert table[i] == {k: str(v) for k, v in table_row(films[i].name, answer.to_dict()).items()}

    with zipfile.ZipFile(io.BytesIO(content(saved(page, "save_zip")))) as archive:
        assert list(csv.DictReader(io.TextIOWrapper(archive.open("scores.csv"), "utf-8"))) == table
        assert [name for name in archive.namelist() if name.startswith("overlays/")] == [
            f"overlays/{films[i].name}.overlay.png" for i in (0, 2, 3)
        ]
        for i in (0, 2, 3):
            prediction = predict(bundled.at("screening"), films[i])
            answer = json.loads(archive.read(f"predictions/{films[i].name}.json"))
            assert answer == {"path": films[i].name, **as_json(prediction)}
            with Image.open(archive.open(f"overlays/{films[i].name}.overlay.png")) as overlay:
                np.testing.assert_array_equal(np.asarray(overlay), np.asarray(prediction.overlay()))

    page.get_by_role("button", name=EN["clear"], exact=True).click()
    expect(page.locator(".compare")).to_have_count(0)
    expect(page.locator(".before")).to_be_visible()


def test_a_thirty_third_file_is_left_out_and_it_is_said(page: Page, tmp_path: Path) -> None:
    for i in range(33):
        (tmp_path / f"{i:02}.txt").write_text("no film " * 20)
    give(page, *sorted(tmp_path.glob("*.txt")))
    expect(page.locator(".compare")).to_contain_text(EN["finished"].format(answered=0, total=32))
    expect(page.get_by_role("alert").filter(has_text=EN["left_out"].format(most=32))).to_be_visible()
    assert rows(page) == [f"{i:02}.txt" for i in range(32)]


# Reports


def test_the_report_is_of_what_is_shown(page: Page, bundled: Classifier) -> None:
    give(page, NORMAL)
    answered(page, NORMAL.name).get_by_role("radio", name=EN["point_screening"]).check()
    page.get_by_label(EN["target"]).select_option("VIRAL")
    page.get_by_label(EN["colours"]).select_option("cividis")
    slide(page, "opacity", 30)
    prediction = predict(bundled.at("screening"), NORMAL)
    for kind in ("pdf", "png"):
        download = saved(page, f"report_{kind}")
        assert download.suggested_filename == f"pneumocam-report.{kind}"
        expected = report(prediction, target="VIRAL", opacity=0.3, colour_map="cividis", format=kind)
        assert content(download) == expected


def test_a_film_that_was_deleted_meanwhile_is_asked_for_again(app: App, page: Page, tmp_path: Path) -> None:
    film = film_of(NORMAL, 200, 200, tmp_path)
    give(page, film)
    answered(page, film.name)
    uploads = list(app.log.parent.rglob(film.name))
    assert uploads
    for upload in uploads:
        upload.unlink()
    page.get_by_role("button", name=EN["report_pdf"]).click()
    expect(page.get_by_text("The film is not here any more: it was kept for an hour.")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text=EN["failed"])).to_be_attached()


def test_a_table_can_be_saved_without_the_films(app: App, page: Page) -> None:
    give(page, *EXAMPLES[:2])
    expect(page.locator(".compare")).to_contain_text(EN["finished"].format(answered=2, total=2))
    for film in EXAMPLES[:2]:
        for upload in app.log.parent.rglob(film.name):
            upload.unlink()
    assert len(content(saved(page, "save_csv")).splitlines()) == 3


def test_a_report_that_is_being_made_is_not_asked_for_twice(visit: Visit) -> None:
    page = visit.page
    give(page, NORMAL)
    answered(page, NORMAL.name)
    held: list[Route] = []
    page.route("**/queue/join*", lambda route: held.append(route), times=1)
    before = sum("/queue/join" in url for url in visit.requests)
    pdf, png = page.locator(".take button").all()
    pdf.click()
    expect(pdf).to_have_text(EN["making"])
    png.click(force=True)
    with page.expect_download() as download:
        held[0].continue_()
    assert download.value.suggested_filename.endswith(".pdf")
    expect(pdf).to_have_text(EN["report_pdf"])
    expect(png).to_be_focused()  # nothing was drawn anew
    assert sum("/queue/join" in url for url in visit.requests) == before + 1
    assert saved(page, "report_png").suggested_filename.endswith(".png")


def test_the_json_can_be_copied_where_there_is_no_clipboard(page: Page, bundled: Classifier) -> None:
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.evaluate("document.addEventListener('copy', () => window.copied = getSelection().toString())")
    give(page, NORMAL)
    answered(page, NORMAL.name)
    page.get_by_text(EN["json"], exact=True).click()
    page.get_by_role("button", name=EN["json_copy"], exact=True).click()
    expect(page.get_by_role("button", name=EN["json_copied"], exact=True)).to_be_visible()
    assert json.loads(page.evaluate("window.copied")) == as_json(predict(bundled, NORMAL))


def test_the_json_can_be_saved(page: Page, bundled: Classifier) -> None:
    give(page, NORMAL)
    answered(page, NORMAL.name)
    page.get_by_text(EN["json"], exact=True).click()
    download = saved(page, "json_save")
    assert download.suggested_filename == f"{NORMAL.stem}.json"
    assert json.loads(content(download)) == as_json(predict(bundled, NORMAL))


# Languages


def test_every_language_has_every_text_with_the_same_gaps() -> None:
    assert list(TEXTS) == ["en", "de", "es", "fr", "zh"]
    for texts in TEXTS.values():
        assert texts.keys() == EN.keys()
        for key, text in texts.items():
            assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", EN[key])), key
            assert text.count("**") == EN[key].count("**"), key


def test_no_sentence_was_left_in_english() -> None:
    same = {(lang, key) for lang, texts in TEXTS.items() if lang != "en" for key in EN if texts[key] == EN[key]}
    words = {(lang, key): re.findall(r"\w+", re.sub(r"{\w+}", "", EN[key])) for lang, key in same}
    assert all(len(found) == 1 for found in words.values())  # such as Original, and P
    for lang, texts in TEXTS.items():
        english = re.findall(r"\b(the|this|is|are|with|which|you|your)\b", " ".join(texts.values()))
        assert (lang == "en") == bool(english)


def test_every_error_of_a_film_has_its_words() -> None:
    codes = {kind.code for kind in RadiographError.__subclasses__() if kind.__module__.startswith("pneumocam")}
    assert {f"{part}_{code}" for part in ("reason", "remedy") for code in codes} <= EN.keys()


def test_every_text_is_used_and_none_is_missing() -> None:
    source = "".join(
        path.read_text()
        for path in [*(WEB / f"{name}.js" for name in ("page", "film", "viewer", "table")), WEB.parent / "app.py"]
    )
    built = ("label_", "short_", "answer_", "reason_", "remedy_", "notice_", "point_", "status_", "report_")  # by name
    asked = set(re.findall(r"\b(?:text|TEXT)\([\"'](\w+)[\"']", source))
    assert asked <= EN.keys()
    for key in EN:
        assert key in asked or key.startswith(built) or f'"{key}"' in source, key


@pytest.mark.parametrize(("locale", "lang", "dictionary"), [("de-AT", "de", "de"), ("zh-CN", "zh-CN", "zh")])
def test_the_browsers_language_is_spoken_everywhere(
    visits: Callable[..., Visit], locale: str, lang: str, dictionary: str
) -> None:
    page = visits(locale=locale).page
    texts = TEXTS[dictionary]
    assert page.locator("html").get_attribute("lang") == lang
    expect(page.get_by_text(texts["empty_title"])).to_be_visible()
    page.locator("#read button").first.click()
    expect(page.get_by_text(texts["failures_title"])).to_be_visible()

    def read() -> str:
        """All that is on the page, what is marked as English excepted."""
        page.add_style_tag(content="body [lang=en] { display: none !important; }")
        return page.locator("body").inner_text()

    parts = [read()]
    give(page, NORMAL)
    expect(answered(page, NORMAL.name)).to_contain_text(texts["points"])
    for summary in page.locator(".details summary").all():
        summary.click()
    parts.append(read())
    give(page, NORMAL, EXAMPLES[-1])
    expect(page.locator(".compare")).to_contain_text(texts["finished"].format(answered=2, total=2))
    parts.append(read())
    names = page.locator("body").evaluate(
        "body => [...body.querySelectorAll('[aria-label]')].map(x => x.ariaLabel).join('\\n')"
    )
    spoken = "\n".join([*parts, names])
    for key, text in EN.items():
        if texts[key] != text and "{" not in text and len(text) > 8:
            assert text.replace("**", "").split("\n")[0][:60] not in spoken, key


def test_a_language_that_it_does_not_speak_is_not_announced(visits: Callable[..., Visit]) -> None:
    page = visits(locale="ja-JP").page
    expect(page.get_by_text(EN["empty_title"])).to_be_visible()
    assert page.locator("body").get_attribute("lang") == "en"


# Everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_wcag_aa_and_the_width_hold_in_every_state(visits: Callable[..., Visit], width: int, scheme: str) -> None:
    page = visits(width, 844, color_scheme=scheme).page
    expect(page.locator("body")).to_have_class(re.compile("dark") if scheme == "dark" else re.compile("^(?!.*dark)"))

    def check(state: str) -> None:
        options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
        found = Axe().run(page, options=options).response["violations"]
        said = [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]
        assert said == [], state
        assert page.evaluate("document.documentElement.scrollWidth") <= width, state

    page.locator("#read button").first.click()
    expect(page.locator("#failures button").first).to_be_visible()
    check("empty")
    give(page, NORMAL)
    answered(page, NORMAL.name)
    for summary in page.locator(".details summary").all():
        summary.click()
    check("result")
    give(page, EXAMPLES[-1], EXAMPLES[0].with_name("examples.csv"))
    expect(page.locator(".compare")).to_contain_text(EN["finished"].format(answered=1, total=2))
    page.locator(".compare button.name").first.click()
    answered(page, EXAMPLES[-1].name)
    check("comparison")


def test_no_upload_is_named_in_the_log(app: App, page: Page, tmp_path: Path) -> None:
    film = tmp_path / "Hans-Castorp.jpeg"
    film.write_bytes(NORMAL.read_bytes())
    (tmp_path / "Clawdia.txt").write_text("no film " * 20)
    give(page, film, tmp_path / "Clawdia.txt")
    expect(page.locator(".compare")).to_contain_text(EN["finished"].format(answered=1, total=2))
    saved(page, "save_zip")
    log = app.log.read_text()
    assert "Castorp" not in log
    assert "Clawdia" not in log


def test_a_model_of_two_classes_without_figures_is_shown_as_what_it_is(
    make_bundle: Callable[..., Path],
    tmp_path: Path,
    browser: Browser,
) -> None:
    bundle = make_bundle("test_resnet", labels=("NORMAL", "PNEUMONIA"), crop_mode="border", crop_pct=0.9)
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    film = film_of(BACTERIAL, 500, 300, tmp_path)
    prediction = predict(classifier, film)
    with running_app(tmp_path, PNEUMOCAM_MODEL=f"local-dir:{bundle}") as app:
        visit = Visit(browser.new_page(), app.url)
        page = visit.page
        give(page, film)
        card = answered(page, film.name)
        assert shown_json(page) == as_json(prediction)
        expect(card.locator(".meaning")).to_be_empty()
        expect(card.get_by_role("radio")).to_have_count(0)  # one operating point is no choice
        page.get_by_label(EN["target"]).select_option("PNEUMONIA")
        slide(page, "split", 0)
        assert differ(picture(page), prediction.overlay("PNEUMONIA").crop((0, 0, 500, 300))) < 1
        page.close()
        visit.check()
