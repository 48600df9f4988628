"""Waiting requests: clients that disconnect or send too much, processes that stop, and jobs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from api.asgi.http import Answer, RequestHeaders, unless_disconnected
from api.errors import Problem
from batcher.errors import BudgetExceeded, QueueFull
from batcher.messages import Prediction
from tests.unit.api.service import Service, Start, assert_problem, until
from tests.unit.fakes import FakeCache, FakeHub
from tests.unit.garbage import LARGE, collected_by_hand, large_garbage


class Connection:
    """A client at the ASGI interface. It sends a body, may disconnect, and records the response."""

    def __init__(self, body: bytes) -> None:
        self.messages: list[dict[str, Any]] = [{"type": "http.request", "body": body}]
        self.left = asyncio.Event()
        self.sent: list[Any] = []
        self.headers = [(b"content-type", b"application/json")]

    async def receive(self) -> Any:
        if self.messages:
            return self.messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def ask(self, service: Service, path: str = "/predict") -> asyncio.Task[None]:
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": self.headers,
            "client": None,
        }
        return asyncio.create_task(service.app(scope, self.receive, self.send))


@pytest.mark.parametrize(
    ("path", "body"), [("/predict", b'{"text": ["a"]}'), ("/classify", b'{"input": ["a"]}')]
)
async def test_a_client_that_leaves_takes_its_texts_with_it(
    start: Start, caplog: pytest.LogCaptureFixture, path: str, body: bytes
) -> None:
    caplog.set_level(logging.INFO, "api.predict.request_log")
    hub = FakeHub(gate=asyncio.Event())
    service = await start(hub)
    connection = Connection(body)
    request = connection.ask(service, path)
    await until(lambda: hub.asked)
    assert not request.done()
    connection.left.set()
    await request
    assert hub.cancelled == 1
    assert connection.sent == []
    (line,) = [record.__dict__ for record in caplog.records if record.__dict__.get("action") == "request"]
    assert [line[name] for name in ("route", "status", "code", "texts")] == [path, 499, "client_gone", 1]
    scraped = (await service.client.get("/metrics")).text
    assert f'millrace_requests_total{{route="{path}",status="499"}} 1.0' in scraped
    assert 'millrace_entries_total{outcome="cancelled"} 1.0' in scraped


@pytest.mark.parametrize(("path", "field"), [("/predict", "text"), ("/classify", "input")])
async def test_the_texts_of_a_client_that_left_stayed_in_memory_until_garbage_was_collected(
    start: Start, path: str, field: str
) -> None:
    service = await start(FakeHub(gate=asyncio.Event()), max_text_chars=LARGE)
    connection = Connection(json.dumps({field: ["x" * LARGE]}).encode())
    connection.left.set()
    with collected_by_hand():
        await connection.ask(service, path)
        found = large_garbage()
    assert service.hub.cancelled == 1
    assert not found, "\n".join(found)


class StuckCache(FakeCache):
    """A shared cache whose Redis does not answer."""

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]:
        self.lookups.append((revision, list(ids)))
        await asyncio.Event().wait()
        raise AssertionError("it never answers")


async def test_a_client_that_left_while_the_shared_cache_was_asked_was_waited_for(start: Start) -> None:
    """Only the queue was watched: the lookup went on for a client that was gone."""
    service = await start(cache=StuckCache())
    connection = Connection(b'{"text": ["a", "b"]}')
    request = connection.ask(service)
    await until(lambda: service.cache.lookups)
    connection.left.set()
    await request
    assert connection.sent == []
    assert service.hub.asked == []
    scraped = (await service.client.get("/metrics")).text
    assert 'millrace_entries_total{outcome="cancelled"} 2.0' in scraped


async def test_a_client_that_leaves_while_sending_is_not_answered(service: Service) -> None:
    connection = Connection(b'{"te')
    connection.messages[0]["more_body"] = True
    connection.left.set()
    await connection.ask(service)
    assert connection.sent == []


async def test_a_body_that_stops_arriving(start: Start) -> None:
    service = await start(body_timeout_s=0.02)
    connection = Connection(b'{"te')
    connection.messages[0]["more_body"] = True
    await connection.ask(service)
    assert connection.sent[0]["status"] == 408
    assert (b"connection", b"close") in connection.sent[0]["headers"]


async def test_an_answer_of_a_process_that_ends_closes_its_connection(service: Service) -> None:
    for draining in (False, True):
        service.lifecycle.draining = draining
        assert ("connection" in (await service.predict("a")).headers) is draining


async def test_a_budget_of_nothing_asks_only_the_caches(service: Service) -> None:
    service.cache.keep("known")
    assert (await service.predict("known", prefer="wait=0")).status_code == 200
    assert_problem(await service.predict("unknown", prefer="wait=0"), 504, "budget_exceeded")
    assert service.hub.asked == []


def watches() -> list[asyncio.Task[Any]]:
    """The tasks that watch whether a client has left."""
    own = f"{unless_disconnected.__name__}.<locals>"
    return [task for task in asyncio.all_tasks() if own in getattr(task.get_coro(), "__qualname__", "")]


async def test_watching_a_client_ends_with_the_answer(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.asgi.http.WATCH_AFTER_S", 0)
    hub = FakeHub(gate=asyncio.Event())
    connection = Connection(b'{"text": ["a"]}')
    request = connection.ask(await start(hub))
    await until(watches)
    assert hub.gate is not None
    hub.gate.set()
    await request
    assert connection.sent[0]["status"] == 200
    await until(lambda: not watches())


async def test_cancelled_from_outside_stays_cancelled(start: Start) -> None:
    hub = FakeHub(gate=asyncio.Event())
    request = Connection(b'{"text": ["a"]}').ask(await start(hub))
    await until(lambda: hub.asked)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert hub.cancelled == 1


async def test_who_still_waits_when_the_drain_runs_out_is_told(start: Start) -> None:
    hub = FakeHub(gate=asyncio.Event())
    service = await start(hub)
    connection = Connection(b'{"text": ["a"]}')
    request = connection.ask(service)
    await until(lambda: hub.asked)
    service.lifecycle.draining = True
    request.cancel()
    await request
    assert connection.sent[0]["status"] == 503
    assert b'"code":"draining"' in connection.sent[1]["body"]


async def test_a_client_may_have_only_so_many_texts_waiting(start: Start) -> None:
    hub = FakeHub(gate=asyncio.Event())
    service = await start(hub, max_client_texts=3)
    service.cache.keep("known")
    first = asyncio.create_task(service.predict("a", "b"))
    await until(lambda: hub.asked)
    refused = await service.predict("c", "d")
    problem = assert_problem(refused, 429, "client_limit")
    assert problem["detail"] == "this client has 2 texts waiting already, of at most 3: wait for results"
    assert refused.headers["retry-after"] == "1"
    assert (await service.predict("known")).status_code == 200
    second = asyncio.create_task(service.predict("c", "known"))
    await until(lambda: len(hub.asked) == 2)
    assert hub.gate is not None
    hub.gate.set()
    assert [(await task).status_code for task in (first, second)] == [200, 200]
    assert (await service.predict("e", "f", "g")).status_code == 200


async def test_the_cap_counts_each_client_alone(start: Start) -> None:
    hub = FakeHub(gate=asyncio.Event())
    service = await start(hub, max_client_texts=1)
    first = asyncio.create_task(service.predict("a"))
    await until(lambda: hub.asked)
    other = Connection(b'{"text": ["b"]}')
    other_request = other.ask(service)
    await until(lambda: len(hub.asked) == 2)
    assert hub.gate is not None
    hub.gate.set()
    await asyncio.gather(first, other_request)
    assert other.sent[0]["status"] == 200


class Jobs:
    """A fake deferral."""

    def __init__(self) -> None:
        self.made: list[list[str]] = []
        self.refusal: Problem | None = None

    async def __call__(self, head: RequestHeaders, texts: list[str]) -> Answer:
        if self.refusal is not None:
            raise self.refusal
        self.made.append(texts)
        return Answer(202, [(b"location", b"/jobs/1")], b'{"id":"1"}')


async def start_with_jobs(start: Start, hub: FakeHub) -> tuple[Service, Jobs]:
    jobs = Jobs()
    return await start(hub, deferral=jobs), jobs


async def test_respond_async_makes_a_job(start: Start) -> None:
    service, jobs = await start_with_jobs(start, FakeHub())
    response = await service.predict("a", "b", prefer="respond-async")
    assert (response.status_code, response.headers["location"]) == (202, "/jobs/1")
    assert len(response.headers["x-request-id"]) == 32
    assert jobs.made == [["a", "b"]]
    assert service.hub.asked == []


async def test_respond_async_with_a_wait_makes_a_job_only_when_the_wait_was_in_vain(start: Start) -> None:
    service, jobs = await start_with_jobs(start, FakeHub())
    assert (await service.predict("a", prefer="respond-async, wait=2")).status_code == 200
    for refusal in (BudgetExceeded("over"), QueueFull("full")):
        service.hub.refusal = refusal
        assert (await service.predict("b", prefer="respond-async, wait=2")).status_code == 202
    assert jobs.made == [["b"], ["b"]]


async def test_a_job_that_is_refused_answers_for_itself(start: Start) -> None:
    service, jobs = await start_with_jobs(start, FakeHub())
    jobs.refusal = Problem(429, "too many jobs wait", code="jobs_full")
    assert_problem(await service.predict("a", prefer="respond-async"), 429, "jobs_full")


async def test_finding_11_texts_that_wait_have_a_bound_together(start: Start) -> None:
    """Joining an entry that is running adds no work, but each waiting request holds a copy of its text."""
    service = await start(FakeHub(gate=asyncio.Event()), max_body_bytes=2048, max_text_chars=2000)
    text = "x" * 1900
    waiting = [asyncio.create_task(service.predict(text)) for _ in range(60)]
    done, _ = await asyncio.wait(waiting, timeout=2)
    assert service.hub.gate is not None
    service.hub.gate.set()
    answers = await asyncio.gather(*waiting)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.json()["code"] for answer in refused} == {"too_many_bodies"}
    assert 40 < len(refused) == len(done) < 50
    assert (await service.predict("new")).status_code == 200, "what was held is free again"
