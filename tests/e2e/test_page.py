"""The web page in a real browser, with a real service behind it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

import pytest

from batcher.worker.queue import WorkerQueue
from tests.e2e.browser import Viewer
from tests.integration.test_queue_contract import RECORD
from tests.mill import Mill, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.e2e

MakeMill = Callable[..., Mill]


def test_a_text_is_computed_first_and_known_the_second_time(house: Mill, viewer: Viewer) -> None:
    page = viewer.open(house)
    page.fill("#texts", "I hate you.\n\nI love you.\n<b>bold</b>")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('#outcome [data-cache="MISS"]')
    assert page.locator("#answers .text").all_inner_texts() == ["I hate you.", "I love you.", "<b>bold</b>"]
    assert page.locator("#answers li").first.locator(".label").all_inner_texts() == ["NEGATIVE", "POSITIVE"]
    shown = page.locator("#answers li .number.best").first.inner_text()
    expected = max(pair["score"] for pair in house.predict("I hate you.").json()["predictions"][0])
    assert shown == f"{100 * expected:.1f} %"
    stages = page.eval_on_selector_all("#waterfall [data-stage]", "all => all.map(one => one.dataset.stage)")
    assert stages == ["cache", "queue", "tokenize", "model", "other"]
    assert "in a batch of 3" in page.inner_text("#outcome")

    page.click("#classify")
    page.wait_for_selector('#outcome [data-cache="HIT"]')
    stages = page.eval_on_selector_all("#waterfall [data-stage]", "all => all.map(one => one.dataset.stage)")
    assert stages == ["cache", "other"]
    assert all(url.startswith((house.base_url, "blob:")) for url in viewer.asked)


def test_batches_are_seen_as_they_close(house: Mill, viewer: Viewer) -> None:
    page = viewer.open(house)
    house.predict("one two three", "four five", "six")
    page.wait_for_selector("#batches [data-reason]")
    page.wait_for_selector("#batches li:first-child >> text=/^3 texts · /")
    page.locator("#batches summary").first.press("Enter")
    details = page.inner_text("#batches li:first-child p")
    assert "tokens" in details
    assert "; waited " in details
    page.wait_for_function("document.querySelector('[data-figure=\"worked\"]').textContent !== '0/s'")
    assert page.locator("#chart-texts path.first").count() == 1


def test_a_killed_worker_is_seen(mill: MakeMill, viewer: Viewer) -> None:
    made = mill(workers=2, lease_ms=500)
    page = viewer.open(made)
    wait_until(lambda: page.locator("#workers li").count() == 2, "two workers on the page")
    made.workers[0].kill()
    lost = page.wait_for_selector('#workers [data-state="lost"]')
    assert f"-{made.workers[0].pid}-" in lost.inner_text()
    made.workers[1].kill()
    page.wait_for_selector("#state >> text=Not ready: no worker is running")
    assert page.inner_text('#banners [data-problem="unready"]') == "Not ready: no worker is running."
    page.click("#classify")
    page.wait_for_selector("#problem:not([hidden])")
    assert "no workers are running" in page.inner_text("#problem")


def test_a_worker_that_fell_back_to_another_arithmetic_is_seen_first(house: Mill, viewer: Viewer) -> None:
    """Only /stats, /readyz and the log said so."""
    page = viewer.open(house)
    page.wait_for_selector("#workers li[data-state]")
    assert page.locator("#banners li").count() == 0
    why = "int8 weights in bf16, packed: a text of <b>17</b> tokens alone has another label"
    record = {**RECORD, "arithmetic": "f32", "fallback": why}
    with house.redis.client() as client:
        queue = WorkerQueue(client, "default", "fallen", lease_ms=2000, max_attempts=3, result_ms=1000)
        queue.beat([], record, {}, 60_000)
        banner = page.locator('#banners [data-problem="fallback"]')
        assert banner.locator("summary").inner_text() == "1 of 2 workers fell back to f32."
        banner.locator("summary").press("Enter")
        assert banner.locator("p").inner_text() == f"fallen: {why}"
        queue.retire()
        banner.wait_for(state="detached")


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


def test_everything_can_be_reached_by_keyboard(house: Mill, viewer: Viewer) -> None:
    page = viewer.open(house)
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["Skip to the form", "texts", "classify", "together", "single", reached[-1]]
    for wanted in ("file", "API documentation"):
        for _ in range(60):
            if reached[-1] == wanted:
                break
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert reached[-1] == wanted


def test_nothing_is_wider_than_a_phone(house: Mill, viewer: Viewer) -> None:
    for width in (320, 390, 768):
        viewer.page.set_viewport_size({"width": width, "height": 800})
        page = viewer.open(house)
        page.click("#classify")
        page.wait_for_selector("#answers li")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_texts_stand_out_from_their_ground(house: Mill, viewer: Viewer) -> None:
    """Text has a contrast of at least 4.5 to 1 (WCAG AA) in the light and the dark theme."""
    page = viewer.open(house)
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
