"""A page in headless Chromium, as the tests of the page and of /docs open it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.service import Service
from tests.tools import needs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Every console message is an error of the page, except what the browser logs for failed requests.
EXPECTED = re.compile(r"Failed to load resource|net::ERR_")


def launched() -> Iterator[Browser]:
    """Headless Chromium with an empty profile; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = needs("chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, headless=True, args=ARGUMENTS)
        yield started
        started.close()


class Viewer:
    """A page, its console messages, and the URLs that it requested."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(60_000)
        page.on("console", lambda line: self.said.append(line.text) if line.type != "log" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, service: Service) -> Page:
        """Opens the page and waits until it shows that the service is ready."""
        self.page.goto(service.base_url)
        self.page.wait_for_selector('#state[data-state="ready"]')
        return self.page

    @property
    def problems(self) -> list[str]:
        """Unexpected console messages."""
        return [line for line in self.said if not EXPECTED.search(line)]


def viewing(browser: Browser) -> Iterator[Viewer]:
    """A new profile for each test. Unexpected console messages fail the test.

    It asks for less motion: without a graphics card, the moving picture takes most of a core.
    """
    context = browser.new_context(
        viewport={"width": 1200, "height": 900}, accept_downloads=True, reduced_motion="reduce"
    )
    made = Viewer(context.new_page())
    yield made
    context.close()
    assert made.problems == []
