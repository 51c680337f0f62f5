"""A visitor of the page: opens it, gives it images, reads what it shows."""

import base64
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Download, Locator, Page, expect

from pneumocam import Prediction
from tests.conftest import EXAMPLES

TIMEOUT = 60_000  # ms, on cores that are busy
TEXTS: dict[str, dict[str, str]] = {
    path.stem: json.loads(path.read_text()) for path in (Path(__file__).parents[2] / "web" / "i18n").glob("*.json")
}
EN = TEXTS["en"]
BACTERIAL = next(path for path in EXAMPLES if "bacteria" in path.name)
NORMAL = next(path for path in EXAMPLES if "NORMAL" in path.name)


class Visit:
    """A page, and what it has asked of the network."""

    def __init__(self, page: Page, url: str) -> None:
        """Open the page and wait for the example that it begins with."""
        self.page, self.host = page, url.removeprefix("http://")
        self.requests: list[str] = []
        self.failures: list[str] = []
        page.set_default_timeout(TIMEOUT)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.failures.append(str(error)))
        page.on("console", lambda message: self.failures.append(message.text) if message.type == "error" else None)
        page.goto(url)
        expect(page.locator("#result .stage[data-zoom]")).to_be_visible()

    def check(self) -> None:
        """No error was reported, and nothing was asked of another host."""
        assert self.failures == []
        assert {url.split("/")[2] for url in self.requests if url.startswith(("http", "ws"))} == {self.host}

    def forgive(self) -> None:
        """Forget the failed requests that the test has made itself."""
        assert self.failures
        assert all(re.search(r"ERR_FAILED|\b(429|500|503|507)\b", failure) for failure in self.failures)
        self.failures.clear()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing may be asked of the server meanwhile."""
        before = len(self.requests)
        yield
        assert [url for url in self.requests[before:] if not url.startswith(("data:", "blob:"))] == []


def give(page: Page, *images: Path) -> None:
    """Choose files."""
    page.set_input_files("#files", images)


def classified(page: Page, name: str) -> Locator:
    """The card of that image, once its picture is drawn."""
    expect(page.locator("#result .eyebrow")).to_contain_text(name)
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    return page.locator("#result > .card")


def finished(page: Page, images: int, total: int) -> None:
    """Wait until the table is complete."""
    expect(page.locator("#compare")).to_contain_text(EN["finished"].format(classified=images, total=total))


def adjust(page: Page) -> Locator:
    """The open settings."""
    button = page.get_by_role("button", name=EN["adjust"], exact=True)
    if button.get_attribute("aria-expanded") == "false":
        button.click()
    return page.locator("#adjust")


def shown_json(page: Page) -> Any:
    """The prediction as the page offers it for copying."""
    return json.loads(page.locator(".details pre").text_content() or "")


def as_json(prediction: Prediction) -> Any:
    """The same from Python."""
    return json.loads(json.dumps(prediction.to_dict(prediction.explain() if prediction.label else None)))


def panes(page: Page) -> list[np.ndarray]:
    """What is drawn on the stage, pane by pane, cut to the image and made small."""
    stage = page.locator(".stage")
    drawn_frame(page)
    data = stage.locator("canvas").evaluate("canvas => canvas.toDataURL()")
    aspect = float(stage.evaluate("stage => stage.style.getPropertyValue('--aspect')"))
    count = int(stage.get_attribute("data-panes") or 0)
    with Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))) as canvas:
        gap = 8 * canvas.width / stage.evaluate("stage => stage.clientWidth")
        pane = (canvas.width - (count - 1) * gap) / count
        width, height = min(pane, canvas.height * aspect), min(pane / aspect, canvas.height)
        top = (canvas.height - height) / 2
        lefts = [i * (pane + gap) + (pane - width) / 2 for i in range(count)]
        return [small(canvas, (left, top, left + width, top + height)) for left in lefts]


def drawn_frame(page: Page) -> None:
    """Wait until what was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def small(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """(100, 100, 3), so that neither JPEG's noise nor how pixels fall counts."""
    return np.asarray(image.convert("RGB").resize((100, 100), Image.Resampling.BOX, box=box), np.float32)


def differ(shown: np.ndarray, expected: Image.Image) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(shown - small(expected)).mean())


def squashed(path: Path, width: int, height: int, folder: Path) -> Path:
    """That image in another shape."""
    with Image.open(path) as image:
        image.convert("L").resize((width, height)).save(folder / f"{width}x{height}.png")
    return folder / f"{width}x{height}.png"


def saved(page: Page, button: str) -> Download:
    """Press a button that downloads a file."""
    with page.expect_download() as download:
        page.get_by_role("button", name=EN[button], exact=True).click()
    return download.value


def content(download: Download) -> bytes:
    """What was downloaded."""
    return Path(download.path()).read_bytes()


def stage_state(page: Page) -> dict[str, str]:
    """Zoom, window, turn, map and panes of the viewer."""
    drawn_frame(page)
    state: dict[str, str] = page.locator(".stage").evaluate("stage => ({...stage.dataset})")
    return state


def names(page: Page) -> list[str]:
    """The files of the table from top to bottom."""
    return [re.sub(r"\s", "", name) for name in page.locator("#compare tbody .file").all_text_contents()]
