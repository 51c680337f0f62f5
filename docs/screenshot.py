"""Take docs/page.jpg, the README's picture of the page: `make screenshot`. It shows one of the examples."""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.conftest import running_app

EXAMPLE = "#examples button >> nth=-1"
WIDTH, HEIGHT = 1280, 900


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder)) as app, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.25, reduced_motion="reduce"
        )
        page.goto(app.url)
        page.locator(EXAMPLE).click()
        expect(page.locator("#results canvas").first).to_be_visible(timeout=60_000)
        page.mouse.move(0, 0)
        data = page.screenshot(animations="disabled")
        browser.close()
    Image.open(io.BytesIO(data)).convert("RGB").save(Path(__file__).with_name("page.jpg"), quality=85, optimize=True)


if __name__ == "__main__":
    main()
