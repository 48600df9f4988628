"""Whose jobs are whose, where there are API keys."""

from __future__ import annotations

from hashlib import sha256

import httpx
import pytest

from tests.conftest import encoded
from tests.unit.api.jobs.desk import Desk, Start
from tests.unit.api.pretended import assert_problem


def digests(*keys: str) -> str:
    return ",".join(sha256(key.encode()).hexdigest() for key in keys)


async def ask(desk: Desk, key: str, path: str = "", method: str = "GET") -> httpx.Response:
    return await desk.client.request(method, f"/jobs{path}", headers={"x-api-key": key})


async def new(desk: Desk, key: str) -> str:
    answer = await desk.submit("a", "b", x_api_key=key)
    assert answer.status_code == 202
    return str(answer.json()["id"])


@pytest.mark.parametrize("path", ["", "/events", "/predictions"])
async def test_a_job_is_shown_to_the_key_that_handed_it_in(start: Start, path: str) -> None:
    desk = await start(api_keys=digests("one", "two"))
    job_id = await new(desk, "one")
    desk.store.cancel(job_id)
    assert (await ask(desk, "one", f"/{job_id}{path}")).status_code == 200
    assert_problem(await ask(desk, "two", f"/{job_id}{path}"), 404, "not_found")


async def test_nobody_cancels_or_deletes_the_job_of_another(start: Start) -> None:
    desk = await start(api_keys=digests("one", "two"))
    job_id = await new(desk, "one")
    assert_problem(await ask(desk, "two", f"/{job_id}", "DELETE"), 404, "not_found")
    assert (await ask(desk, "one", f"/{job_id}")).json()["status"] == "queued"
    assert (await ask(desk, "one", f"/{job_id}", "DELETE")).json()["status"] == "cancelled"
    assert_problem(await ask(desk, "two", f"/{job_id}", "DELETE"), 404, "not_found")
    assert (await ask(desk, "one", f"/{job_id}", "DELETE")).status_code == 204


async def test_a_list_leaves_out_the_jobs_of_others(start: Start) -> None:
    desk = await start(api_keys=digests("one", "two"))
    jobs = {key: [await new(desk, key) for _ in range(2)] for key in ("one", "two")}
    for key, ids in jobs.items():
        listed = (await ask(desk, key)).json()["jobs"]
        assert [job["id"] for job in listed] == ids[::-1]
    frame = await desk.client.get("/stats", headers={"x-api-key": "one"})
    assert frame.json()["jobs"] == []


async def test_redis_holds_no_key(start: Start) -> None:
    desk = await start(api_keys=digests("a very secret key"))
    job_id = await new(desk, "a very secret key")
    record = desk.store.record(job_id)
    assert record is not None
    assert record.owner == f"key:{digests('a very secret key')[:12]}"


async def test_jobs_without_an_owner_are_anybodys(start: Start) -> None:
    """Those of the time before there were keys."""
    desk = await start(api_keys=digests("one"))
    upload = desk.store.upload("a" * 32)
    upload.add(encoded(["a"]))
    desk.store.create(upload, "d", 10)
    assert (await ask(desk, "one", f"/{'a' * 32}")).status_code == 200
