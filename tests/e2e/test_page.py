"""The web page in a real browser, with a real service behind it."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batcher.messages import entry_id
from model_store.stub import StubClassifier
from tests.e2e.browser import Viewer, launched, viewing
from tests.fakes import heartbeat_queue
from tests.integration.test_queue_contract import RECORD
from tests.servers import RedisServer, needs_server
from tests.service import Service, wait_until
from tests.unit.text_files.typed_files import xlsx

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

pytestmark = pytest.mark.e2e

# Only for this module: while it is open, Playwright's event loop keeps other tests from running theirs.
browser = pytest.fixture(scope="module")(launched)
viewer = pytest.fixture(viewing)

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


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One service with a jobs worker, for all tests of the page that break nothing."""
    binary = needs_server()
    server = RedisServer(binary).start()
    made = Service(server, {"model": "stub", "stub_batch_ms": 5, "moderation_labels": "NEGATIVE=hate"})
    made.start_worker()
    made.start_jobs()
    made.wait_ready()
    yield made
    made.close()
    server.close()


@pytest.fixture
def without_jobs(service: Service) -> Iterator[Service]:
    """The service of the module; its jobs are deleted after the test."""
    yield service
    for job in service.http.get("/jobs").json()["jobs"]:
        service.http.delete(f"/jobs/{job['id']}")
        service.http.delete(f"/jobs/{job['id']}")
    assert service.http.get("/stats").json()["jobs"] == []  # nor does the next viewer see them


StartService = Callable[..., Service]


def test_a_text_is_computed_first_and_known_the_second_time(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    # Not the texts that the form begins with: another test may have sent those.
    page.fill("#texts", "I hate rain.\n\nI love snow.\n<b>bold</b>")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('#outcome [data-cache="MISS"]')
    assert page.locator("#answers .text").all_inner_texts() == ["I hate rain.", "I love snow.", "<b>bold</b>"]
    assert page.locator("#answers li").first.locator(".label").all_inner_texts() == ["NEGATIVE", "POSITIVE"]
    shown = page.locator("#answers li .number.best").first.inner_text()
    expected = max(pair["score"] for pair in service.predict("I hate rain.").json()["predictions"][0])
    assert shown == f"{100 * expected:.1f} %"
    stages = page.eval_on_selector_all("#waterfall [data-stage]", "all => all.map(one => one.dataset.stage)")
    assert stages == ["cache", "queue", "tokenize", "model", "other"]
    assert "in a batch of 3" in page.inner_text("#outcome")
    assert page.inner_text('[data-figure="batch"]') == "3", "it lagged the answer by up to two seconds"
    assert page.inner_text("#batches li:first-child").startswith("3 texts · "), "so did the list"
    page.wait_for_selector("#batches .answered", state="detached")
    assert page.inner_text("#batches li:first-child summary").startswith("3 texts · ")

    page.click("#classify")
    page.wait_for_selector('#outcome [data-cache="HIT"]')
    stages = page.eval_on_selector_all("#waterfall [data-stage]", "all => all.map(one => one.dataset.stage)")
    assert stages == ["cache", "other"]
    assert all(url.startswith((service.base_url, "blob:")) for url in viewer.asked)


def test_batches_are_seen_as_they_close(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    service.predict("one two three", "four five", "six")
    page.wait_for_selector("#batches [data-reason]")
    page.wait_for_selector("#batches li:first-child >> text=/^3 texts · /")
    page.locator("#batches summary").first.press("Enter")
    details = page.inner_text("#batches li:first-child p")
    assert "tokens" in details
    assert "; waited " in details
    page.wait_for_selector('[data-figure="worked"]:not(:text-is("0/s"))')
    assert page.locator("#chart-texts path.first").count() == 1


def test_a_killed_worker_is_seen(start_service: StartService, viewer: Viewer) -> None:
    made = start_service(workers=2, lease_ms=500)
    page = viewer.open(made)
    wait_until(lambda: page.locator("#workers li").count() == 2, "two workers on the page")
    made.workers[0].kill()
    lost = page.wait_for_selector('#workers [data-state="lost"]')
    assert f"-{made.workers[0].pid}-" in lost.inner_text()
    made.workers[1].kill()
    page.wait_for_selector("#state >> text=Not ready")
    assert page.inner_text('#banners [data-problem="unready"]') == "Not ready: no worker is running."
    page.click("#classify")
    page.wait_for_selector("#problem:not([hidden])")
    assert "no workers are running" in page.inner_text("#problem")


def test_a_worker_that_fell_back_to_another_arithmetic_is_first(service: Service, viewer: Viewer) -> None:
    """Only /stats, /readyz and the log said so."""
    page = viewer.open(service)
    page.wait_for_selector("#workers li[data-state]")
    assert page.locator("#banners li").count() == 0
    why = "int8 weights in bf16, packed: a text of <b>17</b> tokens alone has another label"
    record = {**RECORD, "arithmetic": "f32", "fallback": why}
    with service.redis.client() as client:
        queue = heartbeat_queue(client, "default", "fallen", lease_ms=2000, max_attempts=3, result_ms=1000)
        queue.heartbeat([], record, {"revision": record["revision"]}, 60_000)
        banner = page.locator('#banners [data-problem="fallback"]')
        assert banner.locator("summary").inner_text() == "1 of 2 workers fell back to f32."
        banner.locator("summary").press("Enter")
        assert banner.locator("p").inner_text() == f"fallen: {why}"
        queue.retire()
        banner.wait_for(state="detached")


def drawn(page: Page) -> int:
    """How many seconds the chart of waiting texts shows."""
    path = page.locator("#chart-waiting path.first")
    return (path.get_attribute("d") or "").count(",") if path.count() else 0


def test_the_page_says_so_when_the_server_is_gone_and_recovers_when_it_is_back(
    start_service: StartService, viewer: Viewer
) -> None:
    made = start_service()
    page = viewer.open(made)
    with made.redis.client() as client:
        (key,) = wait_until(lambda: client.keys("*:history"), "history in Redis")
        wait_until(lambda: client.llen(key) >= 4, "kept points")
    wait_until(lambda: drawn(page) >= 4, "points of the chart")
    made.api.kill()
    page.wait_for_selector('#state[data-state="gone"]')
    assert "Trying again" in page.inner_text("#state")
    assert page.evaluate("document.body.classList.contains('stale')")
    page.click("#classify")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.inner_text("#problem") == "The server does not answer."
    made.start_api()
    page.wait_for_selector('#state[data-state="ready"]')
    assert page.is_hidden("#problem"), "the old error stayed"
    assert drawn(page) >= 4, "the charts were empty after a restart of the API"


def test_a_key_is_asked_for_and_kept_for_the_visit(start_service: StartService, viewer: Viewer) -> None:
    from hashlib import sha256

    made = start_service(api_keys=sha256(b"open sesame").hexdigest())
    page = viewer.page
    page.goto(made.base_url)
    page.wait_for_selector("#key-form:not([hidden])")
    assert "API key" in page.inner_text("#state")
    page.fill("#key", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector('#state[data-state="ready"]')
    page.click("#classify")
    page.wait_for_selector("#answers li")


def test_everything_can_be_reached_by_keyboard(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["Skip to the form", "texts", "classify", "file", "As a program", "answers"]
    for wanted in ("together", "API documentation"):
        for _ in range(60):
            if reached[-1] == wanted:
                break
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert reached[-1] == wanted


def test_nothing_is_wider_than_a_phone(service: Service, viewer: Viewer) -> None:
    for width in (320, 390, 768):
        viewer.page.set_viewport_size({"width": width, "height": 800})
        page = viewer.open(service)
        page.click("#classify")
        page.wait_for_selector("#answers li")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 720, 768, 1440, 2560])
def test_the_answer_was_below_the_screen(service: Service, viewer: Viewer, width: int) -> None:
    """After Classify, no label could be seen at any width."""
    viewer.page.set_viewport_size({"width": width, "height": 900 if width > 400 else 844})
    page = viewer.open(service)
    page.click("#classify")
    page.wait_for_selector("#answers li")
    first = page.locator("#answers li .label.best, #answers li .best").first.bounding_box()
    assert first is not None
    assert 0 <= first["y"] <= page.evaluate("innerHeight") - first["height"]


def overlaps(page: Page) -> list[tuple[str, str]]:
    """Pairs of figures whose words lie on each other."""
    boxes = page.locator(".figures dt, .figures dd").evaluate_all(
        """all => all.map((one) => {
            const range = document.createRange();
            range.selectNodeContents(one);
            const { x, y, width, height } = range.getBoundingClientRect();
            return { words: one.textContent, x, y, width, height };
        })"""
    )
    return [
        (one["words"], other["words"])
        for one, other in itertools.combinations(boxes, 2)
        if one["x"] < other["x"] + other["width"]
        and other["x"] < one["x"] + one["width"]
        and one["y"] < other["y"] + other["height"] - 1
        and other["y"] < one["y"] + one["height"] - 1
    ]


def test_charts_side_by_side_stood_at_different_heights(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    page.set_viewport_size({"width": 1440, "height": 900})
    boxes = [chart.bounding_box() for chart in page.locator(".chart").all()]
    assert len({round(box["y"]) for box in boxes if box}) == 1


def test_figures_lay_on_each_other_once_the_service_was_gone(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    for width in (390, 680, 720, 768, 1440, 2560):
        page.set_viewport_size({"width": width, "height": 900})
        for gone in (False, True):
            page.evaluate("gone => document.body.classList.toggle('stale', gone)", gone)
            assert overlaps(page) == [], (width, gone)


def test_many_texts_have_a_summary(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    texts = [f"text {number}" for number in range(200)]
    page.fill("#texts", "\n".join(texts))
    page.click("#classify")
    page.wait_for_selector("#summary .number")
    found = [max(pairs, key=lambda pair: pair["score"])["label"] for pairs in predictions(service, texts)]
    counts = sorted((found.count(label) for label in set(found)), reverse=True)
    assert [int(count) for count in page.locator("#summary .number").all_inner_texts()] == counts
    assert page.evaluate("document.documentElement.scrollHeight") < 4000


def predictions(service: Service, texts: list[str]) -> list[Any]:
    found: list[Any] = service.predict(*texts).json()["predictions"]
    return found


def test_texts_that_the_model_does_not_know_are_marked(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    page.fill("#texts", "known words\n\u05e9\u05dc\u05d5\u05dd")
    page.click("#classify")
    page.wait_for_selector("#outcome .warn")
    assert page.inner_text("#outcome .warn") == "1 mostly unknown to the model"


def test_one_of_several_models_is_chosen(start_service: StartService, viewer: Viewer) -> None:
    made = start_service(model="stub,other=stub@signed-other")
    page = viewer.open(made)
    page.wait_for_selector("#choice:not([hidden])")
    assert page.locator("#models option").all_inner_texts() == ["stub", "other"]
    assert page.inner_text("#labels") == "one of NEGATIVE, POSITIVE"
    assert page.input_value("#texts") == "I hate you.\nI love you."
    page.select_option("#models", "other")
    assert page.inner_text("#labels") != "one of NEGATIVE, POSITIVE"
    assert page.input_value("#texts") == "", "its card has no examples"
    page.fill("#texts", "one text")
    page.select_option("#models", "stub")
    assert page.input_value("#texts") == "one text"
    page.select_option("#models", "other")
    page.click("#classify")
    page.wait_for_selector("#answers li")
    pairs = made.http.post("/models/other/predict", json={"text": ["one text"]}).json()["predictions"][0]
    best = max(pairs, key=lambda pair: pair["score"])["label"]
    assert page.get_attribute("#answers li", "data-label") == best


def test_a_pause_was_shown_as_ready(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    assert service.http.put("/admin/pauses/bulk", json={"for_s": 600, "waiting": "keep"}).status_code == 200
    try:
        page.wait_for_selector('#state[data-state="paused"]')
        said = page.inner_text('#banners [data-problem="paused"] summary')
        assert re.fullmatch(r"Paused by an operator: jobs wait for (10|9) min\.", said)
    finally:
        service.http.delete("/admin/pauses/bulk")
    page.wait_for_selector('#state[data-state="ready"]')


def test_the_first_click_on_try_it_out_was_lost(service: Service, viewer: Viewer) -> None:
    page = viewer.page
    page.goto(f"{service.base_url}/docs")
    page.locator(".opblock-post .opblock-summary").first.click()
    page.click(".try-out__btn")
    page.wait_for_selector(".execute")


def test_texts_stand_out_from_their_ground(service: Service, viewer: Viewer) -> None:
    """Text has a contrast of at least 4.5 to 1 (WCAG AA) in the light and the dark theme."""
    page = viewer.open(service)
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


def drop(page: Page, name: str, content: bytes, *, start: bool = True) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})
    if start:
        page.click("#preview >> text=Start")


def finished(page: Page, name: str) -> None:
    page.wait_for_selector(f'#jobs [data-status="finished"] >> text="{name}"', timeout=40_000)


def results(page: Page) -> tuple[str, list[str]]:
    from playwright.sync_api import TimeoutError as NoDownload

    try:
        with page.expect_download() as saved:
            page.click("#jobs >> text=Results as CSV")
    except NoDownload as error:
        raise AssertionError(f"no download; the page says {page.inner_text('main')!r}") from error
    return saved.value.suggested_filename, Path(saved.value.path()).read_text().splitlines()


def test_the_first_lines_say_what_this_is(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    assert page.inner_text(".tagline").startswith("Classifies texts. Texts that arrive together go through")
    assert page.locator(".figures dt").all_inner_texts() == [
        "texts waiting",
        "texts through the model",
        "texts in the latest batch",
        "texts answered to requests",
        "of them from the cache",
        "99 of 100 requests answered within",
    ]


@pytest.mark.usefixtures("without_jobs")
def test_a_table_comes_back_with_all_its_columns(service: Service, viewer: Viewer) -> None:
    """It came back as index, label, score: the texts had to be joined by hand."""
    page = viewer.open(service)
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
    found = Counter(row["label"] for row in csv.DictReader(lines, delimiter=";"))
    assert page.locator("#jobs .bars .label").all_inner_texts() == [label for label, _ in found.most_common()]
    shown = page.locator("#jobs .bars .number").all_inner_texts()
    assert shown == [str(count) for _, count in found.most_common()]
    # After a reload the file is not at hand any more, but its texts are kept.
    viewer.open(service)
    finished(page, "reviews.csv")
    name, lines = results(page)
    assert (name, lines[0]) == ("reviews-labelled.csv", "index,text,label,score,error")
    assert lines[2].startswith("1,a line,")


@pytest.mark.usefixtures("without_jobs")
def test_the_least_certain_texts_of_a_job_are_a_file_to_label(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    texts = [f"sample number {number}" for number in range(250)]
    drop(page, "recent.txt", "\n".join([*texts, *texts[:20]]).encode())
    finished(page, "recent.txt")
    with page.expect_download() as saved:
        page.click("#jobs >> text=Least certain texts")
    assert saved.value.suggested_filename == "recent-to-label.csv"
    with Path(saved.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text", "label", "predicted", "score"]
    asked = StubClassifier()
    scores = {text: max(asked.classify(asked.tokenize([text]))[0]) for text in texts}
    least = sorted(scores.values())[:200]
    assert [float(row["score"]) for row in rows] == pytest.approx(least, abs=1e-4)
    assert len({row["text"] for row in rows}) == 200


@pytest.mark.usefixtures("without_jobs")
@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.json", b'[{"text": "one", "n": [1]}, "two"]', ["text,n,label,score,error", "one,[1],"]),
        ("a.ndjson", b'"one"\n\n{"text": "two", "id": 7}\n', ["text,id,label,score,error", "one,,"]),
        ("a.tsv", b"label\ttext\nx\tone\ny\ttwo\n", ["label,text,predicted_label,", "x,one,"]),
        ("utf-16.txt", "one\n\nzwölf".encode("utf-16"), ["\ufefftext,label,score,error", "one,", "zwölf,"]),
        ("nel.txt", "one\n\x85\ntwo\n".encode(), ["text,label,score,error", "one,", "two,"]),
        ("mark.txt", "one\n\ufeff\n".encode(), ["text,label,score,error", "one,", "\ufeff,"]),
        ("empty.csv", b'text\ngood\n""\n', ["text,label,score,error", "good,", ","]),
        (
            "ids.ndjson",
            b'{"id":1294030472427835393,"text":"a"}\n{"id":1294030472427835394,"text":"b","n":NaN}\n',
            ["id,text,n,label,score,error", "1294030472427835393,a,,", "1294030472427835394,b,NaN,"],
        ),
        (
            "members.csv.gz",
            gzip.compress(b"id,text\n1,one\n") + gzip.compress(b"2,two\n") + bytes(512),
            ["id,text,label,score,error", "1,one,", "2,two,"],
        ),
    ],
)
def test_files_of_every_kind_are_joined(
    service: Service, viewer: Viewer, name: str, content: bytes, first: list[str]
) -> None:
    """The page, which read files itself, put labels beside other texts, rounded ids, or lost the columns."""
    page = viewer.open(service)
    drop(page, name, content)
    finished(page, name)
    _, lines = results(page)
    assert len(lines) == 3
    for line, start in zip(lines, first, strict=False):
        assert line.startswith(start)


@pytest.mark.usefixtures("without_jobs")
def test_the_first_rows_are_seen_before_the_start_and_guesses_can_be_changed(
    service: Service, viewer: Viewer
) -> None:
    page = viewer.open(service)
    drop(page, "a.csv", b"text;body\n1;one, two\n2;three\n3;four\n4;five\n", start=False)
    box = page.locator("#preview")
    page.wait_for_selector("#preview >> text=CSV, separated by semicolons, UTF-8")
    assert box.locator("tr").all_inner_texts() == ["text\tbody", "1\tone, two", "2\tthree", "3\tfour"]
    assert box.locator("th.chosen").inner_text() == "text"
    assert "null" not in box.inner_text()
    box.get_by_label("Texts").select_option("body")
    page.wait_for_selector("#preview th.chosen >> text=body")
    box.get_by_label("Separated by").select_option("commas")
    page.wait_for_selector("#job-problem >> text=no column 'body'; the columns are 'text;body'")
    assert box.is_hidden()
    drop(page, "a.csv", b"text;body\n1;one, two\n", start=False)
    box.get_by_label("not a header").check()
    page.wait_for_selector("#preview >> text=without a header")
    box.get_by_label("Texts").select_option("2")
    page.wait_for_selector("#preview th.chosen >> text=2")
    assert service.http.get("/jobs").json()["jobs"] == []
    page.click("#preview >> text=Start")
    finished(page, "a.csv")
    assert box.is_hidden()
    assert [line.split(";")[:2] for line in results(page)[1]] == [["text", "body"], ["1", "one, two"]]


@pytest.mark.usefixtures("without_jobs")
def test_a_workbook_comes_back_as_csv(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    drop(page, "a.xlsx", xlsx([["id", "text"], [7, "one"], [8, "two"]]))
    finished(page, "a.xlsx")
    _, lines = results(page)
    assert lines[0] == "id,text,label,score,error"
    assert [line.split(",")[:2] for line in lines[1:]] == [["7", "one"], ["8", "two"]]


@pytest.mark.usefixtures("without_jobs")
def test_what_cannot_be_read_is_refused_with_a_way_out(service: Service, viewer: Viewer) -> None:
    """A PNG became a job of 147 texts."""
    page = viewer.open(service)
    problem = page.locator("#job-problem")
    drop(page, "cat.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", start=False)
    page.wait_for_selector("#job-problem >> text=not a text file but a PNG image")
    drop(page, "a.csv", "id;Kritik\n1;schön\n".encode("cp1252"), start=False)
    page.wait_for_selector("#job-problem >> text=line 2: not valid UTF-8")
    problem.get_by_text("Read it as Windows-1252").click()
    page.wait_for_selector("#job-problem >> text=no column 'text'; the columns are 'id', 'Kritik'")
    problem.get_by_text("Use column Kritik").click()
    page.click("#preview >> text=Start")
    finished(page, "a.csv")
    assert problem.is_hidden()
    assert results(page)[1][1].startswith("1;schön;")
    drop(page, "sms.tsv", b"ham\tsee you\nham\tcall me\n", start=False)
    problem.get_by_text("Without a header: use column 2").click()
    page.click("#preview >> text=Start")
    finished(page, "sms.tsv")
    assert "TSV, separated by tabs, without a header, UTF-8" in page.inner_text("#jobs")


@pytest.mark.usefixtures("without_jobs")
def test_a_guess_that_failed_could_not_be_changed(service: Service, viewer: Viewer) -> None:
    """The choices of format, delimiter, encoding and header were only shown for a file that could be read."""
    page = viewer.open(service)
    problem = page.locator("#job-problem")
    drop(page, "a.csv", "id,text\r\n7,good\r\n".encode("utf-16-le"), start=False)
    page.wait_for_selector("#job-problem >> text=name the encoding utf-16-le")
    problem.get_by_label("Encoding").select_option("utf-16-le")
    page.click("#preview >> text=Start")
    finished(page, "a.csv")
    assert results(page)[1][1].startswith("7,good,")
    drop(page, "one.csv", b"good product\nbad product\n", start=False)
    problem.get_by_label("not a header").check()
    page.wait_for_selector("#preview >> text=without a header")
    drop(page, "lines.dat", b'["not JSON\n["still not\n', start=False)
    problem.get_by_label("Format").select_option("txt")
    page.wait_for_selector("#preview >> text=TXT, UTF-8")
    assert page.locator("#preview tr").count() == 3
    drop(page, "cat.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", start=False)
    page.wait_for_selector("#job-problem >> text=a PNG image")
    assert problem.locator("select").count() == 0


@pytest.mark.usefixtures("without_jobs")
def test_rows_beyond_the_first_megabyte_were_taken_for_a_quote_that_is_not_closed(
    service: Service, viewer: Viewer
) -> None:
    page = viewer.open(service)
    long = b"long text " * 70_000
    drop(page, "long.csv", b'id,text\n1,"%b"\n2,"%b"\n3,short\n' % (long, long), start=False)
    page.wait_for_selector("#preview >> text=CSV, separated by commas")
    assert page.locator("#preview tr").count() == 4


@pytest.mark.usefixtures("without_jobs")
def test_a_file_may_be_dropped_anywhere(service: Service, viewer: Viewer) -> None:
    """Beside the box, the browser left the page and opened the file."""
    page = viewer.open(service)
    data = page.evaluate_handle(
        "() => { const d = new DataTransfer(); d.items.add(new File(['a\\nb\\n'], 'beside.txt')); return d; }"
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("h1", event, {"dataTransfer": data})
    page.click("#preview >> text=Start")
    finished(page, "beside.txt")
    assert page.url.rstrip("/") == service.base_url


@pytest.mark.usefixtures("without_jobs")
@pytest.mark.parametrize("presses", [25, pytest.param(200, marks=pytest.mark.long)])
def test_no_press_of_a_button_is_lost(service: Service, viewer: Viewer, presses: int) -> None:
    """The list was built anew every second: of 60 presses of 120 ms, 53 arrived."""
    page = viewer.open(service)
    # Not a name of another test: the first frame may still show that test's job.
    drop(page, "pressed.txt", b"one\ntwo\n")
    finished(page, "pressed.txt")
    page.evaluate(
        "window.presses = 0; const row = document.querySelector('#jobs [aria-label=\"Job pressed.txt\"]');"
        "const button = row.closest('li').querySelector('button'); button.id = 'pressed';"
        "button.addEventListener('click', (event) => { event.stopImmediatePropagation(); presses++; }, true)"
    )
    for _ in range(presses):
        page.hover("#pressed")  # a banner may move it
        page.mouse.down()
        time.sleep(0.12)
        page.mouse.up()
    assert page.evaluate("presses") == presses


@pytest.mark.usefixtures("without_jobs")
def test_a_removed_job_can_be_taken_back(service: Service, viewer: Viewer) -> None:
    viewer.page.add_init_script(HASTEN)
    page = viewer.open(service)
    drop(page, "a.txt", b"one\n")
    finished(page, "a.txt")
    stop = page.locator("#jobs li button").last
    stop.evaluate("stop => { stop.click(); stop.click(); }")
    assert stop.inner_text() == "Remove"
    stop.click()
    assert stop.inner_text() == "Undo"
    page.wait_for_selector("#jobs li", state="detached")


def test_the_focus_stays_while_an_answer_is_awaited(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
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


def test_a_request_without_an_answer_is_given_up(service: Service, viewer: Viewer) -> None:
    viewer.page.add_init_script(HASTEN)
    page = viewer.open(service)
    page.route("**/predict", lambda route: None)
    page.click("#classify")
    page.wait_for_selector("#problem:not([hidden])")
    assert (
        page.inner_text("#problem")
        == "The server took too long to answer, so the request was cancelled. Try again."
    )
    page.wait_for_timeout(1500)  # a frame later, which shows that the service is there
    assert page.locator("#problem").is_visible()


def test_fifty_at_once_are_compared_with_fifty_one_by_one(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)
    page.click("#together")
    page.wait_for_selector("#together-time >> text=/ms · (one batch|batches of up to)/")
    page.click("#single")
    page.wait_for_selector("#single-time >> text=/· 50 batches/")
    assert "times as fast, because the texts go through the model together" in page.inner_text("#verdict")


@pytest.mark.parametrize("rest_s", [1.5, pytest.param(5, marks=pytest.mark.long)])
def test_the_picture_is_still_when_nothing_moves(service: Service, viewer: Viewer, rest_s: float) -> None:
    """It took 9 % of a core for ever."""
    viewer.page.emulate_media(reduced_motion="no-preference")
    viewer.page.add_init_script(COUNT_FRAMES)
    page = viewer.open(service)
    page.click("#classify")
    page.wait_for_selector("#answers li")
    wait_until(lambda: page.evaluate("frames_asked") > 0, "movement")

    def at_rest() -> bool:
        before = page.evaluate("frames_asked")
        time.sleep(rest_s)
        return bool(page.evaluate("frames_asked") == before)

    wait_until(at_rest, "rest", 60)


def test_reduced_motion_draws_without_movement(service: Service, viewer: Viewer) -> None:
    viewer.page.add_init_script(COUNT_FRAMES)
    page = viewer.open(service)
    page.click("#classify")
    page.wait_for_selector("#answers li")
    assert page.evaluate("frames_asked") == 0


def test_problems_come_first(service: Service, viewer: Viewer) -> None:
    """A dead only worker was shown as ready and idle for 5 s, and requests that were shed nowhere."""
    frame: dict[str, Any] = service.http.get("/stats").json()
    frame["now"]["shed"] = 120.4
    frame["workers"] = [{**frame["workers"][0], "id": "w1", "silent_s": 2.0}]
    job = {"id": "a" * 32, "status": "finished", "total": 9, "done": 9, "failed": 2, "rate": None}
    job["labels"] = [{"label": label, "texts": 1} for label in ("__proto__", "<b>", "c", "d", "e", "f")]
    more = {"position": None, "error": None, "created_at": "2026-11-22T12:00:00Z", "remaining_s": None}
    frame["jobs"] = [{**job, **more, "file": {"name": "reviews.csv", "description": "CSV"}}]
    body = f"event: history\ndata: {{}}\n\nevent: frame\ndata: {json.dumps(frame)}\n\n"
    page = viewer.page
    page.route("**/stats", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.goto(service.base_url)
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
    shown = page.locator("#jobs .bars .label").all_inner_texts()
    assert shown == ["__proto__", "<b>", "c", "d", "e", "other labels"]
    assert page.locator("#jobs .bars .number").all_inner_texts() == ["1"] * 5 + ["2"]


def test_the_last_problem_stayed_while_the_service_was_gone(service: Service, viewer: Viewer) -> None:
    """The page said "this process is stopping" during the whole outage."""
    frame = service.http.get("/stats").json() | {"ready": False, "reason": "this process is stopping"}
    body = f"event: history\ndata: {{}}\n\nevent: frame\ndata: {json.dumps(frame)}\n\n"
    page, gone = viewer.page, list[bool]()

    def answer(route: Route) -> None:
        if gone:
            route.abort()
        else:
            route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/stats", answer)
    page.goto(service.base_url)
    page.wait_for_selector("#banners li")
    gone.append(True)
    page.wait_for_selector("#banners li", state="detached")
    assert page.get_attribute("#state", "data-state") == "gone"


def test_an_api_key_turns_the_comparison_off(service: Service, viewer: Viewer) -> None:
    viewer.page.add_init_script("sessionStorage.setItem('millrace-key', 'x')")
    page = viewer.open(service)
    page.wait_for_selector("#compare", state="hidden")


def written(page: Page, name: str) -> str:
    """The program that the page shows for a dialect."""
    page.click(f"#dialects >> text={name}")
    return page.inner_text("#program")


def test_the_texts_are_offered_as_a_program_of_each_dialect(
    service: Service, viewer: Viewer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each runs as it is written."""
    page = viewer.open(service)
    texts = ['it\'s "fine"', "back\\slash — ünï"]
    page.fill("#texts", "\n\n".join(texts))
    best = [
        max(pairs, key=lambda pair: pair["score"])["label"]
        for pairs in service.predict(*texts).json()["predictions"]
    ]
    page.focus("#programs summary")
    page.keyboard.press("Enter")
    page.wait_for_selector("#dialects button")
    names = page.locator("#dialects button").all_inner_texts()
    assert names == ["curl", "Python", "Hugging Face", "Triton", "OpenAI"]
    command = shlex.split(written(page, "curl"))
    assert command[:2] == ["curl", f"{service.base_url}/predict"]
    assert json.loads(command[-1]) == {"text": texts}
    for name in names[1:]:
        program = written(page, name)
        for module in re.findall(r"^(?:from|import) (\w+)", program, re.MULTILINE):
            pytest.importorskip(module, reason=f"{module} is not installed (compat-tests)")
        exec(program, {})
        assert capsys.readouterr().out, program
    exec(written(page, "Python"), {})
    assert re.findall(r"[A-Z]+", capsys.readouterr().out) == best
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy")
    page.wait_for_selector("#copied >> text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.inner_text("#program")


def test_a_key_is_not_written_into_a_program(service: Service, viewer: Viewer) -> None:
    viewer.page.add_init_script("sessionStorage.setItem('millrace-key', 'sesame')")
    page = viewer.open(service)
    page.click("#programs summary")
    page.wait_for_selector("#dialects button")
    for name in page.locator("#dialects button").all_inner_texts():
        program = written(page, name)
        assert "MILLRACE_KEY" in program
        assert "sesame" not in program


AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def violations(page: Page) -> list[str]:
    """What axe finds, with the elements. Evaluated, because the page's policy forbids other scripts."""
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    page.evaluate((Path(axe.__path__[0]) / "axe.min.js").read_text())
    found = page.evaluate("(options) => axe.run(document, options)", AXE)["violations"]
    return [f"{rule['id']}: {[node['html'] for node in rule['nodes']]}" for rule in found]


@pytest.mark.usefixtures("without_jobs")
def test_axe_finds_nothing(service: Service, viewer: Viewer) -> None:
    """On the page at rest, on it in use with either theme, on /console, and on /docs, which has one theme."""
    page = viewer.page
    page.emulate_media(color_scheme="light")
    viewer.open(service)
    assert violations(page) == []
    page.click("#classify")
    page.click("#programs summary")
    drop(page, "a.csv", b"id,text,label\n1,one,x\n", start=False)
    page.wait_for_selector("#preview >> text=Start")
    assert violations(page) == []
    page.click("#preview >> text=Cancel")
    drop(page, "a.txt", b"one\ntwo\n")
    finished(page, "a.txt")
    page.wait_for_selector("#dialects button")
    page.wait_for_selector("#answers li")
    page.click("#batches summary >> nth=0")
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    assert violations(page) == []
    console(service, viewer)
    assert violations(page) == []
    page.goto(f"{service.base_url}/docs")
    page.wait_for_selector(".opblock")
    page.click(".opblock-summary-control >> nth=0")
    page.wait_for_selector(".opblock-body")
    page.wait_for_selector("nav >> text=Live view")
    assert violations(page) == []


@pytest.mark.usefixtures("without_jobs")
def test_a_phone_at_200_percent_needs_no_sideways_scrolling(service: Service, viewer: Viewer) -> None:
    """At 200 %, a window of 1280 pixels is one of 640 for the page, and a phone of 390 one of 195."""
    page = viewer.page
    viewer.open(service)
    page.click("#classify")
    page.click("#programs summary")
    page.wait_for_selector("#dialects button")
    for width in (640, 320):
        page.set_viewport_size({"width": width, "height": 400})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for selector in ("#classify", "#together", "#copy", "#file", "footer a"):
            box = page.locator(selector).first.bounding_box()
            assert box is not None
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width, selector
    console(service, viewer)
    for width in (640, 390, 320):
        page.set_viewport_size({"width": width, "height": 400})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "/console"


@pytest.mark.usefixtures("without_jobs")
def test_a_text_and_a_job_without_a_mouse(service: Service, viewer: Viewer) -> None:
    page = viewer.open(service)

    def to(wanted: str) -> None:
        for _ in range(80):
            if page.evaluate(f"document.activeElement.matches({wanted!r})"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{wanted} was not reached")

    to("#texts")
    page.keyboard.press("Control+a")
    page.keyboard.type("typed")
    to("#classify")
    page.keyboard.press("Space")
    page.wait_for_selector("#answers li >> text=typed")
    to("#file")
    drop(page, "a.txt", b"one\n", start=False)  # how a file is chosen is the browser's
    page.wait_for_selector("#preview >> text=Start")
    to("#preview [name=start]")
    page.keyboard.press("Enter")
    finished(page, "a.txt")
    to("#jobs button")
    with page.expect_download():
        page.keyboard.press("Enter")


def test_the_console_pauses_holds_retries_and_forgets(service: Service, viewer: Viewer) -> None:
    page = viewer.page
    page.goto(service.console_link())
    page.wait_for_selector('#state[data-state="ready"]')

    page.select_option('#pause [name="waiting"]', "finish")
    page.click("#pause button")
    assert page.inner_text("#pause button") == "Really pause?"
    page.click("#pause button")
    page.wait_for_selector('#pauses [data-lane="interactive"]')
    # A new text each time: those that have been answered are cached.
    new = (f"new {number}" for number in itertools.count())
    wait_until(lambda: service.predict(next(new)).status_code == 503, "the pause")
    assert page.inner_text('#pauses [data-lane="bulk"] span').startswith("jobs are paused for ")
    assert violations(page) == []
    page.click("#resume-all button")
    page.wait_for_selector("#pauses li", state="detached")
    wait_until(lambda: service.predict("after the pause").status_code == 200, "its end")

    row = page.locator('#clients [data-client="127.0.0.1"]')
    row.get_by_text("Shed").click()
    row.get_by_text("Really shed?").click()
    page.wait_for_selector('#held [data-held="127.0.0.1"]')
    wait_until(lambda: service.predict(next(new)).status_code == 429, "the hold")
    page.click('#held [data-held="127.0.0.1"] button')
    page.wait_for_selector("#held li", state="detached")
    wait_until(lambda: service.predict(next(new)).status_code == 200, "its end")

    page.fill('#forget [name="which"]', "after the pause")
    page.click("#forget-button button")
    page.click("#forget-button >> text=Really forget?")
    page.wait_for_selector("#done >> text=/keys removed or changed: 1 cached, 1 results/")
    assert service.predict("after the pause").headers["x-cache"] == "MISS"
    page.wait_for_selector("#audit li >> text=/forget/")


def plant_refused(service: Service, entry: str, **facts: Any) -> None:
    """A record as the queue's scripts write it."""
    place = "1700000000000"
    record = {"id": entry, "place": f"{place}:{entry}", "code": "poison", "attempts": 3, "lane": "bulk"}
    with service.redis.client() as client:
        client.zadd("{millrace:2:default}:refused", {f"{place}:{entry}": 0})
        client.hset("{millrace:2:default}:refusals", entry, json.dumps(record | facts))


def test_the_console_shows_what_was_refused_as_text_only(service: Service, viewer: Viewer) -> None:
    entry = "e" * 64
    plant_refused(service, entry, workers="<b>w1</b>", revision="rev", client="key:<img src=x>")
    page = viewer.page
    page.goto(service.console_link())
    row = page.locator(f'[data-refused="{entry}"]')
    row.wait_for()
    assert "key:<img src=x> · 3 attempts · <b>w1</b> · rev" in row.inner_text()
    assert row.get_by_text("Try again").is_hidden(), "its text is not held"
    page.fill('#filter [name="worker"]', "another")
    page.click("#filter button[type=submit]")
    row.wait_for(state="detached")
    page.fill('#filter [name="worker"]', "")
    page.click("#filter button[type=submit]")
    row.get_by_text("Delete").click()
    row.get_by_text("Really delete?").click()
    row.wait_for(state="detached")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200


def console(service: Service, viewer: Viewer) -> Page:
    page = viewer.page
    page.goto(service.console_link())
    page.wait_for_selector('#state[data-state="ready"]')
    return page


def test_the_console_releases_poison_and_tries_a_text_again(service: Service, viewer: Viewer) -> None:
    entry = entry_id("tried again")
    plant_refused(service, entry, workers="w1", revision="rev", client="key:web")
    with service.redis.client() as client:
        client.set(f"{{millrace:2:default}}:refused:{entry}", "tried again", ex=600)
        client.set(f"{{millrace:2:default}}:res:{entry}", b'{"code":"poison","message":"x"}\n', ex=600)
    assert service.predict("tried again").json()["code"] == "poison"
    row = console(service, viewer).locator(f'[data-refused="{entry}"]')
    row.get_by_text("Release").click()
    viewer.page.wait_for_selector("#done >> text=1 released")
    row.get_by_text("Try again").click()
    viewer.page.wait_for_selector("#done >> text=/1 classified/")
    row.wait_for(state="detached")
    assert service.predict("tried again").status_code == 200


def test_the_console_shows_where_the_time_of_a_request_went(service: Service, viewer: Viewer) -> None:
    body = {"text": ["traced one", "traced two"]}
    assert service.http.post("/predict", json=body, headers={"X-Request-ID": "traced"}).status_code == 200
    page = console(service, viewer)
    page.fill('#trace [name="id"]', "traced")
    page.click("#trace button")
    page.wait_for_selector('#timeline [data-step="answered"], #problem:visible')
    assert not page.locator("#problem").is_visible(), page.inner_text("#problem")
    steps = page.eval_on_selector_all("#timeline [data-step]", "all => all.map(one => one.dataset.step)")
    assert steps == ["received", "cache", "queued", "claimed", "batch", "answered"]
    assert f"-{service.workers[0].pid}-" in page.inner_text('#timeline [data-step="claimed"]')
    assert "2 of 2 texts" in page.inner_text('#timeline [data-step="batch"]')
    page.fill('#trace [name="id"]', "never-sent")
    page.click("#trace button")
    page.wait_for_selector("#problem >> text=/no API process remembers/")
    assert page.locator("#timeline").is_hidden()


def test_the_console_pauses_a_model_by_name(service: Service, viewer: Viewer) -> None:
    page = console(service, viewer)
    page.select_option('#pause [name="lane"]', label="the model stub")
    page.click("#pause button")
    page.click("#pause button")
    for lane in ("interactive", "bulk"):
        page.click(f'#pauses [data-lane="{lane}"] button')
    page.wait_for_selector("#pauses li", state="detached")


def test_the_console_shows_a_shadow(service: Service, viewer: Viewer) -> None:
    with service.redis.client() as client:
        fields = {"moves": 1, "model:": "[0, 0, 1, {}]", "candidate:": '[1, 0.1, "text", true]'}
        client.hset("{millrace:2:default}:revisions", mapping=fields)
        counts = {"texts": 40, "agree": 39, "scores": 80, "dropped": 2}
        client.hset("{millrace:2:default}:compared:@0:1", mapping=counts)
    row = '#publications [data-model="stub"]'
    page = console(service, viewer)
    page.wait_for_selector(
        f"{row} >> text=/publication 0 answers, publication 1 is compared on 10 % of the texts/"
    )
    assert "40 texts compared · same label 97.5 % · 0 failed" in page.inner_text(row)
    with service.redis.client() as client:
        client.delete("{millrace:2:default}:revisions")


def test_the_console_finds_jobs_by_state_name_and_client(without_jobs: Service, viewer: Viewer) -> None:
    service, ids = without_jobs, dict[str, str]()
    for name in ("<b>angry</b>.txt", "calm.txt"):
        answer = service.http.post("/jobs", params={"filename": name}, content=f"{name}\n".encode())
        ids[name] = answer.json()["id"]
    angry, calm = (f'#console-jobs [data-job="{one}"]' for one in ids.values())
    page = console(service, viewer)
    page.wait_for_selector(f"{angry} >> text=finished · 1 of 1 texts")
    assert "<b>angry</b>.txt" in page.inner_text(angry)
    page.wait_for_selector(calm)
    for field, value in (("search", "ANGRY"), ("search", ids["<b>angry</b>.txt"][:12])):
        page.fill(f'#jobs-filter [name="{field}"]', value)
        page.click("#jobs-filter button")
        page.wait_for_selector(calm, state="detached")
        assert page.locator(angry).count() == 1
    page.fill('#jobs-filter [name="client"]', "key:unknown")
    page.click("#jobs-filter button")
    page.wait_for_selector(angry, state="detached")
    page.fill('#jobs-filter [name="client"]', "")
    page.fill('#jobs-filter [name="search"]', "")
    page.select_option('#jobs-filter [name="status"]', "finished")
    page.click("#jobs-filter button")
    page.wait_for_selector(angry)
    page.select_option('#jobs-filter [name="status"]', "failed")
    page.click("#jobs-filter button")
    page.wait_for_selector(angry, state="detached")


def test_the_console_charts_the_last_hours_and_saves_usage(service: Service, viewer: Viewer) -> None:
    now_s, day = int(time.time()) // 60 * 60, time.strftime("%Y-%m-%d", time.gmtime())
    with service.redis.client() as client:
        client.delete("{millrace:2:default}:minutes")  # those of other tests are later
        for ago in (9, 8, 6):  # no API process ran in the minute between
            rates = dict.fromkeys(("answered", "hits", "refused", "shed", "worked"), 10.0)
            point = {"at_s": now_s - 60 * ago, **rates, "waiting": 3, "p50_ms": 1, "p99_ms": 9, "workers": 1}
            client.rpush("{millrace:2:default}:minutes", json.dumps(point))
        usage = {"<i>web</i> texts": 12345, "<i>web</i> requests": 2}
        client.hset(f"{{millrace:2:default}}:usage:{day}", mapping=usage)
    page = console(service, viewer)
    page.wait_for_selector("#history-workers path.first", state="attached", timeout=60_000)
    path = page.get_attribute("#history-workers path.first", "d") or ""
    assert path.count("M") >= 2, "a gap where no API process ran"
    assert "last 3 hours" in page.inner_html("#history-p99")
    page.select_option("#hours", "12")
    page.wait_for_selector("#history-p99 >> text=/last 12 hours/", state="attached")
    row = page.inner_text(f'[data-usage="{day} <i>web</i>"]')
    assert "<i>web</i>" in row
    assert "12,345" in row
    with page.expect_download() as download:
        page.click("#usage-csv")
    assert f"{day},<i>web</i>,12345,0,2,0,0" in Path(download.value.path()).read_text()
    for width in (320, 768):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert all(url.startswith((service.base_url, "blob:")) for url in viewer.asked)
