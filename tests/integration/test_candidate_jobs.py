"""Jobs of a model with a candidate: two API processes and two workers, on a fake Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from batcher.core.publications import Candidate
from batcher.jobs.runner import Interrupted
from model_store.stub import StubClassifier
from tests.integration.test_candidates import Turned, comparison, load, offline, taken, tried
from tests.many import Many, Replicas, publish_fast, start_replicas, until_async

TEXTS = [f"text {number}" for number in range(300)]


@pytest.fixture
async def many(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Many]:
    publish_fast(monkeypatch)
    monkeypatch.setattr("batcher.publishing.shadow.REPORT_EVERY_S", 0.05)
    monkeypatch.setattr("batcher.worker.building.load", load)
    monkeypatch.setattr("batcher.jobs.runner.ASIDE_S", 600.0)
    monkeypatch.setattr("batcher.jobs.runner.FLUSH_EVERY_S", 0.05)
    monkeypatch.setattr("batcher.jobs.runner.PATIENCE_S", 0.1)
    async with Many(monkeypatch) as made:
        yield made


@pytest.fixture
async def replicas(many: Many) -> Replicas:
    return await start_replicas(many)


async def submit(api: httpx.AsyncClient, texts: Sequence[str] = TEXTS, model: str = "") -> str:
    path = f"/jobs?model={model}" if model else "/jobs"
    answer = await api.post(path, json={"text": list(texts)})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def results(api: httpx.AsyncClient, job: str) -> list[list[float]]:
    """The scores of all texts of a job."""
    found = await api.get(f"/jobs/{job}/predictions?limit=100000")
    return [[pair["score"] for pair in pairs] for pairs in found.json()["predictions"]]


async def models(api: httpx.AsyncClient, job: str) -> list[str]:
    """What answered each text of a job."""
    found = await api.get(f"/jobs/{job}/predictions?limit=100000&models=true")
    return [item["model"] for item in found.json()["predictions"]]


def expected(candidate: Candidate | None, texts: Sequence[str] = TEXTS, client: str = "") -> Any:
    both = [offline(made, texts) for made in (StubClassifier(), Turned())]
    chosen = [candidate is not None and candidate.takes(text, client) for text in texts]
    return [both[other][at] for at, other in enumerate(chosen)]


async def pause(api: httpx.AsyncClient) -> None:
    paused = await api.put("/admin/pauses/bulk", json={"for_s": 600, "waiting": "keep"})
    assert paused.status_code == 200, paused.text


async def resume(api: httpx.AsyncClient) -> None:
    assert (await api.delete("/admin/pauses/bulk")).is_success


async def running(many: Many, job: str) -> asyncio.Task[str]:
    """An attempt at a job, once it has chosen what answers."""
    client, attempt = many.client(), asyncio.create_task(many.run_job(job))

    async def begun() -> bool:
        return bool(client.hexists(f"{{millrace-jobs:default}}:job:{job}", "rate"))

    await until_async(begun, "the attempt to begin")
    return attempt


async def test_a_text_of_a_job_has_the_revision_that_a_request_gets(many: Many, replicas: Replicas) -> None:
    one, other = replicas.apis
    await tried(replicas, number=await replicas.publish("turned"), share=0.5)
    job = await submit(one)
    assert await many.run_job(job) == "finished"
    found = await results(other, job)
    assert found == expected(Candidate(1, 0.5))
    answer = await other.post("/predict", json={"text": TEXTS[:50]})
    assert [[pair["score"] for pair in pairs] for pairs in answer.json()["predictions"]] == found[:50]
    assert answer.headers["x-cache"] == "HIT", "both revisions use the cache of requests"
    said = await models(other, job)
    assert dict(zip(TEXTS, said, strict=True)) == taken(TEXTS, 0.5)
    record = (await other.get(f"/jobs/{job}")).json()
    assert record["models"] == [*dict.fromkeys(said)]
    assert record["model"] in record["models"]


async def test_a_running_job_follows_a_share_that_changes(many: Many, replicas: Replicas) -> None:
    api = replicas.apis[0]
    number = await replicas.publish("turned")
    await pause(api)
    job = await submit(api)
    attempt = await running(many, job)
    await tried(replicas, number=number, share=0.25)
    with pytest.raises(Interrupted):
        await attempt
    attempt = asyncio.create_task(many.run_job(job))
    await resume(api)
    assert await attempt == "finished"
    assert await results(api, job) == expected(Candidate(1, 0.25))


async def test_all_texts_of_a_job_are_answered_as_its_client_is(many: Many, replicas: Replicas) -> None:
    await tried(
        replicas, number=await replicas.publish("turned", "topics"), share=0.5, by="client", model="topics"
    )
    setting = Candidate(1, 0.5, "client")
    seen = set()
    for number in range(4):
        api, address = replicas.apis[number % 2], f"192.0.2.{number}"
        api._transport.client = (address, 1)  # type: ignore[attr-defined]
        job = await submit(api, TEXTS[:20], "topics")
        assert await many.run_job(job) == "finished"
        chosen = setting.takes("", address)
        classifier = Turned() if chosen else StubClassifier(variant="t")
        assert await results(api, job) == offline(classifier, TEXTS[:20])
        seen.add(chosen)
    assert seen == {True, False}


async def test_a_shadow_compares_the_texts_of_jobs_too(many: Many, replicas: Replicas) -> None:
    await tried(replicas, number=await replicas.publish("turned"), share=0.4, shadow=True)
    api = replicas.apis[0]
    assert (await api.post("/predict", json={"text": TEXTS[:50]})).status_code == 200
    job = await submit(api)
    assert await many.run_job(job) == "finished"
    assert await results(api, job) == expected(None)
    shadowed = [text for text in TEXTS if Candidate(1, 0.4).takes(text, "")]
    found: dict[str, Any] = {}

    async def counted() -> bool:
        found.update(await comparison(replicas))
        return int(found["texts"]) >= len(shadowed)

    await until_async(counted, "all texts to be counted")  # those of the request once
    old, new = offline(StubClassifier(), shadowed), offline(Turned(), shadowed)
    same = sum((a[0] > a[1]) == (b[0] > b[1]) for a, b in zip(old, new, strict=True))
    assert (found["texts"], found["agree"], found["dropped"]) == (len(shadowed), same, 0)


async def test_a_running_job_keeps_its_revision_until_workers_drop_it(many: Many, replicas: Replicas) -> None:
    api = replicas.apis[0]
    await replicas.publish("stub@v1")
    await pause(api)
    first = await submit(api, TEXTS[:10])
    attempt = await running(many, first)
    await replicas.move(number=1)
    second = await submit(api, TEXTS[:10])
    await resume(api)
    assert await attempt == "finished"
    assert await results(api, first) == offline(StubClassifier(), TEXTS[:10])
    await pause(api)
    attempt = await running(many, second)
    await replicas.move(number=await replicas.publish("turned"))
    await replicas.publish("stub@v3")  # now, 2 answers, and 1 is needed no longer
    with pytest.raises(Interrupted):
        await attempt
    attempt = asyncio.create_task(many.run_job(second))
    await resume(api)
    assert await attempt == "finished"
    assert await results(api, second) == offline(Turned(), TEXTS[:10])
