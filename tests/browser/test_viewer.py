"""The viewer, by mouse, keyboard and touch; nothing that it does asks the server."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, CDPSession, Page, expect

from tests.browser.visit import BACTERIAL, EN, Visit, adjust, classified, drawn_frame, give, panes, stage_state
from tests.conftest import App


@pytest.fixture(scope="module")
def visit(app: App, browser: Browser) -> Iterator[Visit]:
    """One page for all tests, since none of them asks the server."""
    page = browser.new_page(viewport={"width": 1366, "height": 768}, reduced_motion="reduce")
    visit = Visit(page, app.url)
    give(page, BACTERIAL)
    classified(page, BACTERIAL.name)
    expect(page.locator(".stage")).to_have_css("--aspect", str(968 / 592))
    yield visit
    page.close()
    visit.check()


@pytest.fixture
def viewer(visit: Visit) -> Page:
    """The viewer as it is after a reset, with the focus."""
    visit.page.evaluate("scrollTo(0, 0)")
    visit.page.locator(".stage").focus()
    visit.page.keyboard.press("Space")
    reset = {"zoom": "1.00", "panes": "2", "map": "BACTERIAL", "window": "128 255", "turn": "1 0 0 1"}
    assert stage_state(visit.page) == reset
    return visit.page


def tool(page: Page, name: str) -> None:
    page.get_by_role("button", name=EN[f"tool_{name}"], exact=True).click()


def drag(page: Page, x: float, y: float, *, start: tuple[float, float] = (0.25, 0.5), button: str = "left") -> None:
    """From a place on the stage, as shares of its width and height, by a number of pixels."""
    box = page.locator(".stage").bounding_box()
    assert box
    left, top = box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"]
    page.mouse.move(left, top)
    page.mouse.down(button=button)  # type: ignore[arg-type]
    page.mouse.move(left + x / 2, top + y / 2)
    page.mouse.move(left + x, top + y)
    page.mouse.up(button=button)  # type: ignore[arg-type]


def test_the_map_goes_off_and_on_by_its_button_and_by_m(viewer: Page, visit: Visit) -> None:
    height = viewer.locator(".stage").bounding_box()
    with visit.quiet():
        presses: list[Callable[[], None]] = [lambda: tool(viewer, "map"), lambda: viewer.keyboard.press("m")]
        for press in presses:
            press()
            state = stage_state(viewer)
            assert (state["panes"], state["map"]) == ("1", "")
            expect(viewer.get_by_role("button", name=EN["tool_map"])).to_have_attribute("aria-pressed", "false")
            assert viewer.locator(".stage").bounding_box() == height  # what is compared by switching does not move
            press()
            state = stage_state(viewer)
            assert (state["panes"], state["map"]) == ("2", "BACTERIAL")


def test_window_and_level_follow_a_drag_and_space_resets_them(viewer: Page, visit: Visit) -> None:
    whole = panes(viewer)
    with visit.quiet():
        drag(viewer, 0, 60)
        assert stage_state(viewer)["window"] == "158 255"
        darker = panes(viewer)
        assert darker[0].mean() < whole[0].mean() - 20
        assert darker[1].mean() < whole[1].mean() - 10  # the map lies over the darker image
        drag(viewer, -100, 0)
        assert stage_state(viewer)["window"] == "158 155"
        viewer.locator(".stage").focus()
        viewer.keyboard.press("Space")
        assert stage_state(viewer)["window"] == "128 255"
        assert abs(panes(viewer)[0] - whole[0]).max() == 0


def test_inverting_turns_grey_levels_round(viewer: Page) -> None:
    before = panes(viewer)[0]
    viewer.keyboard.press("i")
    assert abs(panes(viewer)[0] - (255 - before)).mean() < 1
    expect(viewer.get_by_role("button", name=EN["tool_invert"])).to_have_attribute("aria-pressed", "true")
    tool(viewer, "invert")
    assert abs(panes(viewer)[0] - before).max() == 0


@pytest.mark.parametrize(
    ("key", "axes", "turn"),
    [("h", lambda x: x[:, ::-1], "-1 0 0 1"), ("v", lambda x: x[::-1], "1 0 0 -1")],
    ids=["horizontal", "vertical"],
)
def test_flips_show_the_image_flipped_and_the_caption_says_mirrored(
    viewer: Page, key: str, axes: Callable[..., object], turn: str
) -> None:
    before = panes(viewer)
    expect(viewer.locator(".mirrored")).to_be_hidden()
    viewer.keyboard.press(key)
    assert stage_state(viewer)["turn"] == turn
    for shown, unturned in zip(panes(viewer), before, strict=True):
        assert abs(shown - axes(unturned)).mean() < 1
    expect(viewer.locator(".mirrored")).to_be_visible()
    viewer.keyboard.press(key)
    expect(viewer.locator(".mirrored")).to_be_hidden()


def test_r_and_l_rotate(viewer: Page) -> None:
    viewer.keyboard.press("r")
    assert stage_state(viewer)["turn"] == "0 1 -1 0"
    viewer.keyboard.press("l")
    assert stage_state(viewer)["turn"] == "1 0 0 1"


def test_zoom_by_keys_buttons_wheel_and_right_drag(viewer: Page, visit: Visit) -> None:
    with visit.quiet():
        viewer.keyboard.press("+")
        assert stage_state(viewer)["zoom"] == "1.25"
        tool(viewer, "in")
        assert stage_state(viewer)["zoom"] == "1.56"
        tool(viewer, "out")
        viewer.keyboard.press("-")
        assert stage_state(viewer)["zoom"] == "1.00"
        drag(viewer, 0, -60, button="right")
        assert float(stage_state(viewer)["zoom"]) == pytest.approx(1.49, abs=0.02)
        viewer.keyboard.press("=")
        assert stage_state(viewer)["zoom"] == "1.00"
        viewer.locator(".stage").focus()
        viewer.locator(".stage").hover(position={"x": 50, "y": 50})
        viewer.mouse.wheel(0, -300)
        expect(viewer.locator(".stage")).not_to_have_attribute("data-zoom", "1.00")
        assert float(stage_state(viewer)["zoom"]) > 1.5


def test_the_wheel_scrolls_the_page_unless_the_viewer_has_the_focus(viewer: Page) -> None:
    viewer.get_by_role("button", name=EN["adjust"], exact=True).focus()
    viewer.locator(".stage").hover(position={"x": 50, "y": 50})
    viewer.mouse.wheel(0, 200)
    viewer.evaluate("new Promise((done) => scrollY ? done() : addEventListener('scroll', done, {once: true}))")
    assert stage_state(viewer)["zoom"] == "1.00"


def test_actual_size_is_one_pixel_of_the_image_on_one_of_the_screen(viewer: Page) -> None:
    viewer.keyboard.press("1")
    width = 968  # of the image, which is not made smaller for the page
    pane = viewer.locator(".stage").evaluate("stage => (stage.clientWidth - 8) / 2")
    height = viewer.locator(".stage").evaluate("stage => stage.clientHeight")
    fit = min(pane / width, height / 592)
    assert float(stage_state(viewer)["zoom"]) == pytest.approx(1 / fit, abs=0.01)


def test_a_zoomed_image_moves_with_pointer_and_arrows(viewer: Page) -> None:
    for _ in range(4):
        viewer.keyboard.press("+")
    before = panes(viewer)[0]
    drag(viewer, 60, 0)
    moved = panes(viewer)[0]
    assert abs(moved - before).mean() > 2
    assert stage_state(viewer)["window"] == "128 255"  # it was not the contrast that changed
    viewer.keyboard.press("ArrowRight")
    assert abs(panes(viewer)[0] - moved).mean() > 2
    tool(viewer, "contrast")
    drag(viewer, 0, 60)
    assert stage_state(viewer)["window"] == "158 255"


def test_image_and_map_can_lie_under_one_divider(viewer: Page, visit: Visit) -> None:
    plain, mapped = panes(viewer)
    with visit.quiet():
        tool(viewer, "layout")
        divider = viewer.get_by_role("slider", name=EN["divider"])
        expect(divider).to_have_attribute("aria-valuenow", "50")
        divider.focus()
        viewer.keyboard.press("End")
        assert abs(panes(viewer)[0] - plain).mean() < 3
        viewer.keyboard.press("Home")
        assert abs(panes(viewer)[0] - mapped).mean() < 3
        viewer.keyboard.press("ArrowRight")
        expect(divider).to_have_attribute("aria-valuenow", "5")
        for _ in range(9):
            viewer.keyboard.press("ArrowRight")
        drawn_frame(viewer)
        drag(viewer, 120, 0, start=(0.5, 0.3))
        assert int(divider.get_attribute("aria-valuenow") or 0) > 55
        assert stage_state(viewer)["window"] == "128 255"
        tool(viewer, "layout")
        assert stage_state(viewer)["panes"] == "2"


def test_full_screen_and_back_and_what_the_keys_do(viewer: Page) -> None:
    keys = viewer.get_by_role("button", name=EN["keys"])
    keys.click()
    expect(keys).to_have_attribute("aria-expanded", "true")
    expect(viewer.locator("#viewer-help")).to_be_in_viewport(ratio=1)
    keys.click()
    button = viewer.get_by_role("button", name=EN["tool_full"])
    viewer.keyboard.press("f")
    expect(button).to_have_attribute("aria-pressed", "true")
    assert viewer.evaluate("document.fullscreenElement.contains(document.querySelector('.stage'))")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")


def test_keys_belong_to_the_viewer_alone(viewer: Page) -> None:
    """A letter typed elsewhere, or with a modifier, changes nothing."""
    viewer.locator("#files").focus()
    viewer.keyboard.press("m")
    viewer.locator(".stage").focus()
    viewer.keyboard.press("Control+i")
    target = adjust(viewer).get_by_label(EN["target"])
    target.focus()
    viewer.keyboard.press("v")  # chooses the class that begins with it
    state = stage_state(viewer)
    assert (state["map"], state["turn"], state["window"]) == ("VIRAL", "1 0 0 1", "128 255")
    target.select_option("BACTERIAL")


def test_no_label_lies_on_the_image(viewer: Page) -> None:
    assert viewer.locator(".stage").inner_text().strip() == ""
    stage = viewer.locator(".stage").bounding_box()
    captions = viewer.locator(".captions").bounding_box()
    assert stage
    assert captions
    assert captions["y"] >= stage["y"] + stage["height"]


def fingers(session: CDPSession, kind: str, *points: tuple[float, float]) -> None:
    touches = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})


def test_two_fingers_zoom_and_one_moves_the_divider(visits: Callable[..., Visit]) -> None:
    page = visits(390, 844, has_touch=True, is_mobile=True).page
    stage = page.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)
    fingers(session, "touchStart", (x, y))
    fingers(session, "touchMove", (x + 30, y))
    fingers(session, "touchMove", (x + 60, y))
    fingers(session, "touchEnd")
    drawn_frame(page)
    divider = page.get_by_role("slider", name=EN["divider"])
    assert int(divider.get_attribute("aria-valuenow") or 0) > 60
    tool(page, "in")  # the browser leaves all touches to a zoomed image
    before = float(stage_state(page)["zoom"])
    fingers(session, "touchStart", (x - 30, y), (x + 30, y))
    fingers(session, "touchMove", (x - 60, y), (x + 60, y))
    fingers(session, "touchEnd")
    assert float(stage_state(page)["zoom"]) == pytest.approx(2 * before, rel=0.1)
