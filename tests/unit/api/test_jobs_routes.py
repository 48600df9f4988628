"""Every route of /jobs and every state of a job, on a pretended Redis. No worker runs: the tests play it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import pytest
import redis

from api.edge import Edge
from api.job_desk import JobDesk
from api.main import create_app
from api.settings import ApiSettings
from batcher.job_queue import JobQueue
from batcher.job_record import Attempt
from batcher.job_store import JobStore
from tests.conftest import FakeRedis
from tests.unit.api.pretended import FakeCache, FakeHub, assert_problem

NDJSON = {"content-type": "application/x-ndjson"}
CSV = {"content-type": "text/csv"}
POSITIVE = [{"label": "NEGATIVE", "score": 0.25}, {"label": "POSITIVE", "score": 0.75}]
FAILURE = {"error": {"code": "inference_failed", "detail": "the model failed on this text"}}


@dataclass
class Desk:
    """A running edge, and the store behind it, to play the worker with."""

    app: Edge
    client: httpx.AsyncClient
    redis: redis.Redis
    store: JobStore
    queue: JobQueue
    draining: list[bool]

    async def submit(self, *texts: str, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/jobs", json={"text": texts}, headers=names)

    async def new(self, *texts: str) -> str:
        """The id of a new job."""
        answer = await self.submit(*(texts or ("a", "b", "c")))
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.client.get(f"/jobs{path}", params=params)

    def start(self, job_id: str) -> Attempt:
        return self.store.start(job_id)

    def finish(self, attempt: Attempt, *results: Any) -> None:
        lines = b"\n".join(json.dumps(result, separators=(",", ":")).encode() for result in results)
        failed = sum(isinstance(result, dict) for result in results)
        assert self.store.append(attempt, 0, [lines], failed=failed, rate=2.0, model="m@r") == "running"
        self.store.end(attempt, "finished")

    def held(self) -> list[bytes]:
        return [key for key in self.redis.scan_iter() if b":totals" not in key and key != b"rq:queues"]


Start = Callable[..., Awaitable[Desk]]


@asynccontextmanager
async def serving(fake: FakeRedis, settings: ApiSettings) -> AsyncIterator[Desk]:
    draining: list[bool] = []
    store, queue = JobStore(fake.sync, settings.name, settings.job_ttl_s), JobQueue(fake.sync, settings)
    desk = JobDesk(store, queue, settings, lambda: bool(draining))
    app = create_app(settings, hub=FakeHub(), cache=FakeCache(), jobs=desk)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://mill") as client,
    ):
        yield Desk(app, client, fake.sync, store, queue, draining)


@pytest.fixture
async def start(fake_redis: FakeRedis) -> AsyncIterator[Start]:
    """Starts an edge with the given settings: `await start(max_waiting_jobs=1)`."""
    contexts = []

    async def make(**settings: Any) -> Desk:
        contexts.append(serving(fake_redis, ApiSettings(**settings)))
        return await contexts[-1].__aenter__()

    yield make
    for context in contexts:
        await context.__aexit__(None, None, None)


@pytest.fixture
async def desk(start: Start) -> Desk:
    return await start()


# -- POST /jobs ------------------------------------------------------------------------------------


async def test_a_job_is_taken_in(desk: Desk) -> None:
    answer = await desk.submit("a", "b", "c")
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["status"], job["total"], job["done"], job["failed"]) == ("queued", 3, 0, 0)
    assert (job["position"], job["started_at"], job["error"]) == (1, None, None)
    assert job["created_at"].endswith("Z")
    assert desk.queue.rq.get_job_ids() == [job["id"]]
    assert desk.store.input(job["id"], 0) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (NDJSON, b'"a"\n{"text": "b, c"}\n'),
        ({"content-type": "application/jsonl; charset=utf-8"}, b'"a"\n"b, c"'),
        (CSV, b'id,text\n1,a\n2,"b, c"\n'),
        ({"content-type": "application/json"}, b'{"text": ["a", "b, c"]}'),
        ({}, b'{"text": ["a", "b, c"]}'),
        ({"content-type": "application/x-www-form-urlencoded"}, b'{"text": ["a", "b, c"]}'),
    ],
)
async def test_three_forms_of_body_make_the_same_job(
    desk: Desk, headers: dict[str, str], body: bytes
) -> None:
    answer = await desk.client.post("/jobs", content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    assert desk.store.input(answer.json()["id"], 0) == ["a", "b, c"]


async def test_a_large_body_is_stored_in_chunks(desk: Desk) -> None:
    texts = [f"text {number}" for number in range(1000)]
    job_id = await desk.new(*texts)
    chunks = [desk.store.input(job_id, number) for number in range(5)]
    assert chunks[4] is None
    assert [text for chunk in chunks if chunk for text in chunk] == texts
    assert len(chunks[0] or ()) == 256


async def test_a_text_that_is_too_long_is_stored_as_none(start: Start) -> None:
    desk = await start(max_text_chars=3)
    job_id = await desk.new("abc", "abcd")
    assert desk.store.input(job_id, 0) == ["abc", None]


async def test_a_bad_line_is_named_and_nothing_is_kept(desk: Desk) -> None:
    body = b'"a"\n' * 600 + b"5\n"
    answer = await desk.client.post("/jobs", content=body, headers=NDJSON)
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["line"] == 601
    assert desk.held() == []


@pytest.mark.parametrize("body", [b'{"text": []}', b""])
async def test_a_job_without_texts_is_none(desk: Desk, body: bytes) -> None:
    assert_problem(await desk.client.post("/jobs", content=body), 422, "invalid_request")
    assert desk.held() == []


@pytest.mark.parametrize("stated", [True, False])
async def test_a_body_over_the_limit_is_refused_and_nothing_is_kept(start: Start, stated: bool) -> None:
    desk = await start(max_job_body_bytes=10_000)
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b'"text"\n' * 200

    headers = {**NDJSON, "content-length": "140000"} if stated else NDJSON
    assert_problem(await desk.client.post("/jobs", content=body(), headers=headers), 413, "too_large")
    assert desk.held() == []


async def test_another_content_type_is_415(desk: Desk) -> None:
    answer = await desk.client.post("/jobs", content=b"x", headers={"content-type": "text/html"})
    assert_problem(answer, 415, "unsupported_media_type")
    assert "text/csv" in answer.headers["accept"]


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(desk: Desk) -> None:
    messages = [
        {"type": "http.request", "body": b'"text"\n' * 1000, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(_: Any) -> None:
        pass

    headers = [(b"content-type", b"application/x-ndjson")]
    scope = {"type": "http", "method": "POST", "path": "/jobs", "raw_path": b"/jobs", "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("mill", 80)}
    await desk.app(scope, receive, send)
    assert desk.held() == []


async def test_too_many_waiting_jobs_are_refused_with_the_time_to_come_back(start: Start) -> None:
    desk = await start(max_waiting_jobs=1)
    running = await desk.new("a", "b")
    attempt = desk.start(running)
    desk.store.append(attempt, 0, [], failed=0, rate=0.1, model="")
    await desk.new("c")
    answer = await desk.submit("d")
    assert_problem(answer, 429, "too_many_jobs")
    assert answer.headers["retry-after"] == "20"
    assert desk.store.waiting() == 1


# -- Idempotency-Key -------------------------------------------------------------------------------


async def test_the_same_key_twice_is_one_job(desk: Desk) -> None:
    first = await desk.submit("a", "b", idempotency_key="k")
    second = await desk.submit("a", "b", idempotency_key="k")
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["location"] == first.headers["location"]
    assert desk.store.waiting() == 1
    assert len(desk.queue.rq) == 1


async def test_the_same_key_with_another_body_is_a_conflict(desk: Desk) -> None:
    first = await desk.submit("a", "b", idempotency_key="k")
    problem = assert_problem(await desk.submit("a", "c", idempotency_key="k"), 409, "idempotency_conflict")
    assert problem["job"] == first.json()["id"]
    other_form = await desk.client.post(
        "/jobs", content=b'"a"\n"b"\n', headers={**NDJSON, "idempotency-key": "k"}
    )
    assert other_form.status_code == 409


async def test_two_at_once_with_one_key_are_one_job(desk: Desk) -> None:
    answers = await asyncio.gather(*(desk.submit("a", "b", idempotency_key="k") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert not [key for key in desk.held() if b":upload:" in key]


async def test_a_key_belongs_to_the_one_who_chose_it(start: Start) -> None:
    digests = ",".join(sha256(key).hexdigest() for key in (b"one", b"two"))
    desk = await start(api_keys=digests)
    assert_problem(await desk.submit("a", idempotency_key="k"), 401, "unauthorized")
    one, again, two = [
        await desk.submit("a", idempotency_key="k", authorization=f"Bearer {key}")
        for key in ("one", "one", "two")
    ]
    assert (one.status_code, again.status_code, two.status_code) == (202, 200, 202)
    assert one.json()["id"] == again.json()["id"] != two.json()["id"]


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_that_is_none_is_refused(desk: Desk, key: str) -> None:
    assert_problem(await desk.submit("a", idempotency_key=key), 422, "invalid_request")


# -- GET /jobs/{id} --------------------------------------------------------------------------------


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
    assert_problem(await desk.get(f"/nonsense{path}"), 422, "invalid_request")


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


# -- GET /jobs/{id}/events -------------------------------------------------------------------------


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


# -- GET /jobs/{id}/predictions --------------------------------------------------------------------


async def test_pages_lead_through_all_results(desk: Desk) -> None:
    job_id = await desk.new("a", "b", "c")
    desk.finish(desk.start(job_id), POSITIVE, FAILURE, POSITIVE)
    first = await desk.get(f"/{job_id}/predictions", limit=2)
    assert first.json() == {
        "offset": 0,
        "total": 3,
        "done": 3,
        "next_offset": 2,
        "predictions": [POSITIVE, FAILURE],
    }
    assert (first.headers["x-total"], first.headers["x-done"]) == ("3", "3")
    assert first.headers["link"] == f'</jobs/{job_id}/predictions?offset=2&limit=2>; rel="next"'
    last = await desk.get(f"/{job_id}/predictions", offset=2)
    assert (last.json()["predictions"], last.json()["next_offset"]) == ([POSITIVE], None)
    assert "link" not in last.headers
    beyond = await desk.get(f"/{job_id}/predictions", offset=7)
    assert (beyond.json()["predictions"], beyond.json()["next_offset"]) == ([], None)


async def test_what_is_done_can_be_read_while_the_rest_runs(desk: Desk) -> None:
    job_id = await desk.new(*(str(number) for number in range(300)))
    nothing = (await desk.get(f"/{job_id}/predictions")).json()
    assert (nothing["predictions"], nothing["next_offset"]) == ([], 0)
    attempt = desk.start(job_id)
    line = json.dumps(POSITIVE).encode()
    desk.store.append(attempt, 0, [b"\n".join([line] * 256)], failed=0, rate=1.0, model="")
    page = (await desk.get(f"/{job_id}/predictions")).json()
    assert (len(page["predictions"]), page["next_offset"], page["done"]) == (256, 256, 256)


async def test_pages_as_lines_and_as_a_table(desk: Desk) -> None:
    job_id = await desk.new("a", "b")
    desk.finish(desk.start(job_id), POSITIVE, FAILURE)
    path = f"/jobs/{job_id}/predictions"
    lines = await desk.client.get(path, headers={"accept": "application/x-ndjson"})
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.text.splitlines()] == [POSITIVE, FAILURE]
    table = await desk.client.get(path, headers={"accept": "text/csv"})
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.reader(io.StringIO(table.text, newline="")))
    assert rows == [
        ["index", "label", "score", "error"],
        ["0", "POSITIVE", "0.75", ""],
        ["1", "", "", "inference_failed"],
    ]


# -- DELETE, GET /jobs -----------------------------------------------------------------------------


async def test_a_queued_job_is_cancelled_and_leaves_the_queue(desk: Desk) -> None:
    job_id = await desk.new()
    answer = await desk.client.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert desk.queue.rq.get_job_ids() == []
    assert desk.start(job_id).status == "cancelled"


async def test_a_running_job_is_cancelled_at_once(desk: Desk) -> None:
    job_id = await desk.new()
    attempt = desk.start(job_id)
    answer = await desk.client.delete(f"/jobs/{job_id}")
    assert answer.json()["status"] == "cancelled"
    assert desk.store.append(attempt, 0, [b"[]"], failed=0, rate=1.0, model="") == "cancelled"


async def test_an_ended_job_is_deleted_with_its_data(desk: Desk) -> None:
    job_id = await desk.new()
    desk.finish(desk.start(job_id), POSITIVE, POSITIVE, POSITIVE)
    assert (await desk.client.delete(f"/jobs/{job_id}")).status_code == 204
    assert_problem(await desk.get(f"/{job_id}"), 404, "not_found")
    assert_problem(await desk.client.delete(f"/jobs/{job_id}"), 404, "not_found")
    assert not [key for key in desk.held() if b"millrace" in key and b":job" in key]


async def test_jobs_are_listed_newest_first_page_by_page(desk: Desk) -> None:
    ids = [await desk.new(str(number)) for number in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        page = (await desk.get("", limit=2, cursor=cursor)).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
    assert seen == ids[::-1]


async def test_jobs_are_listed_by_status(desk: Desk) -> None:
    ids = [await desk.new(str(number)) for number in range(6)]
    for job_id in ids[::2]:
        desk.store.cancel(job_id)
    found = (await desk.get("", status="cancelled", limit=2)).json()
    assert [job["id"] for job in found["jobs"]] == [ids[4], ids[2]]
    rest = (await desk.get("", status="cancelled", limit=2, cursor=found["next_cursor"])).json()
    assert ([job["id"] for job in rest["jobs"]], rest["next_cursor"]) == ([ids[0]], None)
    assert (await desk.get("", status="finished")).json()["jobs"] == []


async def test_a_job_whose_time_is_over_is_not_listed(desk: Desk) -> None:
    gone, kept = await desk.new("a"), await desk.new("b")
    desk.redis.delete(f"{{millrace:default}}:job:{gone}")
    assert [job["id"] for job in (await desk.get("")).json()["jobs"]] == [kept]
    assert len(desk.store.places("", 10)) == 1


@pytest.mark.parametrize("params", [{"status": "lost"}, {"limit": 0}, {"limit": 1001}, {"cursor": "x"}])
async def test_a_list_is_asked_for_with_sense(desk: Desk, params: dict[str, Any]) -> None:
    assert_problem(await desk.get("", **params), 422, "invalid_request")


# -- elsewhere -------------------------------------------------------------------------------------


async def test_a_request_that_prefers_it_becomes_a_job(desk: Desk) -> None:
    headers = {"prefer": "respond-async", "idempotency-key": "k"}
    answer = await desk.client.post("/predict", json={"text": ["a", "b"]}, headers=headers)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert answer.headers["preference-applied"] == "respond-async"
    assert desk.store.input(job["id"], 0) == ["a", "b"]
    again = await desk.client.post("/predict", json={"text": ["a", "b"]}, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, job["id"])


async def test_everything_is_503_while_redis_is_away(desk: Desk, fake_redis: FakeRedis) -> None:
    job_id = await desk.new()
    fake_redis.server.connected = False
    for answer in (
        await desk.submit("a"),
        await desk.get(f"/{job_id}"),
        await desk.get(""),
        await desk.client.delete(f"/jobs/{job_id}"),
    ):
        assert_problem(answer, 503, "redis_unavailable")
        assert answer.headers["retry-after"] == "1"
    fake_redis.server.connected = True
    assert (await desk.get(f"/{job_id}")).status_code == 200


async def test_rq_that_cannot_be_told_is_told_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: str) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(desk.queue, "enqueue", away)
    job_id = await desk.new()
    assert (await desk.get(f"/{job_id}")).json()["status"] == "queued"
    assert desk.store.open_ids() == [job_id], "recovery finds it there"


async def test_openapi_documents_every_status_of_every_route(desk: Desk) -> None:
    paths = (await desk.client.get("/openapi.json")).json()["paths"]
    documented = {
        f"{method.upper()} {path}": set(facts["responses"])
        for path, methods in paths.items()
        if path.startswith("/jobs")
        for method, facts in methods.items()
    }
    always = {"401", "422", "503"}
    assert documented == {
        "POST /jobs": {"200", "202", "408", "409", "413", "415", "429"} | always,
        "GET /jobs": {"200"} | always,
        "GET /jobs/{job_id}": {"200", "404"} | always,
        "GET /jobs/{job_id}/events": {"200", "204", "404"} | always,
        "GET /jobs/{job_id}/predictions": {"200", "404"} | always,
        "DELETE /jobs/{job_id}": {"200", "204", "404"} | always,
    }
    bodies = paths["/jobs"]["post"]["requestBody"]["content"]
    assert set(bodies) == {"application/json", "application/x-ndjson", "text/csv"}
