"""Visits of the page."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.visit import TIMEOUT, Visit
from tests.conftest import App


@pytest.fixture(scope="session", autouse=True)
def _patience() -> None:
    expect.set_options(timeout=TIMEOUT)


@pytest.fixture
def visits(app: App, browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Open the page, in any size, colour scheme or language; afterwards see whether it reported errors."""
    opened: list[Visit] = []

    def visit(width: int = 1366, height: int = 768, **options: Any) -> Visit:
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        opened.append(Visit(page, app.url))
        return opened[-1]

    yield visit
    for visited in opened:
        visited.page.close()
        visited.check()


@pytest.fixture
def visit(visits: Callable[..., Visit]) -> Visit:
    """The page on a small laptop."""
    return visits()


@pytest.fixture
def page(visit: Visit) -> Page:
    """As `visit`."""
    return visit.page
