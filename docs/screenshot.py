"""`make screenshot`: docs/page.jpg, README's picture of the page, and web/card.png, its card for social media."""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from tests.conftest import running_app

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1366, 768  # of the picture of the page, in CSS pixels


def main() -> None:
    """Start the page, and take both pictures."""
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder)) as app, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        take_page(browser, app.url)
        draw_card(browser)
        browser.close()


def take_page(browser: Browser, url: str) -> None:
    """docs/page.jpg: the first screen, with the example that the page begins with."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.25)
    page.goto(url)
    expect(page.locator("#result .stage[data-zoom]")).to_be_visible(timeout=60_000)
    page.wait_for_load_state("networkidle")
    data = page.screenshot(animations="disabled")
    Image.open(io.BytesIO(data)).convert("RGB").save(HERE / "page.jpg", quality=85, optimize=True)


def draw_card(browser: Browser) -> None:
    """web/card.png from docs/card.svg."""
    page = browser.new_page(viewport={"width": 1200, "height": 630})
    page.goto((HERE / "card.svg").as_uri())
    card = Image.open(io.BytesIO(page.screenshot()))
    card.convert("RGB").save(HERE.parent / "web" / "card.png", optimize=True)


if __name__ == "__main__":
    main()
