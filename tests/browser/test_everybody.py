"""For everybody: languages, keyboard alone, WCAG 2.1 AA, light and dark, phones, slow lines; and nothing is tracked."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from pneumocam import Classifier, RadiographError
from tests.browser.visit import EN, NORMAL, TEXTS, Visit, adjust, classified, finished, give, saved, shown_json
from tests.conftest import EXAMPLES, App

FIRST_VISIT = 350_000  # bytes on the wire
WCAG_AA = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]  # as axe names its rules


def test_every_error_of_an_image_has_its_words() -> None:
    codes = {kind.code for kind in RadiographError.__subclasses__() if kind.__module__.startswith("pneumocam")}
    assert {f"{part}_{code}" for part in ("reason", "remedy") for code in codes} <= EN.keys()


@pytest.mark.parametrize(("locale", "lang"), [("de-AT", "de"), ("zh-CN", "zh"), ("es-MX", "es"), ("fr-CA", "fr")])
def test_the_browsers_language_is_spoken_everywhere(visits: Callable[..., Visit], locale: str, lang: str) -> None:
    visit = visits(locale=locale)
    page, texts = visit.page, TEXTS[lang]
    assert page.locator("html").get_attribute("lang") == lang
    assert [url for url in visit.requests if "/i18n/" in url and f"/{lang}.json" not in url] == []

    def read() -> str:
        """All that is on the page, except what is marked as English."""
        page.evaluate("document.querySelectorAll('body [lang=en]').forEach((x) => { x.style.display = 'none'; })")
        return page.locator("body").inner_text()

    page.evaluate("document.querySelectorAll('details').forEach((x) => { x.open = true; })")
    page.get_by_role("button", name=texts["adjust"], exact=True).click()
    parts = [read()]
    give(page, NORMAL, EXAMPLES[-1])
    expect(page.locator("#compare")).to_contain_text(texts["finished"].format(classified=2, total=2))
    parts.append(read())
    spoken = "[...document.querySelectorAll('[aria-label], [title]')].map((x) => `${x.ariaLabel} ${x.title}`).join(' ')"
    parts.append(page.evaluate(spoken))
    shown = "\n".join(parts)
    for key, text in EN.items():
        if texts[key] != text and "{" not in text and len(text) > 8:
            assert text.replace("**", "")[:60] not in shown, key


def test_a_language_that_it_does_not_speak_is_english(visits: Callable[..., Visit]) -> None:
    page = visits(locale="ja-JP").page
    expect(page.locator("#drop")).to_contain_text(EN["drop_title"])
    assert page.locator("html").get_attribute("lang") == "en"


def test_the_reader_can_choose_another_language(page: Page) -> None:
    page.get_by_role("link", name="Deutsch").click()
    expect(page.locator("#drop")).to_contain_text(TEXTS["de"]["drop_title"])
    expect(page.locator("#result .stage[data-zoom]")).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "de"


def test_all_of_it_by_keyboard_alone(page: Page) -> None:
    def go_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"Tab never comes to {selector}")

    go_to("#examples button")
    page.keyboard.press("Enter")
    classified(page, EN["truth"].format(label=EN["label_NORMAL"]))
    go_to(f".toolbar button[aria-label='{EN['tool_map']}']")
    page.keyboard.press("Enter")
    expect(page.locator(".stage")).to_have_attribute("data-panes", "1")
    page.keyboard.press("m")
    expect(page.locator(".stage")).to_have_attribute("data-panes", "2")
    go_to(".stage")
    page.keyboard.press("+")
    expect(page.locator(".stage")).to_have_attribute("data-zoom", "1.25")
    go_to("button[aria-controls=adjust]")
    page.keyboard.press("Enter")
    go_to("input[name=point]")
    page.keyboard.press("ArrowDown")
    assert shown_json(page)["operating_point"]["name"] == "screening"
    go_to("#adjust select")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".stage")).not_to_have_attribute("data-map", "NORMAL")
    go_to(".details summary")
    page.keyboard.press("Enter")
    expect(page.locator(".details details").first).to_have_attribute("open", "")
    go_to("footer a")


def test_wcag_aa_and_the_width_hold_in_every_state(visit: Visit, tmp_path: Path) -> None:
    """On a desktop and on a phone; of a dark page, colours are all that differs."""
    page = visit.page

    def check(state: str) -> None:
        for width in (1366, 390):
            page.set_viewport_size({"width": width, "height": 844})
            for scheme, rules in (
                ("light", ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]),
                ("dark", ["color-contrast"]),
            ):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                options = {"runOnly": rules, "resultTypes": ["violations"]}
                found = Axe().run(page, options=options).response["violations"]
                said = [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]
                assert said == [], (state, width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, state

    adjust(page)
    page.evaluate("document.querySelectorAll('details').forEach((x) => { x.open = true; })")
    expect(page.locator("#failures button").first).to_be_visible()
    check("example")
    (tmp_path / "notes.txt").write_text("no image " * 20)
    give(page, *EXAMPLES[::3], tmp_path / "notes.txt")
    finished(page, 6, 7)
    check("comparison")
    page.locator("tr[data-verdict=uncertain] button.name").first.click()
    expect(page.locator(".answer[data-verdict=uncertain]")).to_be_visible()
    check("uncertain")
    page.keyboard.press("End")
    classified(page, "notes.txt")
    check("rejected")
    page.route("**/page/**", lambda route: route.abort())
    give(page, NORMAL)
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute_all()
    check("failure")
    visit.forgive()


def test_a_phone_has_footer_revision_and_a_disclaimer_that_is_always_in_view(
    visits: Callable[..., Visit], bundled: Classifier
) -> None:
    page = visits(390, 844).page
    for name in ("model_card", "source_code", "api", "licence"):
        expect(page.get_by_role("contentinfo").get_by_role("link", name=EN[name])).to_be_visible()
    whole = page.locator("#revision code")
    expect(whole).to_be_hidden()
    page.locator("#revision summary").click()
    expect(whole).to_have_text(bundled.revision)
    for end in ("0", "document.body.scrollHeight"):
        page.evaluate(f"scrollTo(0, {end})")
        expect(page.locator("#top p strong")).to_be_in_viewport()


def test_the_page_has_its_own_icon_title_and_card(page: Page) -> None:
    expect(page).to_have_title(re.compile("PneumoCAM"))
    assert "icon.svg" in (page.locator("link[rel=icon]").get_attribute("href") or "")
    card = page.locator("meta[property='og:image']").get_attribute("content") or ""
    response = page.request.get(page.evaluate("(card) => new URL(card, location.href).href", card))
    assert response.ok
    assert response.headers["content-type"] == "image/png"


def test_the_first_visit_is_light_and_the_second_lighter(visit: Visit) -> None:
    page = visit.page
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))

    def weigh() -> float:
        sizes.clear()
        page.reload()
        expect(page.locator("#result .stage[data-zoom]")).to_be_visible()
        page.wait_for_load_state("networkidle")
        return sum(sizes)

    session.send("Network.clearBrowserCache")
    first = weigh()
    assert first <= FIRST_VISIT
    assert weigh() < first / 4


def test_no_upload_is_named_in_the_log(app: App, page: Page, tmp_path: Path) -> None:
    (tmp_path / "Hans-Castorp.jpeg").write_bytes(NORMAL.read_bytes())
    (tmp_path / "Clawdia.txt").write_text("no image " * 20)
    give(page, tmp_path / "Hans-Castorp.jpeg", tmp_path / "Clawdia.txt")
    finished(page, 1, 2)
    saved(page, "save_zip")
    log = app.log.read_text()
    assert "Castorp" not in log
    assert "Clawdia" not in log
