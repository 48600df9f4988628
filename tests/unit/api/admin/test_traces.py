"""Timelines of requests: with the real hub over a fake Redis, and a worker that the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.admin.traces import Traces, timeline
from api.predict.request_log import MAX_ANSWERS, MAX_HITS, MAX_SLOW
from batcher.core.commands import AskQuestion, EndQuestion, Question
from batcher.hub.hub import ReplyHub
from batcher.messages import Prediction, entry_id, fragment
from batcher.worker.heartbeat import HeartbeatQueue
from tests.conftest import FakeRedis
from tests.fakes import heartbeat_queue, shard_hub
from tests.unit.api.admin.conftest import ADMIN, AdminApi, P, Start
from tests.unit.api.admin.test_pauses import until
from tests.unit.api.service import assert_problem
from tests.unit.fakes import REVISION

RECORD = {"revision": REVISION, "engine": "stub", "precision": "f32", "state": "idle", "rate": 1000}
RECORD |= {"batches": 0, "texts": 0, "last_batch": 0, "started_ms": 1}
MODEL = {
    "name": "m",
    "revision": REVISION,
    "labels": "N\nP",
    "max_tokens": 9,
    "engine": "stub",
    "precision": "f32",
}


@asynccontextmanager
async def beating(api: AdminApi) -> AsyncIterator[None]:
    """The hub sweeps, and the process publishes, more often than once a second."""

    async def send_heartbeats() -> None:
        while True:
            await api.hub.parts[0].sweep()  # type: ignore[attr-defined]
            await asyncio.sleep(0.02)

    task = asyncio.create_task(send_heartbeats())
    yield
    task.cancel()


@pytest.fixture
async def api(start: Start, fake_redis: FakeRedis) -> AdminApi:
    return await served(start, fake_redis)


async def served(start: Start, fake_redis: FakeRedis) -> AdminApi:
    hub: Any = ReplyHub([shard_hub(fake_redis.aio, fake_redis.aio, name="default", cost=1000)])
    api = await start(hub, default_budget_s=20.0)
    worker(api).heartbeat([], RECORD, MODEL, 60_000, takeover=True)
    await hub.parts[0].sweep()
    return api


def worker(api: AdminApi) -> HeartbeatQueue:
    return heartbeat_queue(api.redis, "default", "w1", lease_ms=60_000, max_attempts=1, result_ms=60_000)


async def classified(api: AdminApi, request_id: str, *texts: str) -> None:
    """Sends a request, and answers it as a worker whose batch has two texts of others."""
    asking = asyncio.create_task(
        api.client.post("/predict", json={"text": list(texts)}, headers={"x-request-id": request_id})
    )
    await until(lambda: api.redis.exists(f"{P}:q"))
    queue = worker(api)
    result = Prediction(fragment(("N", "P"), (0.25, 0.75)), REVISION, 3, 0, 1.5, 0.1, 2.5, len(texts) + 2)
    queue.complete([(entry.id, result.encode()) for entry in queue.claim(10, 100, 100).entries])
    assert (await asking).status_code == 200


def batch(entry: str, **facts: Any) -> dict[str, Any]:
    """What a worker remembers of a text."""
    return {
        "id": entry,
        "waited_ms": 0,
        "attempts": 1,
        "at_ms": round(time.time() * 1000),
        "queue_ms": 1.5,
        "batch": 7,
        "size": 4,
        "tokens": 30,
        "computed_tokens": 64,
        "reason": "window",
        "model_ms": 2.5,
        **facts,
    }


async def test_a_request_that_workers_remember(api: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Traces, "open_s", 60.0)
    await classified(api, "one", "a", "b")
    queue = worker(api)
    queue.recall = lambda ids: [batch(one) for one in ids]
    asking = asyncio.create_task(api.get("/traces/one"))
    await until(lambda: api.redis.hget(f"{P}:snapshot", "asked"))
    queue.heartbeat([], RECORD, MODEL, 60_000)
    queue.heartbeat([], RECORD, MODEL, 60_000)
    found = (await asking).json()
    assert {name: found[name] for name in ("request_id", "client", "texts", "tokens", "status")} == {
        "request_id": "one",
        "client": "127.0.0.1",
        "texts": 2,
        "tokens": 6,
        "status": 200,
    }
    assert [step["step"] for step in found["timeline"]] == [
        "received",
        "cache",
        "queued",
        "claimed",
        "batch",
        "answered",
    ]
    assert [step["at_ms"] for step in found["timeline"]] == sorted(
        step["at_ms"] for step in found["timeline"]
    )
    claimed, ran = found["timeline"][3:5]
    assert (claimed["worker"], claimed["texts"], claimed["attempts"]) == ("w1", 2, 1)
    assert {name: ran[name] for name in ran if name != "at_ms"} == {
        "step": "batch",
        "worker": "w1",
        "texts": 2,
        "batch": 7,
        "size": 4,
        "others": 2,
        "joined": False,
        "tokens": 30,
        "computed_tokens": 64,
        "reason": "window",
        "model_ms": 2.5,
    }
    (answers,) = api.redis.keys(f"{P}:answers:*")
    assert api.redis.llen(answers) == 1, "a worker answers once"
    assert 0 < api.redis.pttl(answers) <= 10_000
    await until(lambda: not api.redis.hexists(f"{P}:snapshot", "asked"))


async def test_a_worker_that_is_gone_leaves_the_numbers_of_the_results(api: AdminApi) -> None:
    await classified(api, "two", "a")
    ran = (await api.get("/traces/two")).json()["timeline"][3]
    assert {name: ran[name] for name in ("step", "worker", "size", "others", "model_ms")} == {
        "step": "batch",
        "worker": None,
        "size": 3,
        "others": 2,
        "model_ms": 2.5,
    }


async def test_a_known_text_and_a_refusal_have_a_timeline_too(api: AdminApi) -> None:
    await classified(api, "three", "a")
    await api.client.post("/predict", json={"text": ["a"]}, headers={"x-request-id": "hit"})
    await api.client.post("/predict", json={"text": 1}, headers={"x-request-id": "bad"})
    hit = (await api.get("/traces/hit")).json()
    assert [step["step"] for step in hit["timeline"]] == ["received", "cache", "answered"]
    assert hit["timeline"][1]["in_process"] == 1
    bad = (await api.get("/traces/bad")).json()
    assert [step["step"] for step in bad["timeline"]] == ["received", "answered"]
    assert bad["status"] == 422


async def test_another_process_is_asked(
    start: Start, fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Traces, "open_s", 60.0)
    monkeypatch.setattr("api.main.PUBLISH_EVERY_S", 0.02)
    one, other = await served(start, fake_redis), await served(start, fake_redis)
    await one.client.post("/predict", json={"text": 1}, headers={"x-request-id": "there"})
    async with beating(one), beating(other):
        found = await other.get("/traces/there")
    assert (found.status_code, found.json()["status"]) == (200, 422)


async def test_a_request_that_nobody_remembers_says_where_to_look(api: AdminApi) -> None:
    answer = await api.get("/traces/nothing")
    assert_problem(answer, 404, "trace_not_found")
    assert "log line with this request_id" in answer.json()["detail"]


async def test_one_question_is_asked_at_a_time(api: AdminApi) -> None:
    first, second = Question("1", "request", ("a",)), Question("2", "texts", ("b",))
    run = api.hub.console.run
    assert await run(AskQuestion(first, 60_000))
    assert not await run(AskQuestion(second, 60_000))
    await api.hub.parts[0].sweep()  # type: ignore[attr-defined]
    assert api.hub.snapshot.question == first
    await run(EndQuestion("2"))
    assert not await run(AskQuestion(second, 60_000)), "only its asker ends a question"
    await run(EndQuestion("1"))
    assert await run(AskQuestion(second, 60_000))


async def test_finding_36_a_worker_answers_again_with_what_it_wrote_down_since(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker sends results, and remembers the batch some milliseconds later. A heartbeat may be between."""
    monkeypatch.setattr(Traces, "open_s", 60.0)
    await classified(api, "late", "a", "b")
    queue, known = worker(api), list[dict[str, Any]]()
    queue.recall = lambda ids: known
    asking = asyncio.create_task(api.get("/traces/late"))
    await until(lambda: api.redis.hget(f"{P}:snapshot", "asked"))
    for number, text in enumerate("ab"):
        queue.heartbeat([], RECORD, MODEL, 60_000)
        known.append(batch(entry_id(text), batch=number))
    queue.heartbeat([], RECORD, MODEL, 60_000)
    ran = [step for step in (await asking).json()["timeline"] if step["step"] == "batch"]
    assert [(step["worker"], step["batch"]) for step in ran] == [("w1", 0), ("w1", 1)]


async def test_a_question_that_was_never_ended_is_replaced(api: AdminApi) -> None:
    run = api.hub.console.run
    assert await run(AskQuestion(Question("1", "request", ("a",)), 0))
    queue, asked = worker(api), list[object]()
    queue.recall = lambda ids: asked.append(ids) or ()  # type: ignore[func-returns-value]
    queue.heartbeat([], RECORD, MODEL, 60_000)
    assert await run(AskQuestion(Question("2", "request", ("b",)), 60_000))
    assert asked == []


async def test_no_text_is_kept(api: AdminApi) -> None:
    await classified(api, "four", "a secret text")
    held = api.app._handler.request_log.recent  # type: ignore[attr-defined]
    assert "secret" not in repr([*held._hits, *held._answers.seen, *held._slow.seen])


async def test_a_forgotten_client_leaves_the_memory_of_every_process(
    start: Start, fake_redis: FakeRedis
) -> None:
    one, other = await served(start, fake_redis), await served(start, fake_redis)
    for api in (one, other):
        await api.client.post("/predict", json={"text": 1}, headers={"x-request-id": "some"})
    await one.post("/forget", client="127.0.0.1")
    await other.hub.parts[0].sweep()  # type: ignore[attr-defined]
    for api in (one, other):
        await api.client.get("/metrics")  # publishes, and follows what operators did
        assert api.app._handler.request_log.recent.find("some") is None  # type: ignore[attr-defined]


async def test_a_text_that_another_process_has_was_stored_after_it_was_forgotten(
    start: Start, fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered, and its request waits for another text: nothing in Redis shows that."""
    monkeypatch.setattr(Traces, "open_s", 60.0)
    one, other = await served(start, fake_redis), await served(start, fake_redis)
    asking = asyncio.create_task(other.client.post("/predict", json={"text": ["secret", "another"]}))
    await until(lambda: one.redis.exists(f"{P}:q"))
    queue = worker(one)
    result = Prediction(fragment(("N", "P"), (0.25, 0.75)), REVISION, 3, 0, 1.5, 0.1, 2.5, 1).encode()
    first, last = queue.claim(10, 100, 100).entries
    queue.complete([(first.id, result)])
    forgetting = asyncio.create_task(one.post("/forget", text="secret"))
    await until(lambda: one.redis.hget(f"{P}:snapshot", "asked"))
    assert one.redis.exists(f"{P}:res:{first.id}")
    await other.hub.parts[0].sweep()  # type: ignore[attr-defined]
    await other.client.get("/metrics")  # publishes, and answers the question
    removed = (await forgetting).json()["removed"]
    assert (removed["results"], removed["waiting"]) == (1, 1)
    queue.complete([(last.id, result)])
    assert (await asking).status_code == 200
    monkeypatch.setattr(Traces, "open_s", 0.1)
    assert (await one.post("/forget", text="secret")).json()["removed"]["waiting"] == 0
    assert one.redis.hget(f"{P}:snapshot", "asked") is None


async def test_what_is_kept_is_bounded(api: AdminApi) -> None:
    held = api.app._handler.request_log.recent  # type: ignore[attr-defined]
    sizes = [held._hits.maxlen, held._answers.most, held._slow.most]
    assert sizes == [MAX_HITS, MAX_ANSWERS, MAX_SLOW]


async def test_of_two_requests_with_the_same_id_the_newer_one_is_shown(api: AdminApi) -> None:
    headers = {"x-request-id": "same"}
    await api.client.post("/predict", json={"text": 1}, headers=headers)
    await api.client.post("/predict", content=b"", headers={**headers, "content-type": "text/css"})
    assert (await api.get("/traces/same")).json()["status"] == 415


async def test_an_error_in_another_dialect_is_shown_with_its_code(api: AdminApi) -> None:
    await api.client.post("/predict", json={"inputs": 1}, headers={"x-request-id": "foreign"})
    shown = (await api.get("/traces/foreign")).json()
    assert (shown["status"], shown["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("request_id", ["a b", "*", "x" * 129, "a%0d%0aTEXTS", "%00", "a;b"])
async def test_a_hostile_id_is_422(api: AdminApi, request_id: str) -> None:
    assert (await api.client.get(f"/admin/traces/{request_id}", headers=ADMIN)).status_code == 422
    assert not api.redis.hexists(f"{P}:snapshot", "asked")


TIMES = st.floats(0, 1e5, allow_nan=False)


@given(asked_ms=TIMES, ms=TIMES, queue_ms=TIMES, waited_ms=st.integers(0, 10**6), model_ms=TIMES)
def test_every_step_lies_between_the_first_and_the_last(
    asked_ms: float, ms: float, queue_ms: float, waited_ms: int, model_ms: float
) -> None:
    asked_ms = min(asked_ms, ms)
    run = {
        "entry": entry_id("b"),
        "texts": 1,
        "tokens": 3,
        "queue_ms": queue_ms,
        "model_ms": model_ms,
        "size": 2,
    }
    facts = {"received_at": "2026-11-23T00:00:00.000+00:00", "ms": ms, "texts": 2, "local": 0, "shared": 0}
    facts |= {"asked": 2, "asked_ms": asked_ms, "status": 200, "code": "", "runs": [run]}
    at_ms = 1_795_392_000_000
    known = batch(entry_id("a"), worker="w", revision=REVISION, at_ms=at_ms, queue_ms=queue_ms)
    known |= {"model_ms": model_ms, "waited_ms": waited_ms}
    found = timeline(facts, [known])
    assert [step["step"] for step in found].count("batch") == 2
    assert (found[0]["step"], found[-1]["step"]) == ("received", "answered")
    times = [step["at_ms"] for step in found]
    assert all(one <= other + 0.001 for one, other in pairwise(times))
