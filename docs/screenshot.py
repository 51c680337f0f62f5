"""Take docs/page.jpg, README's picture of the page, and draw web/card.png, its card for social media: `make screenshot`."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1366, 768  # of the picture of the page, in CSS pixels
CARD = {"width": 1200, "height": 630}


def main() -> None:
    """Start the page on a free port of its own, and take both pictures."""
    environment = os.environ | {"GRADIO_SERVER_PORT": "7899", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "app.py"]
    with subprocess.Popen(command, cwd=HERE.parent, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        served = next(line for line in process.stdout if "http://" in line)
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                take_page(browser, next(word for word in served.split() if word.startswith("http://")))
                draw_card(browser)
                browser.close()
        finally:
            process.terminate()


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
    page = browser.new_page(viewport=CARD)  # type: ignore[arg-type]
    page.goto((HERE / "card.svg").as_uri())
    with Image.open(io.BytesIO(page.screenshot())) as card:
        card.convert("RGB").save(HERE.parent / "web" / "card.png", optimize=True)


if __name__ == "__main__":
    main()
