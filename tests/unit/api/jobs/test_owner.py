"""Job ownership with API keys, and what one client leaves to others."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from hashlib import sha256
from typing import Any

import httpx
import pytest

from api.jobs.body import SMALL, Places
from api.jobs.service import UPLOADS, WAITING_UPLOADS
from api.jobs.upload import JobUploader
from tests.conftest import encoded
from tests.unit.api.jobs.jobs_api import NDJSON, JobsApi, Start
from tests.unit.api.service import assert_problem


def digests(*keys: str) -> str:
    return ",".join(sha256(key.encode()).hexdigest() for key in keys)


async def ask(api: JobsApi, key: str, path: str = "", method: str = "GET") -> httpx.Response:
    return await api.client.request(method, f"/jobs{path}", headers={"x-api-key": key})


async def new(api: JobsApi, key: str) -> str:
    answer = await api.submit("a", "b", x_api_key=key)
    assert answer.status_code == 202
    return str(answer.json()["id"])


@pytest.mark.parametrize("path", ["", "/events", "/predictions"])
async def test_a_job_is_shown_to_the_key_that_handed_it_in(start: Start, path: str) -> None:
    api = await start(api_keys=digests("one", "two"))
    job_id = await new(api, "one")
    api.store.cancel(job_id)
    assert (await ask(api, "one", f"/{job_id}{path}")).status_code == 200
    assert_problem(await ask(api, "two", f"/{job_id}{path}"), 404, "not_found")


async def test_nobody_cancels_or_deletes_the_job_of_another(start: Start) -> None:
    api = await start(api_keys=digests("one", "two"))
    job_id = await new(api, "one")
    assert_problem(await ask(api, "two", f"/{job_id}", "DELETE"), 404, "not_found")
    assert (await ask(api, "one", f"/{job_id}")).json()["status"] == "queued"
    assert (await ask(api, "one", f"/{job_id}", "DELETE")).json()["status"] == "cancelled"
    assert_problem(await ask(api, "two", f"/{job_id}", "DELETE"), 404, "not_found")
    assert (await ask(api, "one", f"/{job_id}", "DELETE")).status_code == 204


async def test_a_list_leaves_out_the_jobs_of_others(start: Start) -> None:
    api = await start(api_keys=digests("one", "two"))
    jobs = {key: [await new(api, key) for _ in range(2)] for key in ("one", "two")}
    for key, ids in jobs.items():
        listed = (await ask(api, key)).json()["jobs"]
        assert [job["id"] for job in listed] == ids[::-1]
    frame = await api.client.get("/stats", headers={"x-api-key": "one"})
    assert frame.json()["jobs"] == []


async def test_redis_holds_no_key(start: Start) -> None:
    api = await start(api_keys=digests("a very secret key"))
    job_id = await new(api, "a very secret key")
    record = api.store.record(job_id)
    assert record is not None
    assert record.owner == f"key:{digests('a very secret key')[:12]}"


async def test_jobs_without_an_owner_are_anybodys(start: Start) -> None:
    """Such jobs were created before keys were set."""
    api = await start(api_keys=digests("one"))
    upload = api.store.upload("a" * 32)
    upload.add(encoded(["a"]))
    api.store.create(upload, "d", 10)
    assert (await ask(api, "one", f"/{'a' * 32}")).status_code == 200


async def test_large_slow_uploads_of_one_client_kept_those_of_others_waiting(start: Start) -> None:
    api = await start(api_keys=digests("one", "two"))
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'"a"\n' + b" " * 2 * SMALL
        await go_on.wait()

    def submit(content: AsyncIterator[bytes] | bytes, key: str) -> Awaitable[httpx.Response]:
        return api.client.post("/jobs", content=content, headers={**NDJSON, "x-api-key": key})

    count = WAITING_UPLOADS + 2 * UPLOADS
    uploads = [asyncio.ensure_future(submit(slow(), "one")) for _ in range(count)]
    await asyncio.sleep(0.5)
    large = b'"a"\n' + b" " * 2 * SMALL
    assert (await asyncio.wait_for(submit(large, "two"), 10)).status_code == 202
    go_on.set()
    statuses = Counter(one.status_code for one in await asyncio.gather(*uploads))
    most = WAITING_UPLOADS + UPLOADS
    assert set(statuses) == {202, 503}
    assert UPLOADS < statuses[202] <= most - most // 4


async def test_requests_that_become_jobs_share_no_places_with_those_of_other_clients(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await start(api_keys=digests("one", "two"))
    goes_on, take = threading.Event(), JobUploader.take

    def slow(self: JobUploader, job_id: str, texts: Iterator[str], *more: Any) -> Any:
        whole = list(texts)
        if whole == ["slow"]:
            goes_on.wait(20)
        return take(self, job_id, iter(whole), *more)

    def submit(text: str, key: str) -> Awaitable[httpx.Response]:
        headers = {"prefer": "respond-async", "x-api-key": key}
        return api.client.post("/predict", json={"text": [text]}, headers=headers)

    monkeypatch.setattr(JobUploader, "take", slow)
    asked = [asyncio.ensure_future(submit("slow", "one")) for _ in range(80)]
    try:
        await asyncio.sleep(0.5)
        assert (await asyncio.wait_for(submit("fast", "two"), 10)).status_code == 202
    finally:
        goes_on.set()
    assert {one.status_code for one in await asyncio.gather(*asked)} == {202, 503}


@pytest.mark.parametrize(("clients", "most"), [(1, 51), (2, 68), (22, 68)])
async def test_bodies_that_wait_are_bounded_for_all_clients_together(clients: int, most: int) -> None:
    """One client has three quarters of the places."""
    places = Places(4, 64)

    async def wait(client: str) -> None:
        async with places.place(client):
            await asyncio.Event().wait()

    for _ in range(2):
        tasks = list[asyncio.Task[None]]()
        for number in range(clients):
            while not places.full(str(number)):
                tasks.append(asyncio.create_task(wait(str(number))))
                await asyncio.sleep(0)
        assert len(tasks) == most
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
