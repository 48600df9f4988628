"""Publications of models whose queue has two shards, on two fake servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import redis

from batcher.core.publications import Candidate
from batcher.publishing import publications
from tests.many import Many, Replicas, model_header, publish_fast, start_replicas, until_async
from tests.shards import texts_at

OLD, NEW = model_header("stub", ""), model_header("stub", "v1")
# Texts of each shard.
PARTS = [texts_at(number, 2, 6) for number in range(2)]
TEXTS = [text for part in PARTS for text in part]


@pytest.fixture
async def many(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Many]:
    publish_fast(monkeypatch)
    async with Many(monkeypatch, shards=2) as made:
        yield made


@pytest.fixture
async def replicas(many: Many) -> Replicas:
    return await start_replicas(many)


async def model_headers(api: httpx.AsyncClient, texts: list[str]) -> dict[str, str]:
    """Which revision answers each text, asked alone."""
    answers = {text: await api.post("/predict", json={"text": [text]}) for text in texts}
    assert {answer.status_code for answer in answers.values()} == {200}
    return {text: answer.headers["x-model"] for text, answer in answers.items()}


async def test_a_name_moves_at_all_shards_and_a_share_is_that_of_each_text(
    many: Many, replicas: Replicas
) -> None:
    for api in replicas.apis:
        assert {*(await model_headers(api, TEXTS)).values()} == {OLD}
    number = await replicas.publish("stub@v1")
    shared = await replicas.admin("candidate", number=number, share=0.5)
    assert (shared.status_code, shared.json()["unconfirmed"]) == (200, [])
    wanted = {text: NEW if Candidate(number, 0.5).takes(text, "") else OLD for text in TEXTS}
    assert {*wanted.values()} == {OLD, NEW}
    for api in replicas.apis:
        assert await model_headers(api, TEXTS) == wanted
    job = (await replicas.apis[0].post("/jobs", json={"text": TEXTS})).json()["id"]
    assert await many.run_job(job) == "finished"
    found = (await replicas.apis[1].get(f"/jobs/{job}/predictions?models=true")).json()["predictions"]
    assert [item["model"] for item in found] == [*wanted.values()]
    await replicas.move(number=number)
    for api in replicas.apis:
        assert {*(await model_headers(api, TEXTS)).values()} == {NEW}
    assert (await replicas.move())["number"] == 0
    assert {*(await model_headers(replicas.apis[1], TEXTS)).values()} == {OLD}


async def test_a_shard_that_does_not_have_a_change_is_named(
    monkeypatch: pytest.MonkeyPatch, replicas: Replicas
) -> None:
    """It was full: once the other one was lost, the former revision answered again."""
    replace = publications._replace

    def full(pipe: Any, key: str, fields: Mapping[bytes, bytes]) -> None:
        if ":1}" in key:
            raise redis.exceptions.OutOfMemoryError
        replace(pipe, key, fields)

    number = await replicas.publish("stub@v1")
    changes = {"candidate": {"number": number, "share": 0.5}, "move": {"number": number}}
    with monkeypatch.context() as patched:
        patched.setattr(publications, "_replace", full)
        for path, body in (*changes.items(), ("publish", {"reference": "stub@v2"})):
            answer = await replicas.admin(path, **body)
            assert (answer.status_code, answer.json().get("shards_down")) == (200, [1])
    assert "shards_down" not in await replicas.move()


async def test_a_change_is_not_refused_though_redis_is_away_by_then(
    monkeypatch: pytest.MonkeyPatch, replicas: Replicas
) -> None:
    """Repeated as advised, `millrace publish --back` went forth again."""
    number, away = await replicas.publish("stub@v1"), Mock(side_effect=redis.ConnectionError)
    monkeypatch.setattr("api.admin.publications.CONFIRM_S", 0.3)
    monkeypatch.setattr(publications.PublicationStore, "unconfirmed", away)
    answer = await replicas.admin("move", number=number)
    assert answer.json() == {"model": "stub", "number": number, "before": 0, "unconfirmed": []}


async def test_a_shard_that_is_down_or_has_lost_its_data_brings_no_old_revision_back(
    monkeypatch: pytest.MonkeyPatch, many: Many
) -> None:
    # All workers live at the shard that goes down.
    monkeypatch.setattr("batcher.worker.building.crc32", lambda worker_id: 0)
    replicas = await start_replicas(many)
    await replicas.move(number=await replicas.publish("stub@v1"))
    key = "{millrace:2:default}:revisions"
    assert many.client(0).hgetall(key) == many.client(1).hgetall(key.replace("}", ":1}"))
    many.servers[0].connected = False
    later = await many.api()
    first: list[str] = []

    async def answered() -> bool:
        """A process that starts while the first shard is down, asked for texts of the other one."""
        answer = await later.post("/predict", json={"text": PARTS[1][:1]}, headers={"prefer": "wait=1"})
        first.append(answer.headers.get("x-model", ""))
        return answer.status_code == 200

    await until_async(answered, "an answer")
    assert first[-1] == NEW
    refused = await later.post("/admin/models/publish", json={"reference": "stub@v9"})
    assert refused.status_code == 503
    many.servers[0].connected = True
    many.client(0).delete(key)
    assert await replicas.publish("stub@v2") == 2, "the numbers go on where the other shard knows them"
    seen: set[str] = set()

    async def all_answered() -> bool:
        answers = [await replicas.apis[0].post("/predict", json={"text": [text]}) for text in TEXTS]
        seen.update(answer.headers["x-model"] for answer in answers if answer.status_code == 200)
        return all(answer.status_code == 200 for answer in answers)

    await until_async(all_answered, "both shards to answer")
    assert seen == {NEW}
