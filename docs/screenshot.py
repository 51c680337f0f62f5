"""Take docs/page.jpg, the README's picture of the page: `make screenshot`. It shows one of the examples."""

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from app import LOOK, build
from pneumocam import Classifier

EXAMPLE = "#examples button >> nth=-1"
WIDTH, HEIGHT = 1280, 900


def main() -> None:
    demo = build(Classifier.from_pretrained())
    _, url, _ = demo.launch(
        **LOOK, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, footer_links=["api"], ssr_mode=False
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.25, reduced_motion="reduce"
        )
        page.goto(url)
        page.locator(EXAMPLE).click()
        expect(page.locator(".stage")).to_be_visible(timeout=60_000)
        page.locator(".slide input").fill("38")
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")
        shown = page.locator(".reading").bounding_box()
        assert shown
        foot = shown["y"] + shown["height"] + 24
        data = page.screenshot(
            full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": foot}, animations="disabled"
        )
        browser.close()
    demo.close()
    Image.open(io.BytesIO(data)).convert("RGB").save(Path(__file__).with_name("page.jpg"), quality=85, optimize=True)


if __name__ == "__main__":
    main()
