"""The ways in, and what happens when something goes wrong on the way."""

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from pneumocam import Classifier, predict
from pneumocam.report import report
from tests.browser.visit import (
    BACTERIAL,
    EN,
    NORMAL,
    TEXTS,
    Visit,
    as_json,
    classified,
    drawn_frame,
    finished,
    give,
    names,
    shown_json,
)
from tests.conftest import EXAMPLES
from tests.service.test_force import PHOTOGRAPH, border_case
from tests.unit.test_report import text_of
from train.guard.drawn import KINDS

PASTE = """([name, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (x) => x.charCodeAt(0));
  transfer.items.add(new File([bytes], name, {type: "image/jpeg"}));
  document.body.dispatchEvent(new ClipboardEvent("paste", {bubbles: true, cancelable: true, clipboardData: transfer}));
}"""


def drag_file(page: Page, kind: str, path: Path, place: tuple[float, float]) -> None:
    """A file from the desktop over the window, as the browser itself reports it."""
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchDragEvent", {"type": kind, "x": place[0], "y": place[1], "data": data})


def test_a_file_can_be_dropped_anywhere_and_the_page_shows_it(page: Page, bundled: Classifier) -> None:
    cover = page.locator("#cover")
    expect(cover).to_be_hidden()
    on_field, on_result, on_header = (150, 190), (800, 300), (600, 20)
    for place, path in ((on_field, BACTERIAL), (on_result, NORMAL), (on_header, BACTERIAL)):
        drag_file(page, "dragEnter", path, place)
        drag_file(page, "dragOver", path, place)
        expect(cover).to_be_visible()
        expect(cover).to_have_text(EN["drop_anywhere"])
        drag_file(page, "drop", path, place)
        expect(cover).to_be_hidden()
        classified(page, path.name)
        assert shown_json(page) == as_json(predict(bundled, path))


def test_a_drag_that_is_given_up_leaves_no_trace(page: Page) -> None:
    drag_file(page, "dragEnter", BACTERIAL, (300, 300))
    drag_file(page, "dragOver", BACTERIAL, (300, 300))
    expect(page.locator("#cover")).to_be_visible()
    drag_file(page, "dragCancel", BACTERIAL, (300, 300))
    page.mouse.move(400, 400)
    expect(page.locator("#cover")).to_be_hidden()


def test_an_image_can_be_pasted(page: Page, bundled: Classifier) -> None:
    page.evaluate(PASTE, ["pasted.jpeg", base64.b64encode(BACTERIAL.read_bytes()).decode()])
    classified(page, "pasted.jpeg")
    assert shown_json(page) == as_json(predict(bundled, BACTERIAL))


def test_a_file_can_be_chosen_and_the_same_one_again(page: Page) -> None:
    for _ in range(2):
        with page.expect_file_chooser() as chooser, page.expect_response("**/page/predict"):
            page.locator("#drop").click()
            assert chooser.value.is_multiple()
            chooser.value.set_files(NORMAL)
        classified(page, NORMAL.name)


def test_an_example_can_be_tried(page: Page, bundled: Classifier) -> None:
    first = page.locator("#examples button").first
    expect(first).to_have_text(EN["short_NORMAL"])
    first.click()
    classified(page, "NORMAL")
    expect(page.locator("#result .eyebrow")).to_contain_text(EN["truth"].format(label=EN["label_NORMAL"]))
    name = page.locator("#result .eyebrow .name").inner_text()
    assert shown_json(page) == as_json(predict(bundled, NORMAL.with_name(name)))


def test_examples_that_the_model_gets_wrong_are_shown_as_such(page: Page) -> None:
    page.get_by_text(EN["failures_title"]).click()
    button = page.locator("#failures button").first
    button.click()
    drawn_frame(page)
    name = page.locator("#result .eyebrow .name").inner_text()
    classified(page, name)
    truth = "NORMAL" if name.startswith("NORMAL") else "BACTERIAL"
    label = shown_json(page)["label"]
    assert label != truth
    expect(button).to_contain_text(f"True: {EN[f'short_{truth}']}. Prediction: {EN[f'short_{label}']}")


def test_the_last_request_wins_in_any_order_of_answers(page: Page) -> None:
    held: list[Route] = []
    page.route("**/page/example/*", lambda route: held.append(route) if not held else route.continue_())
    with page.expect_request("**/page/example/*"):
        page.locator("#examples button").nth(0).click()
    page.locator("#examples button").nth(4).click()
    truth = EN["truth"].format(label=EN["label_BACTERIAL"])
    classified(page, truth)
    held[0].continue_()
    page.get_by_text(EN["json"], exact=True).click()  # whatever was pending has had its turn
    classified(page, truth)


def test_one_image_after_many_replaces_them(page: Page) -> None:
    give(page, *EXAMPLES[:3])
    expect(page.locator("#compare")).to_be_visible()
    give(page, BACTERIAL)
    classified(page, BACTERIAL.name)
    expect(page.locator("#compare")).to_be_hidden()
    expect(page.locator("nav.steps")).to_be_hidden()


# What can go wrong


def test_a_dead_server_ends_the_spinner_and_keeps_the_last_result(visit: Visit) -> None:
    page = visit.page
    give(page, BACTERIAL)
    classified(page, BACTERIAL.name)
    before = page.locator("#result").inner_text()
    page.route("**/page/**", lambda route: route.abort())
    give(page, NORMAL)
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text(EN["notice_connection"])
    expect(page.locator("#reading")).to_be_hidden()
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    assert page.locator("#result").inner_text() == before
    page.unroute_all()
    problem.get_by_role("button", name=EN["try_again"]).click()
    classified(page, NORMAL.name)
    expect(page.get_by_role("alert")).to_have_count(0)
    visit.forgive()


def test_a_connection_lost_among_many_images_goes_on_where_it_stopped(visit: Visit) -> None:
    page = visit.page
    sent: list[str] = []

    def lose(route: Route) -> None:
        sent.append(route.request.headers["x-file-name"])
        if len(sent) == 3:
            route.abort()
        else:
            route.continue_()

    page.route("**/page/predict", lose)
    give(page, *EXAMPLES[:6])
    page.get_by_role("alert").get_by_role("button", name=EN["try_again"]).click()
    finished(page, 6, 6)
    assert names(page) == [path.name for path in EXAMPLES[:6]]
    assert sorted(set(sent)) == [path.name for path in EXAMPLES[:6]]
    visit.forgive()


def test_a_refusal_is_told_in_the_readers_language(visits: Callable[..., Visit]) -> None:
    visit = visits(locale="fr-FR")
    page, texts = visit.page, TEXTS["fr"]
    refusals = {"busy": 503, "rate": 429, "no_space": 507, "internal_error": 500}
    waiting = list(refusals)

    def refuse(route: Route) -> None:
        code = waiting.pop(0)
        route.fulfill(status=refusals[code], json={"error": {"code": code, "message": "English."}})

    page.route("**/page/predict", refuse)
    for code in refusals:
        give(page, NORMAL)
        expect(page.get_by_role("alert")).to_contain_text(texts[f"notice_{code}"])
        expect(page.get_by_role("alert")).not_to_contain_text("English")
    visit.forgive()


def test_a_busy_server_is_asked_again_when_it_says_so(visit: Visit) -> None:
    page = visit.page
    body = '{"error": {"code": "busy", "message": ""}}'
    headers = {"Retry-After": "1", "Content-Type": "application/json"}
    page.route("**/page/predict", lambda route: route.fulfill(status=503, headers=headers, body=body), times=1)
    give(page, NORMAL)
    classified(page, NORMAL.name)
    expect(page.get_by_role("alert")).to_have_count(0)
    visit.forgive()


def test_a_report_that_fails_is_offered_again(visit: Visit) -> None:
    page = visit.page
    page.route("**/page/report*", lambda route: route.abort(), times=1)
    page.get_by_role("button", name=EN["report_pdf"], exact=True).click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(EN["failed"])
    expect(page.get_by_role("button", name=EN["report_pdf"], exact=True)).to_be_enabled()
    with page.expect_download() as download:
        alert.get_by_role("button", name=EN["try_again"]).click()
    assert download.value.suggested_filename.endswith(".pdf")
    visit.forgive()


def test_a_border_case_is_refused_and_shown_on_demand(visit: Visit, bundled: Classifier, tmp_path: Path) -> None:
    page, path = visit.page, tmp_path / "half.png"
    path.write_bytes(border_case(bundled))
    give(page, path)
    card = classified(page, path.name)
    expect(card.locator(".problem")).to_contain_text(EN["reason_not_a_chest_radiograph"])
    with page.expect_request("**/page/predict?force=true"):
        card.get_by_role("button", name=EN["show_anyway"]).click()
    expect(page.locator(".stage")).to_be_visible()
    prediction = predict(bundled, path, force=True)
    assert shown_json(page) == as_json(prediction)
    with page.expect_download() as download:
        page.get_by_role("button", name=EN["report_pdf"], exact=True).click()
    assert text_of(download.value.path().read_bytes()) == text_of(report(prediction))


@pytest.mark.parametrize("kind", ["page", "hand"])  # drawings of kinds that the guard was fitted on, of another seed
def test_a_page_of_text_and_a_hand_are_refused(visit: Visit, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.png"
    Image.fromarray(KINDS[kind](np.random.default_rng(2026))).save(path)
    give(visit.page, path)
    expect(classified(visit.page, path.name).locator(".problem")).to_contain_text(EN["reason_not_a_chest_radiograph"])


def test_a_photograph_cannot_be_shown_anyway(visit: Visit) -> None:
    give(visit.page, PHOTOGRAPH)
    card = classified(visit.page, PHOTOGRAPH.name)
    expect(card.locator(".problem")).to_contain_text(EN["reason_not_a_chest_radiograph"])
    expect(card.get_by_role("button", name=EN["show_anyway"])).to_have_count(0)
