"""Jobs and large inputs, against an API in this process whose jobs are in a fake Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from millrace_client import (
    AsyncClient,
    Client,
    JobError,
    Options,
    Prediction,
    Progress,
    RequestError,
    TextError,
)

from api.settings import ApiSettings
from batcher.settings import JobSettings
from tests.conftest import FakeRedis
from tests.unit.api.jobs.jobs_api import JobsApi, serving
from tests.unit.fakes import FakeCache, FakeHub, run_attempt, score

WORDS = [f"text {number}" for number in range(600)]


@asynccontextmanager
async def service(fake: FakeRedis, **settings: Any) -> AsyncIterator[tuple[JobsApi, AsyncClient]]:
    """An API, and a client of it for which 500 texts are a job."""
    options = Options(job_from=500, budget_s=5.0)
    async with serving(fake, ApiSettings(**settings)) as api:
        transport = httpx.ASGITransport(api.app, raise_app_exceptions=False)
        async with AsyncClient("http://localhost", options=options, transport=transport) as client:
            yield api, client


@asynccontextmanager
async def working(api: JobsApi) -> AsyncIterator[None]:
    """Runs the jobs that are submitted meanwhile, one after the other."""

    async def work() -> None:
        while True:
            for attempt in api.store.claim(1, 1).attempts:
                await run_attempt(attempt, api.store, JobSettings(), FakeHub(lane="bulk"), FakeCache())
            await asyncio.sleep(0.01)

    task = asyncio.create_task(work())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def assert_predicted(results: list[Any], texts: list[str]) -> None:
    assert [one.scores["POSITIVE"] for one in results] == [round(score(text), 7) for text in texts]


async def test_a_single_string_is_no_job_of_its_letters() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(TypeError, match=r"pass \[text\]"):
        client.jobs.create("good")
    async with AsyncClient("http://127.0.0.1:1") as aio:
        with pytest.raises(TypeError, match=r"pass \[text\]"):
            await aio.jobs.create("good")


async def test_few_texts_are_sent_to_predict(fake_redis: FakeRedis) -> None:
    async with service(fake_redis) as (api, client):
        assert_predicted([one async for one in client.classify(WORDS[:100])], WORDS[:100])
        assert api.held() == []


async def test_many_texts_become_a_job_which_is_deleted_afterwards(fake_redis: FakeRedis) -> None:
    seen: list[Progress] = []
    async with service(fake_redis) as (api, client), working(api):
        assert_predicted([one async for one in client.classify(WORDS, progress=seen.append)], WORDS)
        assert (await api.get("")).json()["jobs"] == []
    assert [seen[0].done, seen[-1].done, seen[-1].total] == [0, 600, 600]
    assert seen[-1].job is not None
    assert seen[-1].job.status == "finished"


@pytest.mark.parametrize(("texts", "becomes_job"), [(499, False), (500, True)])
async def test_as_many_texts_as_the_option_says_become_a_job(
    fake_redis: FakeRedis, texts: int, becomes_job: bool
) -> None:
    seen: list[Progress] = []
    async with service(fake_redis) as (api, client), working(api):
        results = client.classify(WORDS[:texts], progress=seen.append)
        assert_predicted([one async for one in results], WORDS[:texts])
    assert any(one.job is not None for one in seen) == becomes_job


@pytest.mark.parametrize("settings", [{"max_jobs_bytes": 1024}, {"max_job_body_bytes": 1024}])
async def test_a_job_that_does_not_fit_is_sent_to_predict(
    fake_redis: FakeRedis, settings: dict[str, int]
) -> None:
    async with service(fake_redis, **settings) as (_, client):
        assert_predicted([one async for one in client.classify(WORDS)], WORDS)


async def test_a_job_is_created_followed_and_read(fake_redis: FakeRedis) -> None:
    async with service(fake_redis) as (api, client), working(api):
        job = await client.jobs.create(iter(WORDS), keep_input=True)
        assert job.status in ("queued", "running")
        assert job.total == 600
        ended = await client.jobs.wait(job.id)
        assert (ended.status, ended.done, ended.failed, ended.ended) == ("finished", 600, 0, True)
        assert_predicted([one async for one in client.jobs.results(job)], WORDS)
        assert (await api.get(f"/{job.id}/texts")).text.count("\n") == 600
        await client.jobs.cancel(job)
        with pytest.raises(RequestError) as caught:
            await client.jobs.get(job)
        assert caught.value.code == "not_found"


async def test_results_can_be_read_while_the_job_is_running(fake_redis: FakeRedis) -> None:
    async with service(fake_redis) as (api, client):
        job = await client.jobs.create(WORDS)
        results = client.jobs.results(job)
        async with working(api):
            assert isinstance(await anext(results), Prediction)
            assert len([one async for one in results]) == 599


async def test_the_same_key_is_the_same_job(fake_redis: FakeRedis) -> None:
    async with service(fake_redis) as (_, client):
        first = await client.jobs.create(["a", "b"], idempotency_key="monday")
        assert await client.jobs.create(["a", "b"], idempotency_key="monday") == first
        with pytest.raises(RequestError, match="idempotency_conflict"):
            await client.jobs.create(["a"], idempotency_key="monday")
        assert (await client.jobs.create(["a", "b"])).id != first.id


async def test_a_job_that_does_not_end_in_time(fake_redis: FakeRedis) -> None:
    async with service(fake_redis) as (_, client):
        job = await client.jobs.create(["a"])
        with pytest.raises(TimeoutError, match=job.id):
            await client.jobs.wait(job, timeout_s=0.01)


async def test_texts_that_failed_stand_in_their_places(fake_redis: FakeRedis) -> None:
    async with service(fake_redis, max_text_chars=20) as (api, client), working(api):
        words = ["a", "x" * 21, "b"]
        job = await client.jobs.wait(await client.jobs.create(words))
        first, failed, last = [one async for one in client.jobs.results(job)]
        assert_predicted([first, last], ["a", "b"])
        assert isinstance(failed, TextError)
        assert (failed.index, failed.code) == (1, "text_too_long")
        results = client.classify([*words, *WORDS])
        await anext(results)
        with pytest.raises(TextError, match="text_too_long"):
            await anext(results)


async def test_a_cancelled_job_is_an_error_for_the_texts_it_leaves_out(fake_redis: FakeRedis) -> None:
    async with service(fake_redis) as (api, client):

        def cancel(progress: Progress) -> None:
            assert progress.job is not None
            api.store.cancel(progress.job.id)

        with pytest.raises(JobError, match="the job was cancelled") as caught:
            [one async for one in client.classify(WORDS, progress=cancel)]
        assert caught.value.code == "cancelled"


async def test_results_that_are_no_longer_read_cancel_the_job(fake_redis: FakeRedis) -> None:
    async with service(fake_redis) as (api, client):
        with pytest.raises(ZeroDivisionError):
            [one async for one in client.classify(WORDS, progress=lambda seen: print(1 / seen.done))]
        (job,) = (await api.get("")).json()["jobs"]
        assert job["status"] == "cancelled"


async def test_half_a_surrogate_pair_is_an_error_of_that_text(fake_redis: FakeRedis) -> None:
    async with service(fake_redis) as (_, client):
        fine, broken = [one async for one in client.classify(["fine", "\ud800"], errors="return")]
        assert_predicted([fine], ["fine"])
        assert isinstance(broken, TextError)
        assert (broken.index, broken.code) == (1, "invalid_request")


async def test_an_invalid_text_among_as_many_as_a_job_has_took_all_others_with_it(
    fake_redis: FakeRedis,
) -> None:
    async with service(fake_redis) as (_, client):
        found = [one async for one in client.classify([*WORDS, "\ud800"], errors="return")]
        assert_predicted(found[:-1], WORDS)
        assert isinstance(found[-1], TextError)
        assert found[-1].index == len(WORDS)
