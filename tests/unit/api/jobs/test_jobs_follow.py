"""GET /jobs/{id}, long polls and events: every state is shown, every wait ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.conftest import FakeRedis
from tests.unit.api.jobs.desk import FAILURE, POSITIVE, Desk
from tests.unit.api.pretended import assert_problem


async def test_every_state_of_a_job_is_shown(desk: Desk) -> None:
    job_id = await desk.new("a", "b")
    behind = await desk.new("c")
    assert (await desk.get(f"/{behind}")).json()["position"] == 2
    attempt = desk.start(job_id)
    running = (await desk.get(f"/{job_id}")).json()
    assert (running["status"], running["position"], running["remaining_s"]) == ("running", None, None)
    assert running["started_at"]
    assert (await desk.get(f"/{behind}")).json()["position"] == 1
    desk.store.append(attempt, 0, [], failed=0, rate=0.5, model="")
    assert (await desk.get(f"/{job_id}")).json()["remaining_s"] == 4.0
    desk.finish(attempt, POSITIVE, FAILURE)
    finished = (await desk.get(f"/{job_id}")).json()
    assert (finished["status"], finished["done"], finished["failed"]) == ("finished", 2, 1)
    assert (finished["rate"], finished["remaining_s"], finished["model"]) == (None, None, "m@r")
    desk.store.end(desk.start(behind), "failed", "job_timeout", "too long")
    failed = (await desk.get(f"/{behind}")).json()
    assert (failed["status"], failed["error"]) == ("failed", {"code": "job_timeout", "detail": "too long"})


@pytest.mark.parametrize("path", ["", "/events", "/predictions"])
async def test_a_job_nobody_knows_is_404(desk: Desk, path: str) -> None:
    assert_problem(await desk.get(f"/{'0' * 32}{path}"), 404, "not_found")
    assert_problem(await desk.get(f"/nonsense{path}"), 404, "not_found")


async def test_a_long_poll_ends_when_progress_changes(desk: Desk) -> None:
    job_id = await desk.new("a", "b")
    polling = asyncio.create_task(desk.get(f"/{job_id}", wait=20))
    await asyncio.sleep(0.05)
    assert not polling.done()
    desk.start(job_id)
    answer = await asyncio.wait_for(polling, 5)
    assert answer.json()["status"] == "running"


async def test_a_long_poll_without_news_ends_in_time(desk: Desk) -> None:
    job_id = await desk.new()
    answer = await desk.get(f"/{job_id}", wait=0.4)
    assert answer.json()["status"] == "queued"


async def test_a_long_poll_of_an_ended_job_does_not_wait(desk: Desk) -> None:
    job_id = await desk.new()
    desk.store.cancel(job_id)
    answer = await asyncio.wait_for(desk.get(f"/{job_id}", wait=60), 2)
    assert answer.json()["status"] == "cancelled"


async def test_a_long_poll_ends_with_404_when_the_job_is_deleted(desk: Desk) -> None:
    job_id = await desk.new()
    polling = asyncio.create_task(desk.get(f"/{job_id}", wait=20))
    await asyncio.sleep(0.05)
    desk.store.cancel(job_id)
    desk.store.delete(job_id)
    assert_problem(await asyncio.wait_for(polling, 5), 404, "not_found")


async def test_long_polls_end_when_the_process_drains(desk: Desk) -> None:
    job_id = await desk.new()
    polling = [asyncio.create_task(desk.get(f"/{job_id}", wait=60)) for _ in range(3)]
    await asyncio.sleep(0.05)
    desk.draining.append(True)
    answers = await asyncio.wait_for(asyncio.gather(*polling), 2)
    assert {answer.json()["status"] for answer in answers} == {"queued"}


def events_of(answer: httpx.Response) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, id and data of each event."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        events.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return events


async def test_events_tell_every_change_and_the_end(desk: Desk) -> None:
    job_id = await desk.new("a", "b")
    listening = asyncio.create_task(desk.get(f"/{job_id}/events"))
    await asyncio.sleep(0.05)
    attempt = desk.start(job_id)
    await asyncio.sleep(0.5)
    desk.finish(attempt, POSITIVE, POSITIVE)
    events = events_of(await asyncio.wait_for(listening, 5))
    told = [(name, data["status"]) for name, _, data in events]
    assert told == [("progress", "queued"), ("progress", "running"), ("end", "finished")]
    assert len({event_id for _, event_id, _ in events}) == 3


async def test_events_outlive_an_outage_of_redis(desk: Desk, fake_redis: FakeRedis) -> None:
    job_id = await desk.new("a", "b")
    listening = asyncio.create_task(desk.get(f"/{job_id}/events"))
    await asyncio.sleep(0.05)
    fake_redis.server.connected = False
    await asyncio.sleep(0.6)
    fake_redis.server.connected = True
    desk.store.cancel(job_id)
    answer = await asyncio.wait_for(listening, 5)
    assert ": still here" in answer.text
    assert answer.text.count("event: end") == 1


async def test_events_go_on_after_the_last_one_seen(desk: Desk) -> None:
    job_id = await desk.new("a", "b")
    record = desk.store.record(job_id)
    assert record is not None
    desk.store.cancel(job_id)
    path, headers = f"/jobs/{job_id}/events", {"last-event-id": record.version}
    (event,) = events_of(await desk.client.get(path, headers=headers))
    assert event[0] == "end"
    over = await desk.client.get(path, headers={"last-event-id": event[1]})
    assert over.status_code == 204, "or the browser would come back for ever"


async def test_an_event_that_was_seen_is_not_sent_again(desk: Desk) -> None:
    job_id = await desk.new("a", "b")
    record = desk.store.record(job_id)
    assert record is not None
    headers = {"last-event-id": record.version}
    listening = asyncio.create_task(desk.client.get(f"/jobs/{job_id}/events", headers=headers))
    await asyncio.sleep(0.05)
    desk.store.cancel(job_id)
    events = events_of(await asyncio.wait_for(listening, 5))
    assert [name for name, _, _ in events] == ["end"]
