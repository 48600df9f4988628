"""The web page in a real browser, with a real service behind it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batcher.worker.queue import WorkerQueue
from tests.integration.test_queue_contract import RECORD
from tests.mill import Mill, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.e2e

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


def _chromium() -> str | None:
    named = os.environ.get("TEST_CHROMIUM")
    return (
        named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium with an empty profile."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if (path := _chromium()) is None:
        pytest.skip("no chromium on PATH, and TEST_CHROMIUM names none")
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
        page.set_default_timeout(15_000)
        page.on("console", lambda line: self.said.append(line.text) if line.type != "log" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, mill: Mill) -> Page:
        """Opens the page and waits until it shows that the service is ready."""
        self.page.goto(mill.base_url)
        self.page.wait_for_selector('#state[data-state="ready"]')
        return self.page

    @property
    def problems(self) -> list[str]:
        """Unexpected console messages."""
        return [line for line in self.said if not EXPECTED.search(line)]


@pytest.fixture
def viewer(browser: Browser) -> Iterator[Viewer]:
    """A new profile for each test. Unexpected console messages fail the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    made = Viewer(context.new_page())
    yield made
    context.close()
    assert made.problems == []


MakeMill = Callable[..., Mill]


def test_a_text_is_computed_first_and_known_the_second_time(mill: MakeMill, viewer: Viewer) -> None:
    made = mill(stub_batch_ms=20)
    page = viewer.open(made)
    page.fill("#texts", "I hate you.\n\nI love you.\n<b>bold</b>")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('#outcome [data-cache="MISS"]')
    assert page.locator("#answers .text").all_inner_texts() == ["I hate you.", "I love you.", "<b>bold</b>"]
    assert page.locator("#answers li").first.locator(".label").all_inner_texts() == ["NEGATIVE", "POSITIVE"]
    shown = page.locator("#answers li .number.best").first.inner_text()
    expected = max(pair["score"] for pair in made.predict("I hate you.").json()["predictions"][0])
    assert shown == f"{100 * expected:.1f} %"
    stages = page.eval_on_selector_all("#waterfall [data-stage]", "all => all.map(one => one.dataset.stage)")
    assert stages == ["cache", "queue", "tokenize", "model", "other"]
    assert "in a batch of 3" in page.inner_text("#outcome")

    page.click("#classify")
    page.wait_for_selector('#outcome [data-cache="HIT"]')
    stages = page.eval_on_selector_all("#waterfall [data-stage]", "all => all.map(one => one.dataset.stage)")
    assert stages == ["cache", "other"]
    assert all(url.startswith((made.base_url, "blob:")) for url in viewer.asked)


def test_batches_are_seen_as_they_close(mill: MakeMill, viewer: Viewer) -> None:
    made = mill(stub_batch_ms=5)
    page = viewer.open(made)
    made.predict("one two three", "four five", "six")
    page.wait_for_selector("#batches [data-reason]")
    assert page.locator("#batches li").first.inner_text().startswith("3 texts · ")
    page.wait_for_function("document.querySelector('[data-figure=\"worked\"]').textContent !== '0'")
    assert page.locator("#chart-texts path.first").count() == 1


def test_a_dropped_file_becomes_a_job_whose_results_can_be_saved(
    mill: MakeMill, viewer: Viewer, tmp_path: Path
) -> None:
    made = mill()
    made.start_jobs()
    page = viewer.open(made)
    page.set_input_files(
        "#file",
        {"name": "texts.csv", "mimeType": "text/csv", "buffer": b"text\n" + b"a line\nanother\n" * 300},
    )
    page.wait_for_selector('#jobs [data-status="finished"]', timeout=40_000)
    assert "600 of 600 texts" in page.inner_text("#jobs")
    with page.expect_download() as saved:
        page.click("#jobs >> text=Results as CSV")
    content = Path(saved.value.path()).read_text().splitlines()
    assert content[0] == "index,label,score,error"
    assert len(content) == 601
    page.click("#jobs >> text=Remove")
    page.wait_for_selector("#jobs li", state="detached")


def test_a_file_that_is_none_is_refused_in_words(mill: MakeMill, viewer: Viewer) -> None:
    page = viewer.open(mill())
    page.set_input_files("#file", {"name": "x.csv", "mimeType": "text/csv", "buffer": b"name\nsomebody\n"})
    page.wait_for_selector("#job-problem:not([hidden])")
    assert 'must name one column "text"' in page.inner_text("#job-problem")


def test_a_killed_worker_is_seen(mill: MakeMill, viewer: Viewer) -> None:
    made = mill(workers=2, lease_ms=500)
    page = viewer.open(made)
    wait_until(lambda: page.locator("#workers li").count() == 2, "two workers on the page")
    made.workers[0].kill()
    lost = page.wait_for_selector('#workers [data-state="lost"]')
    assert f"-{made.workers[0].pid}-" in lost.inner_text()
    made.workers[1].kill()
    page.wait_for_selector('#state[data-state="unready"]')
    assert "no worker" in page.inner_text("#state")
    page.click("#classify")
    page.wait_for_selector("#problem:not([hidden])")
    assert "no workers are running" in page.inner_text("#problem")


def test_a_worker_that_fell_back_to_another_arithmetic_is_seen_beside_the_model(
    mill: MakeMill, viewer: Viewer
) -> None:
    """Only /stats, /readyz and the log said so."""
    made = mill()
    page = viewer.open(made)
    page.wait_for_selector("#workers li[data-state]")
    assert page.locator("#fallback").is_hidden()
    why = "int8 weights in bf16, packed: a text of <b>17</b> tokens alone has another label"
    record = {**RECORD, "arithmetic": "f32", "fallback": why}
    with made.redis.client() as client:
        queue = WorkerQueue(client, "default", "fallen", lease_ms=2000, max_attempts=3, result_ms=1000)
        queue.beat([], record, {}, 60_000)
        shown = page.wait_for_selector("#fallback:not([hidden])")
        assert shown.inner_text() == "1 of 2 workers fell back to f32"
        assert shown.get_attribute("title") == f"fallen: {why}"
        queue.retire()
        page.wait_for_selector("#fallback", state="hidden")


def test_the_page_says_so_when_the_server_is_gone_and_recovers_when_it_is_back(
    mill: MakeMill, viewer: Viewer
) -> None:
    made = mill()
    page = viewer.open(made)
    made.api.kill()
    page.wait_for_selector('#state[data-state="gone"]')
    assert "Trying again" in page.inner_text("#state")
    assert page.evaluate("document.body.classList.contains('stale')")
    page.click("#classify")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem") == "The server does not answer."
    made.start_api()
    page.wait_for_selector('#state[data-state="ready"]')


def test_a_key_is_asked_for_and_kept_for_the_visit(mill: MakeMill, viewer: Viewer) -> None:
    from hashlib import sha256

    made = mill(api_keys=sha256(b"open sesame").hexdigest())
    page = viewer.page
    page.goto(made.base_url)
    page.wait_for_selector("#key-form:not([hidden])")
    assert "API key" in page.inner_text("#state")
    page.fill("#key", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector('#state[data-state="ready"]')
    page.click("#classify")
    page.wait_for_selector("#answers li")


def test_everything_can_be_reached_by_keyboard(mill: MakeMill, viewer: Viewer) -> None:
    page = viewer.open(mill())
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached[:4] == ["Skip to the form", "texts", "classify", "file"]
    assert reached[4] == "API documentation"


def test_nothing_is_wider_than_a_phone(mill: MakeMill, viewer: Viewer) -> None:
    made = mill()
    for width in (320, 390, 768):
        viewer.page.set_viewport_size({"width": width, "height": 800})
        page = viewer.open(made)
        page.click("#classify")
        page.wait_for_selector("#answers li")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_texts_stand_out_from_their_ground(mill: MakeMill, viewer: Viewer) -> None:
    """Text has a contrast of at least 4.5 to 1 (WCAG AA) in the light and the dark theme."""
    page = viewer.open(mill())
    inks, grounds = ("ink", "quiet", "water", "red", "amber"), ("paper", "card")
    page.emulate_media(color_scheme="light")
    light = {name: colour(page, name) for name in inks + grounds}
    page.emulate_media(color_scheme="dark")
    dark = {name: colour(page, name) for name in inks + grounds}
    assert light["paper"] > dark["paper"]
    for colours in (light, dark):
        for ink, ground in product(inks, grounds):
            assert contrast(colours[ink], colours[ground]) >= 4.5, f"{ink} on {ground}"


def colour(page: Page, name: str) -> tuple[float, ...]:
    said = page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}')").strip()
    return tuple(int(said[at : at + 2], 16) / 255 for at in (1, 3, 5))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The contrast ratio as defined by WCAG 2.1."""

    def luminance(channels: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
