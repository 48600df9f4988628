"""GET /jobs/{id}, long polls and event streams: every state is reported, and every wait ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from api.jobs import routes, watcher
from api.jobs.schemas import Job
from api.jobs.service import JobService
from api.jobs.watcher import JobWatch
from api.settings import ApiSettings
from batcher.core.holds import Pause
from batcher.errors import QueueUnavailable
from batcher.jobs.records import Counts, JobRecord
from tests.conftest import FakeRedis
from tests.unit.api.jobs.jobs_api import FAILURE, POSITIVE, JobsApi, serving
from tests.unit.api.jobs.test_pages import RECORD
from tests.unit.api.jobs.test_results import sent_for
from tests.unit.api.service import assert_problem
from tests.unit.fakes import RUNNING, FakeHub


async def test_every_state_of_a_job_is_shown(api: JobsApi) -> None:
    job_id = await api.new("a", "b")
    behind = await api.new("c")
    assert (await api.get(f"/{behind}")).json()["position"] == 2
    attempt = api.start(job_id)
    running = (await api.get(f"/{job_id}")).json()
    assert (running["status"], running["position"], running["remaining_s"]) == ("running", None, None)
    assert running["started_at"]
    assert (await api.get(f"/{behind}")).json()["position"] == 1
    api.store.append(attempt, 0, [], counts=Counts(), rate=0.5, model="")
    assert (await api.get(f"/{job_id}")).json()["remaining_s"] == 4.0
    api.finish(attempt, POSITIVE, FAILURE)
    finished = (await api.get(f"/{job_id}")).json()
    assert (finished["status"], finished["done"], finished["failed"]) == ("finished", 2, 1)
    assert (finished["rate"], finished["remaining_s"], finished["model"]) == (None, None, "m@r")
    api.store.end(api.start(behind), "failed", "job_timeout", "too long")
    failed = (await api.get(f"/{behind}")).json()
    assert (failed["status"], failed["error"]) == ("failed", {"code": "job_timeout", "detail": "too long"})


async def test_a_job_says_why_it_cannot_go_on(fake_redis: FakeRedis) -> None:
    """A job for a model whose last worker had left was accepted without a word."""
    hub = FakeHub(snapshot=replace(RUNNING, workers=0))
    async with serving(fake_redis, ApiSettings(), hub) as api:
        answer = await api.submit("a")
        assert (answer.status_code, answer.json()["waits_for"]) == (202, "no_worker")
        job_id = answer.json()["id"]
        paused = replace(RUNNING, pauses={"bulk": Pause("keep", time.monotonic() + 60)})
        for hub.snapshot, why in ((paused, "paused"), (RUNNING, None)):
            assert (await api.get(f"/{job_id}")).json()["waits_for"] == why
            assert (await api.get("")).json()["jobs"][0]["waits_for"] == why
        hub.snapshot = replace(RUNNING, workers=0)
        api.store.cancel(job_id)
        assert (await api.get(f"/{job_id}")).json()["waits_for"] is None


@pytest.mark.parametrize("path", ["", "/events", "/predictions"])
async def test_a_job_nobody_knows_is_404(api: JobsApi, path: str) -> None:
    assert_problem(await api.get(f"/{'0' * 32}{path}"), 404, "not_found")
    assert_problem(await api.get(f"/nonsense{path}"), 404, "not_found")


async def test_a_long_poll_ends_when_progress_changes(api: JobsApi) -> None:
    job_id = await api.new("a", "b")
    polling = asyncio.create_task(api.get(f"/{job_id}", wait=20))
    await api.all_wait(1)
    api.start(job_id)
    answer = await asyncio.wait_for(polling, 60)
    assert answer.json()["status"] == "running"


async def test_a_long_poll_without_news_ends_in_time(api: JobsApi) -> None:
    job_id = await api.new()
    answer = await api.get(f"/{job_id}", wait=0.4)
    assert answer.json()["status"] == "queued"


async def test_a_wait_of_no_time_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "TICK_S", 0.001)
    newer, asked = replace(RECORD, done=5), list[list[str]]()

    async def read(ids: Sequence[str]) -> list[JobRecord | None]:
        asked.append([*ids])
        return [newer]

    watch = JobWatch(read, bool)
    assert await watch.changed(RECORD, 0) is RECORD
    await asyncio.sleep(0.01)
    assert asked == []
    assert await watch.changed(RECORD, 1) is newer
    assert asked == [[RECORD.id]]
    await watch.stop()


async def test_a_wait_ends_with_its_job_also_if_another_of_its_id_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream of events went on with the other job, although it says `gone` where no other has begun."""
    monkeypatch.setattr(watcher, "TICK_S", 0.001)

    async def read(ids: Sequence[str]) -> list[JobRecord | None]:
        return [replace(RECORD, place=f"1799999999999999:{job_id}") for job_id in ids]

    watch = JobWatch(read, bool)
    assert await watch.changed(RECORD, 60) is None
    await watch.stop()


async def test_waits_that_begin_or_end_while_jobs_are_read_disturb_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, asked, pauses = replace(RECORD, id="b" * 32), list[list[str]](), list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    async def read(ids: Sequence[str]) -> list[JobRecord | None]:
        asked.append([*ids])
        if len(asked) == 1:
            waits.append(asyncio.create_task(watch.changed(other, 60)))
            await asyncio.sleep(0)
            waits[0].cancel()
        return [replace(RECORD, id=job_id, done=5) for job_id in ids]

    monkeypatch.setattr(watcher, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pause}))
    watch = JobWatch(read, bool)
    waits = [asyncio.create_task(watch.changed(RECORD, 60)) for _ in range(2)]
    async with asyncio.timeout(30):
        cancelled, *changed = await asyncio.gather(*waits, return_exceptions=True)
        changed.append(await waits[2])
    assert isinstance(cancelled, asyncio.CancelledError)
    assert changed == [replace(one, done=5) for one in (RECORD, other)]
    assert asked[:2] == [[RECORD.id], [other.id]]
    assert pauses[: len(asked)] == [watcher.TICK_S] * len(asked)


async def test_a_watcher_that_stops_reads_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "TICK_S", 0.001)
    asked, begun = list[int](), asyncio.Event()

    async def read(ids: Sequence[str]) -> list[JobRecord | None]:
        asked.append(len(ids))
        begun.set()
        return [RECORD for _ in ids]

    watch = JobWatch(read, bool)
    waits = asyncio.create_task(watch.changed(RECORD, 60))
    async with asyncio.timeout(30):
        await begun.wait()
        await watch.stop()
    before = len(asked)
    await asyncio.sleep(0.01)
    assert len(asked) == before
    waits.cancel()


async def test_a_long_poll_of_an_ended_job_does_not_wait(api: JobsApi) -> None:
    job_id = await api.new()
    api.store.cancel(job_id)
    answer = await asyncio.wait_for(api.get(f"/{job_id}", wait=60), 2)
    assert answer.json()["status"] == "cancelled"


async def test_a_long_poll_ends_with_404_when_the_job_is_deleted(api: JobsApi) -> None:
    job_id = await api.new()
    polling = asyncio.create_task(api.get(f"/{job_id}", wait=20))
    await api.all_wait(1)
    api.redis.delete(*api.redis.scan_iter(f"*{job_id}*"))
    assert_problem(await asyncio.wait_for(polling, 60), 404, "not_found")


async def test_an_event_stream_of_a_deleted_job_ended_as_if_nothing_had_happened(
    api: JobsApi, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await api.new()
    listening = asyncio.create_task(sent_for(api, f"{job_id}/events"))
    await api.all_wait(1)
    api.redis.delete(*api.redis.scan_iter(f"*{job_id}*"))
    sent = await asyncio.wait_for(listening, 60)
    assert sent[-1]["body"].startswith(b"event: gone\ndata: {")
    assert sent[-1]["more_body"], "the connection is cut"
    assert [record.__dict__["action"] for record in caplog.records if record.levelname == "WARNING"] == [
        "response.cut"
    ]


async def test_long_polls_end_when_the_process_drains(api: JobsApi) -> None:
    job_id = await api.new()
    polling = [asyncio.create_task(api.get(f"/{job_id}", wait=60)) for _ in range(3)]
    await api.all_wait(3)
    api.lifecycle.draining = True
    answers = await asyncio.wait_for(asyncio.gather(*polling), 30)
    assert {answer.json()["status"] for answer in answers} == {"queued"}


def events_of(answer: httpx.Response) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, id and data of each event."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        events.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return events


async def test_events_tell_every_change_and_the_end(api: JobsApi) -> None:
    job_id = await api.new("a", "b")
    listening = asyncio.create_task(api.get(f"/{job_id}/events"))
    polling = asyncio.create_task(api.get(f"/{job_id}", wait=60))
    await api.all_wait(2)
    attempt = api.start(job_id)
    assert (await polling).json()["status"] == "running"
    await api.all_wait(1)
    api.finish(attempt, POSITIVE, POSITIVE)
    events = events_of(await asyncio.wait_for(listening, 60))
    seen = [(name, data["status"]) for name, _, data in events]
    assert seen == [("progress", "queued"), ("progress", "running"), ("end", "finished")]
    assert len({event_id for _, event_id, _ in events}) == 3


async def test_events_outlive_an_outage_of_redis(api: JobsApi, fake_redis: FakeRedis) -> None:
    job_id = await api.new("a", "b")
    listening = asyncio.create_task(api.get(f"/{job_id}/events"))
    await api.all_wait(1)
    fake_redis.server.connected = False
    await asyncio.sleep(0.6)
    fake_redis.server.connected = True
    api.store.cancel(job_id)
    answer = await asyncio.wait_for(listening, 60)
    assert ": still here" in answer.text
    assert answer.text.count("event: end") == 1


async def test_events_pause_while_redis_does_not_answer(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, pauses, placed = await api.new("a"), list[float](), JobService.placed

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        api.store.cancel(job_id)

    async def away(service: JobService, record: JobRecord) -> Job:
        if len(pauses) < 3:
            raise QueueUnavailable("away")
        return await placed(service, record)

    # Only for this module: other loops sleep, too.
    monkeypatch.setattr(routes, "asyncio", SimpleNamespace(sleep=pause))
    monkeypatch.setattr(JobService, "placed", away)
    answer = await api.get(f"/{job_id}/events")
    begins = [event.partition("\n")[0] for event in answer.text.split("\n\n")]
    assert begins == [*[": still here"] * 3, "event: progress", "event: end", ""]
    assert pauses == [routes.PAUSE_S] * 3


async def test_events_go_on_after_the_last_one_seen(api: JobsApi) -> None:
    job_id = await api.new("a", "b")
    record = api.store.record(job_id)
    assert record is not None
    api.store.cancel(job_id)
    path, headers = f"/jobs/{job_id}/events", {"last-event-id": record.version}
    (event,) = events_of(await api.client.get(path, headers=headers))
    assert event[0] == "end"
    over = await api.client.get(path, headers={"last-event-id": event[1]})
    assert over.status_code == 204, "or the browser would come back for ever"


async def test_a_job_of_the_same_id_sends_its_own_end(api: JobsApi) -> None:
    """A browser that had seen the end of the former job got 204 for good."""
    ids = list[str]()
    for text in ("a", "b"):
        job_id = (await api.submit(text, idempotency_key="k")).json()["id"]
        api.store.cancel(job_id)
        headers = {"last-event-id": ids[0]} if ids else {}
        answer = await api.client.get(f"/jobs/{job_id}/events", headers=headers)
        ((name, event_id, _),) = events_of(answer)
        assert name == "end"
        ids.append(event_id)
        api.store.delete(job_id)
    assert ids[0] != ids[1]


async def test_an_event_that_was_seen_is_not_sent_again(api: JobsApi) -> None:
    job_id = await api.new("a", "b")
    record = api.store.record(job_id)
    assert record is not None
    headers = {"last-event-id": record.version}
    listening = asyncio.create_task(api.client.get(f"/jobs/{job_id}/events", headers=headers))
    await api.all_wait(1)
    api.store.cancel(job_id)
    events = events_of(await asyncio.wait_for(listening, 60))
    assert [name for name, _, _ in events] == ["end"]
