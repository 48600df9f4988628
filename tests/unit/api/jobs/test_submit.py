"""POST /jobs: which bodies become jobs, which are refused, and that no partial job is stored."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anyio import to_thread
from starlette.requests import ClientDisconnect

from api.errors import Problem
from api.jobs.body import AHEAD, SLOWEST, SMALL, Sender
from api.jobs.service import UPLOADS, JobService
from api.jobs.upload import CHUNK_TEXTS
from batcher.jobs.records import Counts
from batcher.jobs.upload import Upload
from tests.unit.api.jobs.jobs_api import CSV, NDJSON, JobsApi, Start
from tests.unit.api.service import assert_problem


async def test_a_job_is_taken_in(api: JobsApi) -> None:
    answer = await api.submit("a", "b", "c")
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["status"], job["total"], job["done"], job["failed"]) == ("queued", 3, 0, 0)
    assert (job["position"], job["started_at"], job["error"]) == (1, None, None)
    assert job["created_at"].endswith("Z")
    assert api.queue.rq.get_job_ids() == [job["id"]]
    assert api.store.input(job["id"], 0) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (NDJSON, b'"a"\n{"text": "b, c"}\n'),
        ({"content-type": "application/jsonl; charset=utf-8"}, b'"a"\n"b, c"'),
        (CSV, b'id,text\n1,a\n2,"b, c"\n'),
        ({"content-type": "application/json"}, b'{"text": ["a", "b, c"]}'),
        ({}, b'{"text": ["a", "b, c"]}'),
        ({"content-type": "application/vnd.service+json; charset=utf-8"}, b'{"text": ["a", "b, c"]}'),
        ({"content-type": "application/x-www-form-urlencoded"}, b'{"text": ["a", "b, c"]}'),
    ],
)
async def test_three_forms_of_body_make_the_same_job(
    api: JobsApi, headers: dict[str, str], body: bytes
) -> None:
    answer = await api.client.post("/jobs", content=body, headers=headers)
    assert answer.status_code == 202, answer.text
    assert api.store.input(answer.json()["id"], 0) == ["a", "b, c"]


async def test_a_large_body_is_stored_in_chunks(api: JobsApi) -> None:
    texts = [f"text {number}" for number in range(1000)]
    job_id = await api.new(*texts)
    chunks = [api.store.input(job_id, number) for number in range(5)]
    assert chunks[4] is None
    assert [text for chunk in chunks if chunk for text in chunk] == texts
    assert len(chunks[0] or ()) == 256


async def test_a_text_that_is_too_long_is_stored_as_none(start: Start) -> None:
    api = await start(max_text_chars=3)
    job_id = await api.new("abc", "abcd")
    assert api.store.input(job_id, 0) == ["abc", None]


async def test_a_bad_line_is_named_and_nothing_is_kept(api: JobsApi) -> None:
    body = b'"a"\n' * 600 + b"5\n"
    answer = await api.client.post("/jobs", content=body, headers=NDJSON)
    problem = assert_problem(answer, 422, "invalid_request")
    assert problem["line"] == 601
    assert api.held() == []


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"text": []}', b'{"text": "a"}', b'["a"]', b"a", b'{"text": [5]}']
)
async def test_bad_json_is_told_as_by_predict(api: JobsApi, body: bytes) -> None:
    job, predict = [
        assert_problem(await api.client.post(path, content=body), 422, "invalid_request")
        for path in ("/jobs", "/predict")
    ]
    assert job["detail"] == predict["detail"]
    assert api.held() == []


@pytest.mark.parametrize(("headers", "body"), [(NDJSON, b""), (NDJSON, b"\n\n"), (CSV, b"text\n")])
async def test_a_job_without_texts_is_none(api: JobsApi, headers: dict[str, str], body: bytes) -> None:
    answer = await api.client.post("/jobs", content=body, headers=headers)
    assert_problem(answer, 422, "invalid_request")
    assert api.held() == []


@pytest.mark.parametrize("stated", [True, False])
async def test_a_body_over_the_limit_is_refused_and_nothing_is_kept(start: Start, stated: bool) -> None:
    api = await start(max_job_body_bytes=10_000)
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b'"text"\n' * 200

    async def largest() -> AsyncIterator[bytes]:
        yield b'"a"\n' * 2_500

    assert (await api.client.post("/jobs", content=largest(), headers=NDJSON)).status_code == 202
    api.redis.flushall()
    headers = {**NDJSON, "content-length": "140000"} if stated else NDJSON
    assert_problem(await api.client.post("/jobs", content=body(), headers=headers), 413, "too_large")
    assert api.held() == []


async def test_another_content_type_is_415(api: JobsApi) -> None:
    answer = await api.client.post("/jobs", content=b"x", headers={"content-type": "text/html"})
    assert_problem(answer, 415, "unsupported_media_type")
    assert "text/csv" in answer.headers["accept"]


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(api: JobsApi) -> None:
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
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("service", 80)}
    await api.app(scope, receive, send)
    assert api.held() == []


@pytest.mark.parametrize(
    ("rates", "seconds"),
    [([], 10), ([0.0], 10), ([0.3], 30), ([0.3, 0.0, 0.5], 18), ([20.0], 1), ([0.1], 60)],
)
async def test_too_many_waiting_jobs_are_refused_with_the_time_to_come_back(
    start: Start, rates: list[float], seconds: int
) -> None:
    """Until the first of those that run will have ended: each has nine texts."""
    api = await start(max_waiting_jobs=1)
    for rate in rates:
        attempt = api.start(await api.new(*"abcdefghi"))
        api.store.append(attempt, 0, [], counts=Counts(), rate=rate, model="")
    await api.new("c")
    answer = await api.submit("d")
    problem = assert_problem(answer, 429, "too_many_jobs")
    assert problem["detail"] == "too many jobs are waiting; try again later"
    assert answer.headers["retry-after"] == str(seconds)
    assert api.store.totals().queued == 1


async def test_a_client_whose_own_jobs_wait_is_told_so(start: Start) -> None:
    api = await start(max_waiting_jobs=2)
    await api.new("a")
    problem = assert_problem(await api.submit("b"), 429, "too_many_jobs")
    assert problem["detail"] == "too many of your jobs are waiting; try again later"


async def test_texts_that_redis_loses_meanwhile_are_not_the_clients_fault(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover between the upload and the job was answered with 408."""
    add = Upload.add

    def lose(self: Upload, entries: list[bytes]) -> None:
        add(self, entries)
        api.redis.flushall()

    monkeypatch.setattr(Upload, "add", lose)
    assert_problem(await api.submit("a", "b"), 503, "unavailable")
    monkeypatch.undo()
    assert (await api.submit("a", "b")).status_code == 202


async def test_the_time_that_redis_takes_is_not_that_of_the_body(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Upload.add

    def slow(self: Upload, entries: list[bytes]) -> None:
        time.sleep(0.4)
        add(self, entries)

    async def body() -> AsyncIterator[bytes]:
        yield b'"a"\n' * (CHUNK_TEXTS + 1)
        yield b'"b"\n'

    monkeypatch.setattr("api.jobs.body.BLOCK_S", 0.3)
    monkeypatch.setattr("api.jobs.body.SLOWEST", 1e12)
    monkeypatch.setattr(Upload, "add", slow)
    answer = await api.client.post("/jobs", content=body(), headers=NDJSON)
    assert (answer.status_code, answer.json()["total"]) == (202, CHUNK_TEXTS + 2)


async def read(sender: Sender) -> list[int]:
    """The sizes of the blocks that a thread reads."""
    watcher = asyncio.create_task(sender.watch())
    try:
        return await to_thread.run_sync(lambda: [len(block) for block in sender.blocks()])
    finally:
        watcher.cancel()


@pytest.mark.parametrize(
    ("waited_s", "refused"), [([30.0, 4.0 + 1 / SLOWEST], False), ([30.0, 4.1], True), ([34.1, 0.0], True)]
)
async def test_a_body_has_time_for_its_size_at_the_lowest_rate(
    monkeypatch: pytest.MonkeyPatch, waited_s: list[float], refused: bool
) -> None:
    """4 s for a block of 64 KiB, beside the longest pause."""
    clock = [time_s for wait_s in waited_s for time_s in (100.0, 100.0 + wait_s)]
    monkeypatch.setattr("api.jobs.body.monotonic", lambda: clock.pop(0))
    messages = [{"type": "http.request", "body": b"x" * size, "more_body": size > 1} for size in (SMALL, 1)]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else await asyncio.Future()

    sender = Sender(receive, bool)
    if refused:
        with pytest.raises(Problem) as caught:
            await read(sender)
        assert (caught.value.status, caught.value.detail) == (408, "the body arrives too slowly")
    else:
        assert await read(sender) == [SMALL, 1]


async def test_a_body_that_pauses_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.jobs.body.BLOCK_S", 0.05)
    monkeypatch.setattr("api.jobs.body.SLOWEST", 1e12)
    messages = [{"type": "http.request", "body": b"x" * SMALL, "more_body": True}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else await asyncio.Future()

    sender = Sender(receive, bool)
    with pytest.raises(Problem) as begins:
        await sender.arrive()
    assert (begins.value.status, begins.value.detail) == (408, "the body arrives too slowly")
    with pytest.raises(Problem) as goes_on:
        await read(sender)
    assert (goes_on.value.status, goes_on.value.detail) == (408, "the body stopped arriving")


@pytest.mark.parametrize(
    "more",
    [[False], [True, True, False], [True] * 99],
    ids=["whole", "with blocks to come", "more than are received ahead"],
)
async def test_work_for_a_body_went_on_after_its_client_had_left(more: list[bool]) -> None:
    """Four such bodies hold all threads for uploads. In gzip, a block of 64 KiB may have 64 MiB."""
    left = asyncio.Event()
    messages = [{"type": "http.request", "body": b"x" * SMALL, "more_body": one} for one in more]
    assert len(more) < AHEAD or len(more) > 2 * AHEAD

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await left.wait()
        return {"type": "http.disconnect"}

    sender = Sender(receive, left.is_set)
    loop = asyncio.get_running_loop()

    def work() -> None:
        block = next(sender.blocks())
        loop.call_soon_threadsafe(left.set)
        for _ in sender.waited_for([block] * 10_000):
            time.sleep(0.001)

    watcher = asyncio.create_task(sender.watch())
    with pytest.raises(ClientDisconnect):
        await to_thread.run_sync(work)
    await watcher


async def test_a_body_whose_client_left_while_more_was_waited_for_was_taken_for_whole() -> None:
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"a\n", "more_body": True}]

    async def receive() -> dict[str, Any]:
        return messages.pop()

    sender = Sender(receive, bool)
    watcher = asyncio.create_task(sender.watch())
    with pytest.raises(ClientDisconnect):
        await to_thread.run_sync(list, sender.blocks())
    await watcher


@pytest.mark.parametrize("size", [20, 2 * SMALL], ids=["small", "large"])
async def test_slow_uploads_kept_a_small_job_of_another_client_waiting(api: JobsApi, size: int) -> None:
    """Four that were sent just fast enough had all threads, and a job of one text waited for over an hour."""
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'"a"\n' + b" " * size
        await go_on.wait()
        yield b'"b"\n'

    slow = [api.client.post("/jobs", content=body(), headers=NDJSON) for _ in range(2 * UPLOADS)]
    uploads = [asyncio.create_task(one) for one in slow]
    await asyncio.sleep(0.2)
    assert (await asyncio.wait_for(api.submit("c"), 10)).status_code == 202
    go_on.set()
    answers = await asyncio.gather(*uploads)
    assert [one.json()["total"] for one in answers] == [2] * len(answers)


async def test_nothing_receives_for_a_body_any_more_that_has_become_a_job(api: JobsApi) -> None:
    """Its client keeps the connection."""
    messages = [{"type": "http.request", "body": b'"a"\n', "more_body": False}]
    sent: list[dict[str, Any]] = []
    receiving: list[asyncio.Task[Any] | None] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        receiving.append(asyncio.current_task())
        return await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/jobs", "raw_path": b"/jobs",
        "query_string": b"", "headers": [(b"host", b"localhost"), (b"content-type", b"application/x-ndjson")],
        "scheme": "http", "client": ("127.0.0.1", 1), "server": ("service", 80),
    }  # fmt: skip
    await api.app(scope, receive, send)
    assert sent[0]["status"] == 202
    for _ in range(9):
        await asyncio.sleep(0)
    assert [task for task in receiving if task is not None and not task.done()] == []


@pytest.mark.parametrize(
    ("params", "headers", "content", "small"),
    [
        ({}, NDJSON, b'"a"\n', True),
        ({"filename": "a.ndjson"}, {}, b'"a"\n', False),
        ({}, {**NDJSON, "content-encoding": "gzip"}, gzip.compress(b'"a"\n'), False),
        ({}, NDJSON, b'"a"\n' + b" " * SMALL, False),
    ],
    ids=["plain", "a table", "compressed", "large"],
)
async def test_a_body_is_small_if_what_it_has_is(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch, params: Any, headers: Any, content: bytes, small: bool
) -> None:
    """A table or a compressed one may have much of it in little."""
    found, upload = list[bool](), JobService.upload

    async def recorded(service: JobService, head: Any, sender: Sender, *more: Any) -> Any:
        made = await upload(service, head, sender, *more)
        found.append(sender.small)
        return made

    monkeypatch.setattr(JobService, "upload", recorded)
    answer = await api.client.post("/jobs", params=params, headers=headers, content=content)
    assert answer.status_code == 202, answer.text
    assert found == [small]
