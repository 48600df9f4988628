"""What visitors of the page do: classify, drop files, press buttons while everything changes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.browser import Viewer
from tests.mill import Mill, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.e2e

COUNT_FRAMES = """
window.frames_asked = 0;
const ask = window.requestAnimationFrame;
window.requestAnimationFrame = (then) => { window.frames_asked += 1; return ask.call(window, then); };
"""
# Waits of seconds become waits of a tenth of that.
HASTEN = """
const wait = window.setTimeout, timeout = AbortSignal.timeout;
window.setTimeout = (then, ms, ...more) => wait.call(window, then, ms / 10, ...more);
AbortSignal.timeout = (ms) => timeout.call(AbortSignal, ms / 10);
"""


@pytest.fixture(autouse=True)
def _without_jobs(house: Mill) -> Iterator[None]:
    yield
    for job in house.http.get("/jobs").json()["jobs"]:
        house.http.delete(f"/jobs/{job['id']}")
        house.http.delete(f"/jobs/{job['id']}")


def drop(page: Page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})


def finished(page: Page, name: str) -> None:
    page.wait_for_selector(f'#jobs [data-status="finished"] >> text="{name}"', timeout=40_000)


def results(page: Page) -> tuple[str, list[str]]:
    with page.expect_download() as saved:
        page.click("#jobs >> text=Results as CSV")
    return saved.value.suggested_filename, Path(saved.value.path()).read_text().splitlines()


def test_the_first_lines_say_what_this_is(house: Mill, viewer: Viewer) -> None:
    page = viewer.open(house)
    assert page.inner_text(".tagline").startswith("Classifies texts. Texts that arrive together go through")
    assert page.locator(".figures dt").all_inner_texts() == [
        "texts waiting",
        "texts through the model",
        "texts in the latest batch",
        "Texts answered",
        "of them from the cache",
        "99 of 100 requests answered within",
    ]


def test_a_table_comes_back_with_all_its_columns(house: Mill, viewer: Viewer) -> None:
    """It came back as index, label, score: the texts had to be joined by hand."""
    page = viewer.open(house)
    table = 'id;text\r\n1;"good; ""very"" good"\r\n2;a line\r\n' + "3;more\r\n" * 300
    drop(page, "reviews.csv", table.encode())
    finished(page, "reviews.csv")
    assert "CSV, separated by semicolons, UTF-8" in page.inner_text("#jobs")
    assert "302 of 302 texts" in page.inner_text("#jobs")
    name, lines = results(page)
    assert name == "reviews-labelled.csv"
    assert lines[0] == "id;text;label;score;error"
    assert lines[1].startswith('1;"good; ""very"" good";')
    assert len(lines) == 303
    # After a reload the file is not at hand any more, but its texts are kept.
    viewer.open(house)
    finished(page, "reviews.csv")
    name, lines = results(page)
    assert (name, lines[0]) == ("reviews-labelled.csv", "index,text,label,score,error")
    assert lines[2].startswith("1,a line,")


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.json", b'[{"text": "one", "n": [1]}, "two"]', ["text,n,label,score,error", "one,[1],"]),
        ("a.ndjson", b'"one"\n\n{"text": "two", "id": 7}\n', ["text,id,label,score,error", "one,,"]),
        ("a.tsv", b"label\ttext\nx\tone\ny\ttwo\n", ["label,text,predicted_label,", "x,one,"]),
        ("a.txt", "one\n\nzwölf".encode("utf-16"), ["text,label,score,error", "one,"]),
    ],
)
def test_files_of_every_kind_are_joined(
    house: Mill, viewer: Viewer, name: str, content: bytes, first: list[str]
) -> None:
    page = viewer.open(house)
    drop(page, name, content)
    finished(page, name)
    _, lines = results(page)
    assert len(lines) == 3
    for line, start in zip(lines, first, strict=False):
        assert line.startswith(start)


def test_what_cannot_be_read_is_refused_with_a_way_out(house: Mill, viewer: Viewer) -> None:
    """A PNG became a job of 147 texts."""
    page = viewer.open(house)
    problem = page.locator("#job-problem")
    drop(page, "cat.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    page.wait_for_selector("#job-problem >> text=not a text file but a PNG image")
    drop(page, "a.csv", "id;Kritik\n1;schön\n".encode("cp1252"))
    page.wait_for_selector("#job-problem >> text=line 2: not valid UTF-8")
    problem.get_by_text("Read it as Windows-1252").click()
    page.wait_for_selector("#job-problem >> text=no column 'text'; the columns are 'id', 'Kritik'")
    problem.get_by_text("Use column Kritik").click()
    finished(page, "a.csv")
    assert problem.is_hidden()
    assert results(page)[1][1].startswith("1;schön;")


def test_a_file_may_be_dropped_anywhere(house: Mill, viewer: Viewer) -> None:
    """Beside the box, the browser left the page and opened the file."""
    page = viewer.open(house)
    data = page.evaluate_handle(
        "() => { const d = new DataTransfer(); d.items.add(new File(['a\\nb\\n'], 'beside.txt')); return d; }"
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("h1", event, {"dataTransfer": data})
    finished(page, "beside.txt")
    assert page.url.rstrip("/") == house.base_url


def test_no_press_of_a_button_is_lost(house: Mill, viewer: Viewer) -> None:
    """The list was built anew every second: of 60 presses of 120 ms, 53 arrived."""
    page = viewer.open(house)
    drop(page, "a.txt", b"one\ntwo\n")
    finished(page, "a.txt")
    page.evaluate(
        "window.presses = 0; document.querySelector('#jobs button')"
        ".addEventListener('click', (event) => { event.stopImmediatePropagation(); presses += 1; }, true)"
    )
    button = page.locator("#jobs button").first
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 10, box["y"] + 8)
    for _ in range(25):
        page.mouse.down()
        time.sleep(0.12)
        page.mouse.up()
    assert page.evaluate("presses") == 25


def test_a_removed_job_can_be_taken_back(house: Mill, viewer: Viewer) -> None:
    viewer.page.add_init_script(HASTEN)
    page = viewer.open(house)
    drop(page, "a.txt", b"one\n")
    finished(page, "a.txt")
    stop = page.locator("#jobs li button").last
    stop.evaluate("stop => { stop.click(); stop.click(); }")
    assert stop.inner_text() == "Remove"
    stop.click()
    assert stop.inner_text() == "Undo"
    page.wait_for_selector("#jobs li", state="detached")


def test_the_focus_stays_while_an_answer_is_awaited(house: Mill, viewer: Viewer) -> None:
    page = viewer.open(house)
    page.fill("#texts", "")
    page.keyboard.press("Control+Enter")
    assert page.inner_text("#problem") == "Enter a text first."
    waiting: list[Route] = []
    page.route("**/predict", lambda route: waiting.append(route))
    page.fill("#texts", "\n\none")
    page.focus("#classify")
    page.keyboard.press("Enter")
    page.wait_for_selector("#outcome >> text=Working …")
    assert page.locator("#problem").is_hidden(), "the old error was left beside the new request"
    assert page.evaluate("document.activeElement.id") == "classify"
    page.keyboard.press("Enter")  # does not send it twice
    (route,) = waiting
    detail = {"detail": "text 0 is longer than 20000 characters", "code": "text_too_long", "index": 0}
    route.fulfill(status=413, json=detail)
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem") == "Line 3: is longer than 20000 characters"
    assert page.evaluate("document.activeElement.id") == "classify"


def test_a_request_without_an_answer_is_given_up(house: Mill, viewer: Viewer) -> None:
    viewer.page.add_init_script(HASTEN)
    page = viewer.open(house)
    page.route("**/predict", lambda route: None)
    page.click("#classify")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem") == "The server took too long and the request was given up."


def test_fifty_at_once_are_compared_with_fifty_one_by_one(house: Mill, viewer: Viewer) -> None:
    page = viewer.open(house)
    page.click("#together")
    page.wait_for_selector("#together-time >> text=/ms · (one batch|batches of up to)/")
    page.click("#single")
    page.wait_for_selector("#single-time >> text=/· 50 batches/")
    assert "times as fast, because the texts go through the model together" in page.inner_text("#verdict")


def test_the_picture_is_still_when_nothing_moves(house: Mill, viewer: Viewer) -> None:
    """It took 9 % of a core for ever."""
    viewer.page.add_init_script(COUNT_FRAMES)
    page = viewer.open(house)
    page.click("#classify")
    page.wait_for_selector("#answers li")
    wait_until(lambda: page.evaluate("frames_asked") > 0, "movement")

    def at_rest() -> bool:
        before = page.evaluate("frames_asked")
        time.sleep(1.5)
        return bool(page.evaluate("frames_asked") == before)

    wait_until(at_rest, "rest", 60)


def test_reduced_motion_draws_without_movement(house: Mill, viewer: Viewer) -> None:
    viewer.page.add_init_script(COUNT_FRAMES)
    viewer.page.emulate_media(reduced_motion="reduce")
    page = viewer.open(house)
    page.click("#classify")
    page.wait_for_selector("#answers li")
    assert page.evaluate("frames_asked") == 0


def test_problems_come_first(house: Mill, viewer: Viewer) -> None:
    """A dead only worker was shown as ready and idle for 5 s, and requests that were shed nowhere."""
    frame: dict[str, Any] = house.http.get("/stats").json()
    frame["now"]["shed"] = 120.4
    frame["workers"] = [{**frame["workers"][0], "id": "w1", "silent_s": 2.0}]
    job = {"id": "a" * 32, "status": "finished", "total": 9, "done": 9, "failed": 2, "rate": None}
    more = {"position": None, "error": None, "created_at": "2026-11-22T12:00:00Z", "remaining_s": None}
    frame["jobs"] = [{**job, **more, "file": {"name": "reviews.csv", "description": "CSV"}}]
    body = f"event: history\ndata: {{}}\n\nevent: frame\ndata: {json.dumps(frame)}\n\n"
    page = viewer.page
    page.route("**/stats", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.goto(house.base_url)
    page.wait_for_selector("#banners li")
    assert page.locator("#banners summary").all_inner_texts() == [
        "Overloaded: 120 texts per second are refused.",
        "1 of 1 workers: silent for 2 s.",
        "1 job has errors.",
    ]
    page.click('#banners [data-problem="jobs"] summary')
    shown = page.inner_text('#banners [data-problem="jobs"] p')
    assert shown == "reviews.csv: 2 of 9 texts; the column error of its results says why"
    assert page.inner_text("#workers .badge") == "silent 2 s"


def test_an_api_key_turns_the_comparison_off(house: Mill, viewer: Viewer) -> None:
    viewer.page.add_init_script("sessionStorage.setItem('millrace-key', 'x')")
    page = viewer.open(house)
    page.wait_for_selector("#compare", state="hidden")
