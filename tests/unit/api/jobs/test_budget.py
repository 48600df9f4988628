"""The byte budgets of POST /jobs: a job that does not fit is refused, and none of it is stored."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator
from hashlib import sha256

import httpx
import pytest

from batcher.errors import BudgetExceeded
from tests.unit.api.jobs.jobs_api import CSV, NDJSON, POSITIVE, JobsApi, Start
from tests.unit.api.service import assert_problem
from tests.unit.fakes import FakeHub

MIB = 1024 * 1024
LINE = json.dumps("x" * 1000).encode() + b"\n"


def uploads(api: JobsApi) -> list[bytes]:
    return [key for key in api.held() if b":upload:" in key]


async def test_finding_08_a_client_that_holds_its_budget_is_refused_until_it_deletes(start: Start) -> None:
    """Other clients can still submit jobs."""
    digests = ",".join(sha256(key).hexdigest() for key in (b"one", b"two"))
    api = await start(max_jobs_bytes=10_000, max_client_jobs_bytes=5000, api_keys=digests)
    one, two = ({"x-api-key": key} for key in ("one", "two"))
    first = await api.client.post("/jobs", content=LINE * 3, headers={**NDJSON, **one})
    assert first.status_code == 202, first.text
    padded = b'"short"' + b" " * 3000  # by its Content-Length, before it is read
    for body in (LINE * 3, _pieces(3), padded):
        answer = await api.client.post("/jobs", content=body, headers={**NDJSON, **one})
        problem = assert_problem(answer, 507, "client_jobs_full")
        assert "delete jobs that have ended" in problem["detail"]
        assert "retry-after" not in answer.headers
    assert not uploads(api)
    assert (await api.client.post("/jobs", content=LINE * 3, headers={**NDJSON, **two})).status_code == 202
    path = first.headers["location"]
    await api.client.delete(path, headers=one)
    assert (await api.client.delete(path, headers=one)).status_code == 204
    again = await api.client.post("/jobs", content=_pieces(3), headers={**NDJSON, **one})
    assert again.status_code == 202, again.text


async def test_finding_08_all_jobs_together_have_a_budget(start: Start) -> None:
    digests = ",".join(sha256(key).hexdigest() for key in (b"one", b"two"))
    api = await start(max_jobs_bytes=8000, max_client_jobs_bytes=6000, api_keys=digests)
    one, two = ({"x-api-key": key} for key in ("one", "two"))
    long, more = {"text": ["x" * 3000]}, {"text": ["x" * 1000] * 2}
    for headers in (one, two):
        assert (await api.client.post("/jobs", json=long, headers=headers)).status_code == 202
    assert_problem(await api.client.post("/jobs", json=more, headers=one), 507, "jobs_full")
    later = {**two, "prefer": "respond-async"}
    assert_problem(await api.client.post("/predict", json=more, headers=later), 507, "jobs_full")


async def test_finding_08_a_job_that_can_never_fit_is_too_large(start: Start) -> None:
    api = await start(max_jobs_bytes=100_000, max_client_jobs_bytes=50_000)
    answer = await api.client.post("/jobs", content=_pieces(60), headers=NDJSON)
    problem = assert_problem(answer, 413, "job_too_large")
    assert problem["detail"] == (
        "the texts and their results, of up to 100 bytes each, need more than the 50000 bytes that a job may"
        " use: send fewer texts in a job"
    )
    assert api.held() == []


async def test_finding_08_a_table_is_measured_by_what_is_kept_of_it(start: Start) -> None:
    api = await start(max_jobs_bytes=5000)
    rows = b"text,other\n" + b"".join(b"short,%s\n" % (b"y" * 1000) for _ in range(10))
    assert (await api.client.post("/jobs", content=rows, headers=CSV)).status_code == 202


async def test_finding_08_the_texts_go_with_the_end_of_the_job(api: JobsApi) -> None:
    kept = (await api.client.post("/jobs?keep_input=true", json={"text": ["a"]})).json()["id"]
    plain = await api.new("a")
    held = {}
    for job_id in (kept, plain):
        api.finish(api.start(job_id), POSITIVE)
        job = (await api.get(f"/{job_id}")).json()
        assert job["status"] == "finished"
        held[job_id] = job["bytes"]
    assert api.store.input(plain, 0) is None
    assert api.store.input(kept, 0) == ["a"]
    assert held[kept] - held[plain] == len('["a"]')
    assert (await api.get(f"/{kept}/texts")).text == '"a"\n'
    assert_problem(await api.get(f"/{plain}/texts"), 404, "no_texts")


async def test_the_texts_of_a_job_are_read_back_as_they_came(start: Start) -> None:
    api = await start(max_text_chars=9)
    texts = [f"t\u00e9xt {number}" for number in range(600)]
    job_id = await api.new(*texts, "far too long")
    lines = (await api.get(f"/{job_id}/texts")).text.splitlines()
    assert [json.loads(line) for line in lines] == [*texts, None]
    assert_problem(await api.get(f"/{'0' * 32}/texts"), 404, "not_found")


async def test_finding_11_texts_that_are_too_long_are_not_held(api: JobsApi) -> None:
    """63 texts of a million characters with one emoji each used 245 MiB before their chunk was full."""
    text = json.dumps("x" * 999_999 + "\U0001f600", ensure_ascii=False).encode() + b"\n"

    async def body() -> AsyncIterator[bytes]:
        for _ in range(63):
            for at in range(0, len(text), 65536):
                yield text[at : at + 65536]

    tracemalloc.start()
    try:
        answer = await api.client.post("/jobs", content=body(), headers=NDJSON)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 202, answer.text
    assert answer.json()["total"] == 63
    assert peak < 64 * MIB


async def _pieces(lines: int) -> AsyncIterator[bytes]:
    """A body without Content-Length."""
    for _ in range(lines):
        yield LINE


async def test_one_job_could_have_any_number_of_texts_above_a_quota(start: Start) -> None:
    """A quota of 10 texts accepted a job of 20,000."""
    api = await start(api_keys=f"web:{sha256(b'one').hexdigest()}", quotas="web=600")
    key = {"x-api-key": "one"}

    def lines(count: int) -> bytes:
        return b"".join(b'"text %d"\n' % number for number in range(count))

    answer = await api.client.post("/jobs", content=lines(601), headers={**NDJSON, **key})
    problem = assert_problem(answer, 429, "quota_exceeded")
    assert "more than 600 texts" in problem["detail"]
    assert not uploads(api)
    once = {**NDJSON, **key, "idempotency-key": "k"}
    for status in (202, 200):  # a repeat is not another job
        assert (await api.client.post("/jobs", content=lines(599), headers=once)).status_code == status
    answer = await api.client.post("/jobs", content=lines(2), headers={**NDJSON, **key})
    assert_problem(answer, 429, "quota_exceeded")
    assert (await api.client.post("/jobs", content=lines(1), headers={**NDJSON, **key})).status_code == 202
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield lines(1)

    answer = await api.client.post("/jobs", content=body(), headers={**NDJSON, **key})
    assert_problem(answer, 429, "quota_exceeded")
    assert read == 0, "nothing is read of the body of a client that has used its quota"


@pytest.mark.parametrize("prefer", ["", "respond-async", "respond-async, wait=1"])
async def test_a_repeat_was_refused_once_its_own_job_had_used_the_quota(start: Start, prefer: str) -> None:
    """Until midnight, and `millrace classify` waited for that. A repeat uses nothing; other requests do."""
    hub = FakeHub(refusal=BudgetExceeded("over"))
    api = await start(hub=hub, api_keys=f"web:{sha256(b'one').hexdigest()}", quotas="web=2")

    async def ask(*texts: str, **headers: str) -> httpx.Response:
        headers = {"x-api-key": "one", **({"prefer": prefer} if prefer else {}), **headers}
        return await api.client.post("/predict" if prefer else "/jobs", json={"text": texts}, headers=headers)

    first, again = [await ask("a", "b", **{"idempotency-key": "k"}) for _ in range(2)]
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json()["id"] == first.json()["id"]
    assert_problem(await ask("a", "c", **{"idempotency-key": "k"}), 409, "idempotency_conflict")
    assert_problem(await ask("a", "b", **{"idempotency-key": "new"}), 429, "quota_exceeded")
    assert_problem(await ask("a", "b"), 429, "quota_exceeded")
    assert not uploads(api)


@pytest.mark.parametrize("prefer", ["respond-async", "respond-async, wait=1"])
async def test_repeats_and_refused_requests_used_a_quota(start: Start, prefer: str) -> None:
    """Ten requests with the key of one job of three texts had used thirty."""
    hub = FakeHub(refusal=BudgetExceeded("over"), replies=lambda command: [0 for _ in command.rows])
    api = await start(hub=hub, api_keys=f"web:{sha256(b'one').hexdigest()}", quotas="web=9")

    async def ask(*texts: str, path: str = "/predict", **headers: str) -> int:
        headers = {"x-api-key": "one", **headers}
        return (await api.client.post(path, json={"text": texts}, headers=headers)).status_code

    assert [await ask("a", "b", "c", path="/predict?order=wrong") for _ in range(4)] == [422] * 4
    keyed = {"prefer": prefer, "idempotency-key": "k"}
    assert [await ask("a", "b", "c", **keyed) for _ in range(4)] == [202, 200, 200, 200]
    assert [await ask("d", "b", "c", **keyed) for _ in range(4)] == [409] * 4
    hub.refusal = None
    assert await ask(*"123456") == 200
    assert await ask("7") == 429


async def test_jobs_that_were_read_at_once_could_each_have_what_was_left_of_a_quota(start: Start) -> None:
    """Texts counted once their job was stored. Those of one that is refused are given back."""
    api = await start(api_keys=f"web:{sha256(b'one').hexdigest()}", quotas="web=600")
    sent = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'"%b"\n' % (b"x" * 300) * 256  # as much as is waited for
        await sent.wait()
        yield b'"a text"\n' * 44

    async def post(content: AsyncIterator[bytes] | bytes) -> int:
        headers = {**NDJSON, "x-api-key": "one"}
        return (await api.client.post("/jobs", content=content, headers=headers)).status_code

    first = asyncio.create_task(post(slow()))
    async with asyncio.timeout(60):
        while not uploads(api):  # noqa: ASYNC110  # the service sets no event for tests
            await asyncio.sleep(0.005)
    assert await post(b'"a text"\n' * 400) == 429
    assert await post(b'"a text"\n' * 256 + b'"') == 422
    assert await post(b'"a text"\n' * 300) == 202
    sent.set()
    assert await first == 202
    assert await post(b'"a text"\n') == 429


@pytest.mark.parametrize("flush_s", [5.0, 0.0])
async def test_a_request_that_becomes_a_job_after_its_wait_has_its_texts_once(
    start: Start, monkeypatch: pytest.MonkeyPatch, flush_s: float
) -> None:
    """However often usage is read: that of a job could be counted twice for five seconds."""
    monkeypatch.setattr("api.traffic.FLUSH_S", flush_s)
    hub = FakeHub(refusal=BudgetExceeded("over"), replies=lambda command: [0 for _ in command.rows])
    api = await start(hub=hub, api_keys=f"web:{sha256(b'one').hexdigest()}", quotas="web=6")
    headers = {"x-api-key": "one", "prefer": "respond-async, wait=1"}
    for texts, status in (["a", "b", "c"], 202), (["d", "e", "f"], 202), (["g"], 429):
        answer = await api.client.post("/predict", json={"text": texts}, headers=headers)
        assert answer.status_code == status, answer.text
