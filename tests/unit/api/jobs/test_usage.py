"""What jobs add to the usage of a key, and to its quota."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from api.errors import Problem
from api.settings import ApiSettings
from api.traffic import Traffic
from batcher.admin.job_eraser import JobEraser
from batcher.admin.usage import UsageStore
from batcher.jobs.records import Counts, JobRecord, Used
from batcher.jobs.results import chunk_results
from tests.conftest import FakeRedis
from tests.unit.api.admin.conftest import keys
from tests.unit.api.jobs.jobs_api import JobsApi, serving
from tests.unit.fakes import FakeHub, prediction

TODAY = datetime.now(UTC).date()
ONE = prediction("a")


@pytest.fixture
async def api(fake_redis: FakeRedis) -> AsyncIterator[JobsApi]:
    async with serving(fake_redis, ApiSettings(api_keys=keys(web="one", phone="two"))) as made:
        yield made


def usage(api: JobsApi) -> list[dict[str, Any]]:
    return UsageStore(api.redis, "default", 31, api.store).rows(TODAY, TODAY)


async def submit(api: JobsApi, texts: int, key: str = "one") -> str:
    answer = await api.submit(*("a" for _ in range(texts)), x_api_key=key)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def record_of(api: JobsApi, job: str) -> JobRecord:
    record = api.store.record(job)
    assert record is not None
    return record


def append(api: JobsApi, job: str, at: int, *sizes: int, times: int = 1) -> str:
    """Stores chunks of so many results, of which a cache knew one each."""
    attempt = api.store.start(job)
    chunks = [chunk_results([ONE] * size, None, hits=1) for size in sizes]
    counts = Counts(*map(sum, zip(*(chunk.counts for chunk in chunks), strict=True)))
    for _ in range(times):
        status = api.store.append(
            attempt, at, [chunk.lines for chunk in chunks], counts=counts, rate=1.0, model="m@r"
        )
    return status


async def test_a_cancelled_job_counted_whole_and_the_tokens_of_jobs_not_at_all(api: JobsApi) -> None:
    job = await submit(api, 1000)
    assert usage(api) == []
    append(api, job, 0, 256)
    api.store.cancel(job)
    append(api, job, 1, 256)
    (row,) = usage(api)
    assert (row["key"], row["texts"], row["tokens"], row["hits"]) == ("web", 256, 256 * ONE.tokens, 1)
    assert 30 * 86_400 < api.redis.ttl(api.redis.keys("*:usage:*")[0]) <= 31 * 86_400


async def test_results_that_are_stored_twice_count_once(api: JobsApi) -> None:
    """The reply of the first command was lost, or the process was killed before it knew."""
    job = await submit(api, 600)
    append(api, job, 0, 256, 256, times=3)
    append(api, job, 0, 256, 256)
    append(api, job, 2, 88, times=2)
    other = await submit(api, 3, key="two")
    append(api, other, 0, 3)
    assert [(row["key"], row["texts"]) for row in usage(api)] == [("phone", 3), ("web", 600)]


async def test_a_forgotten_client_has_no_usage_of_jobs(api: JobsApi) -> None:
    append(api, await submit(api, 3), 0, 3)
    append(api, await submit(api, 3, key="two"), 0, 3)
    ids, _ = JobEraser(api.redis, "default", api.store, api.queue.forget).client("key:web")
    assert len(ids) == 1
    assert [row["key"] for row in usage(api)] == ["phone"]


async def test_texts_of_a_job_counted_twice_if_usage_was_read_before_it_was_counted(api: JobsApi) -> None:
    """A client with as much left as the job had was refused until midnight."""
    count_late = list[str]()

    async def used(names: Sequence[str]) -> Used:
        found = api.store.used(names)
        for job in count_late:
            traffic.count_job("key:web", record_of(api, job))
        return found

    hub = FakeHub(replies=lambda command: [0 for _ in command.rows])
    traffic = Traffic(ApiSettings(quotas="web=1000"), hub, {}, used)
    count_late.append(await submit(api, 600))
    await traffic.flush()
    count_late.clear()
    traffic.check_quota("key:web", 400)
    later = await submit(api, 100)
    await traffic.flush()
    traffic.count_job("key:web", record_of(api, later))
    traffic.check_quota("key:web", 300)
    traffic.count_job("key:web", record_of(api, await submit(api, 100)))
    with pytest.raises(Problem, match="quota_exceeded"):
        traffic.check_quota("key:web", 201)


async def test_a_quota_counts_the_texts_that_a_job_has_yet_to_compute(api: JobsApi) -> None:
    async def used(names: Sequence[str]) -> Used:
        return api.store.used(names)

    settings = ApiSettings(quotas="web=1000")
    hub = FakeHub(replies=lambda command: [0 for _ in command.rows])
    traffic = Traffic(settings, hub, {}, used)

    async def left() -> int:
        """How many of these numbers of texts the quota still has."""
        await traffic.flush()
        most = 0
        for texts in (400, 744, 1000):
            with contextlib.suppress(Problem):
                traffic.check_quota("key:web", texts)
                most = texts
        return most

    assert await left() == 1000
    job = await submit(api, 600)
    traffic.count_job("key:web", record_of(api, job))
    with pytest.raises(Exception, match="quota_exceeded"):
        traffic.check_quota("key:web", 401)
    assert await left() == 400
    append(api, job, 0, 256)
    assert await left() == 400
    api.store.cancel(job)
    assert await left() == 744
