"""GET /stats and the page's files, without a browser."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest

import api
from api.jobs.service import JobService
from api.lifecycle import Lifecycle
from api.metrics import Metrics
from api.stats import routes as stats_module
from api.stats.history import StatsPoint
from api.stats.routes import Stats
from batcher.admin.console import Preparing
from batcher.core.snapshot import LaneDepth
from batcher.jobs.records import JobRecord
from batcher.messages import BatchNote
from tests.unit.api.service import Service, Start, assert_problem
from tests.unit.fakes import RUNNING, WORKER, FakeHub

NOTE = BatchNote(3, 8, 140, 152, "full", 3.5, 12.4)
BUSY = replace(
    RUNNING,
    interactive=LaneDepth(4, 44, 250),
    in_flight=2,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_module, "EVERY_S", 0.02)


async def frame(service: Service) -> dict[str, Any]:
    answer = await service.client.get("/stats")
    assert answer.status_code == 200
    content: dict[str, Any] = answer.json()
    return content


async def until(service: Service, true: Any) -> dict[str, Any]:
    for _ in range(100):
        if true(now := await frame(service)):
            return now
        await asyncio.sleep(0.01)
    raise AssertionError(now)


class NoStore:
    """A store that keeps nothing."""

    def remembered(self) -> list[bytes]:
        return []

    def remember(self, line: bytes) -> None: ...


class NoJobs:
    """A job service without jobs that counts how often it is asked."""

    shown_owner = ""
    asked = 0
    store = NoStore()

    async def newest(
        self, status: str | None, limit: int, cursor: str, owner: str
    ) -> tuple[list[JobRecord], str | None]:
        self.asked += 1
        return [], None

    async def call(self, function: Callable[..., Any], *args: object) -> Any:
        return function(*args)


@dataclass
class Made:
    """Frames without a server."""

    stats: Stats
    hub: FakeHub
    jobs: NoJobs
    lifecycle: Lifecycle


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    hub, jobs, lifecycle = FakeHub(snapshot=BUSY), NoJobs(), Lifecycle()
    lifecycle.started = True
    stats = Stats(Metrics(10.0), hub, cast(JobService, jobs), lifecycle)
    async with stats.running():
        yield Made(stats, hub, jobs, lifecycle)
        # An error that nothing looks at is reported by the next collection of garbage, within another test.
        assert stats._restoring is not None
        await stats._restoring


async def test_a_frame_tells_of_queue_workers_and_their_batches(start: Start) -> None:
    live = replace(WORKER, texts=50, batches=3, recent=(NOTE,))
    service = await start(hub=FakeHub(snapshot=BUSY, live=(live,)))
    now = await until(service, lambda one: "ready" in one)
    assert now["ready"]
    assert now["lanes"]["interactive"] == {"entries": 4, "cost": 44, "oldest_s": 0.25}
    assert now["in_flight"] == 2
    (worker,) = now["workers"]
    assert (worker["id"], worker["texts"], worker["revision"]) == ("w1", 50, "a1b2c3d4e5f6")
    assert worker["recent"] == [[3, 8, 140, 152, "full", 3.5, 12.4]]
    assert now["model"]["name"] == "stub"
    assert set(now["now"]) == set(StatsPoint.__dataclass_fields__)


async def test_what_was_answered_shows_in_the_rates(service: Service) -> None:
    await until(service, lambda one: "now" in one)
    await service.predict("a", "b", "c")
    await service.predict("a", "b", "c")
    now = await until(service, lambda one: one["now"]["hits"] > 0)
    assert now["now"]["answered"] == pytest.approx(2 * now["now"]["hits"], rel=0.2)
    assert now["now"]["p99_ms"] > 0


@pytest.mark.parametrize(
    ("hub", "reason"),
    [
        (FakeHub(reachable=False), "Redis does not answer"),
        (FakeHub(snapshot=replace(RUNNING, workers=0)), "no worker is running"),
    ],
)
async def test_a_frame_says_why_nothing_would_be_answered(start: Start, hub: FakeHub, reason: str) -> None:
    now = await until(await start(hub=hub), lambda one: "ready" in one)
    assert (now["ready"], now["reason"]) == (False, reason)


async def test_status_right_after_readiness_said_that_no_worker_runs(made: Made) -> None:
    """The state was that of up to a second ago. So was the first frame of a viewer."""
    made.hub.snapshot = replace(RUNNING, workers=0)
    stream = made.stats.stream()
    await anext(stream)  # the history; frames follow
    for frame in (await made.stats.frame(), (await anext(stream)).partition(b"data: ")[2]):
        assert json.loads(frame)["reason"] == "no worker is running"
    made.hub.snapshot = RUNNING
    assert json.loads(await made.stats.frame())["ready"]
    await stream.aclose()


async def test_a_start_was_shown_as_if_no_worker_ran(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page said "no worker is running" for the 20 s in which one loaded its model, and one more."""
    starting = [Preparing("w1", "default", 12.4, "reading its files")]

    async def preparing() -> list[Preparing]:
        return [*starting]

    stats = replace(made.stats, preparing=preparing)
    made.hub.snapshot = replace(RUNNING, workers=0)
    said = "the worker has been preparing default for 12 s: reading its files"
    assert json.loads(await stats.frame())["reason"] == said
    starting.clear()
    assert json.loads(await stats.frame())["reason"] == said, "the worker is about to be ready"
    monkeypatch.setattr("api.stats.routes.READY_S", 0.0)
    assert json.loads(await stats.frame())["reason"] == "no worker is running"
    made.hub.snapshot = RUNNING
    assert json.loads(await stats.frame())["reason"] == ""


async def test_a_frame_holds_no_text(service: Service) -> None:
    await service.predict("a secret of mine")
    await asyncio.sleep(0.05)
    assert "secret" not in json.dumps(await frame(service))


async def test_viewers_share_the_bytes_of_each_frame(made: Made) -> None:
    stats = made.stats
    streams = [stats.stream() for _ in range(50)]
    firsts = [await anext(stream) for stream in streams]
    assert all(first.startswith(b"retry: 1000\n\nevent: history\n") for first in firsts)
    assert stats.viewers == 50
    await asyncio.gather(*(anext(stream) for stream in streams))  # the frame of now
    frames = await asyncio.gather(*(anext(stream) for stream in streams))
    assert len({id(one) for one in frames}) == 1
    name, data = frames[0].decode().rstrip().split("\n")
    assert name == "event: frame"
    assert json.loads(data.removeprefix("data: "))["ready"]
    for stream in streams:
        await stream.aclose()
    assert stats.viewers == 0


async def test_a_viewer_who_leaves_takes_nobody_along(made: Made) -> None:
    leaving, staying = made.stats.stream(), made.stats.stream()
    for stream in (leaving, leaving, staying, staying):
        await anext(stream)
    waiting = asyncio.create_task(anext(leaving))
    await asyncio.sleep(0)
    waiting.cancel()
    assert (await anext(staying)).startswith(b"event: frame")


async def test_streams_end_when_the_process_shall_stop(made: Made) -> None:
    stream = made.stats.stream()
    await anext(stream)
    made.lifecycle.draining = True
    rest = [one async for one in stream]
    assert len(rest) <= 2


async def test_jobs_are_read_only_while_somebody_watches(made: Made) -> None:
    await asyncio.sleep(0.1)
    assert made.jobs.asked == 0
    stream = made.stats.stream()
    for _ in range(4):
        await anext(stream)
    assert made.jobs.asked > 0


async def test_a_new_viewer_sees_nothing_of_what_the_last_one_saw(made: Made) -> None:
    """The page showed jobs that had been removed since, until its second frame."""
    for worker in (WORKER, replace(WORKER, id="w2")):
        made.hub.live = (worker,)
        stream = made.stats.stream()
        await anext(stream)
        first = json.loads((await anext(stream)).decode().partition("data: ")[2])
        assert [one["id"] for one in first["workers"]] == [worker.id]
        assert first["jobs"] == []
        await stream.aclose()
        asked = -1
        while asked != made.jobs.asked:  # until nothing is read any more
            asked = made.jobs.asked
            await asyncio.sleep(0.1)


async def test_viewers_beyond_the_limit_are_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_module, "MAX_VIEWERS", 0)
    answer = await service.client.get("/stats", headers={"Accept": "text/event-stream"})
    assert_problem(answer, 503, "too_many_viewers")


async def test_stats_need_a_key_where_there_are_keys_and_the_page_does_not(start: Start) -> None:
    service = await start(api_keys=sha256(b"open sesame").hexdigest())
    assert (await service.client.get("/stats")).status_code == 401
    shown = await service.client.get("/stats", headers={"Authorization": "Bearer open sesame"})
    assert shown.status_code == 200
    assert (await service.client.get("/")).status_code == 200
    assert (await service.client.get("/static/page.js")).status_code == 200


# -- the page's files ------------------------------------------------------------------------------


async def test_the_page_allows_itself_nothing_from_elsewhere(service: Service) -> None:
    page = await service.client.get("/", headers={"accept": "text/html"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"


def test_no_file_of_the_page_names_another_host_or_carries_a_script_or_style_inline() -> None:
    folder = Path(api.__path__[0]) / "static"
    assets = {file.name: file.read_text() for file in folder.iterdir() if file.is_file()}
    pages = {"index.html", "console.html"}
    assert {*pages, "page.css", "page.js", "icon.svg"} <= set(assets)
    for name, asset in assets.items():
        text = asset.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z]", re.sub(r"//\s.*", "", text)), name
    page = "\n".join(assets[name] for name in sorted(pages))
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    scripts = "\n".join(asset for name, asset in assets.items() if name.endswith(".js"))
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", scripts
    )
    named = set(re.findall(r'from "\./([\w.]+)"', scripts)) | set(re.findall(r'static/([\w.]+)"', page))
    named |= set(re.findall(r'import\("\./([\w.]+)"\)', scripts))
    assert named | pages | {"docs.html", "docs.css", "docs.js"} == set(assets)


async def test_files_are_asked_about_and_not_sent_again(service: Service) -> None:
    first = await service.client.get("/static/page.css")
    assert first.headers["cache-control"] == "no-cache"
    again = await service.client.get("/static/page.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert_problem(await service.client.get("/static/..%2Fmain.py"), 404, "not_found")
    assert_problem(await service.client.get("/static/nope.js"), 404, "not_found")


async def test_the_page_can_be_switched_off(start: Start) -> None:
    service = await start(page=False)
    assert_problem(await service.client.get("/", headers={"accept": "text/html"}), 404, "not_found")
    assert (await service.client.get("/stats")).status_code == 200
