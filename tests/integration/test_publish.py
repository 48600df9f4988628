"""Revisions that are published and taken back under load, with two API processes and two workers."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import re
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import httpx
import pytest

from api.admin.traces import Traces
from batcher.hub.hub import ReplyHub
from model_store.stub import StubClassifier
from tests.many import Many, Replicas, model_header, publish_fast, ready, start_replicas, until_async
from tests.shards import until


@pytest.fixture
async def many(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Many]:
    publish_fast(monkeypatch)
    async with Many(monkeypatch) as made:
        yield made


@pytest.fixture
async def replicas(many: Many) -> Replicas:
    return await start_replicas(many)


@dataclass
class Load:
    """Six requests at a time, for known texts, new texts, and both, by every API."""

    replicas: Replicas
    path: str
    # When each request was sent, its status and its X-Model.
    answers: list[tuple[float, int, str]] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        fresh = itertools.count()
        self._tasks = [
            asyncio.create_task(self._ask(api, fresh)) for api in self.replicas.apis for _ in range(3)
        ]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._running = False
        await asyncio.gather(*self._tasks)

    _running = True

    async def _ask(self, api: httpx.AsyncClient, fresh: itertools.count[int]) -> None:
        while self._running:
            new = f"text {next(fresh)}"
            for texts in (["known"], [new], [new, "known"]):
                at = asyncio.get_running_loop().time()
                answer = await api.post(self.path, json={"text": texts})
                self.answers.append((at, answer.status_code, answer.headers.get("x-model", "")))
                await asyncio.sleep(0.02)  # without it, most of the processor time is that of this test

    async def more(self, count: int) -> None:
        wanted = len(self.answers) + count

        async def answered() -> bool:
            return len(self.answers) >= wanted

        await until_async(answered, f"{count} more answers")


@pytest.mark.parametrize(
    ("model", "path", "first", "count"),
    [("", "/predict", "stub", 10), ("topics", "/models/topics/predict", "topics", 4)],
)
async def test_published_and_taken_back_under_load(
    replicas: Replicas, model: str, path: str, first: str, count: int
) -> None:
    model_headers = {0: model_header(first, "t" if model else ""), 1: model_header(first, "v2")}
    now = asyncio.get_running_loop().time
    moves: list[tuple[float, float, int]] = []  # when each began and was over, and the number that answers
    async with Load(replicas, path) as load:
        assert await replicas.publish("stub@v2", model) == 1
        await load.more(10)
        for _ in range(count):
            began = now()
            moved = await replicas.move(model=model) if moves else await replicas.move(model=model, number=1)
            moves.append((began, now(), moved["number"]))
            await load.more(10)
    assert {status for _, status, _ in load.answers} == {200}
    assert [number for _, _, number in moves] == [1, 0] * (count // 2)
    # What is sent after one move and before the next is answered by that revision and no other.
    for (_, over, number), (begins, _, _) in itertools.pairwise([*moves, (now(), 0.0, 0)]):
        assert {found for at, _, found in load.answers if over < at < begins} == {model_headers[number]}
    assert {one for _, _, found in load.answers for one in found.split(", ")} == set(model_headers.values())


@pytest.mark.parametrize("model", ["", "topics"])
async def test_a_pause_holds_when_another_revision_answers_and_so_does_its_end(
    many: Many, replicas: Replicas, model: str
) -> None:
    """Jobs went on after a move, and a pause that had ended elsewhere was back after a move back."""
    api, redis = replicas.apis[0], many.client()
    queues = f"default/{model}".removesuffix("/"), f"default/{model}@1"
    first, second = (f"{{millrace:2:{queue}}}:pauses" for queue in queues)

    def ends() -> list[int]:
        """When the pause of jobs ends in each queue that has one."""
        found = (re.search(rb"bulk refuse (\d+);", redis.get(key) or b"") for key in (first, second))
        return [int(one[1]) for one in found if one]

    pauses = f"/admin/pauses/models/{model or 'stub'}"
    await replicas.publish("stub@v2", model)
    assert (await api.put("/admin/pauses/bulk", json={"waiting": "refuse", "for_s": 600})).is_success
    redis.delete(second)  # as if its workers had come later
    held = redis.get(first)
    await replicas.move(model=model, number=1)
    await until(lambda: len(ends()) == 2, "the pause of the other")
    one, other = ends()
    assert abs(one - other) < 60_000, "both end at the same time, but for what a look takes"
    assert (await api.delete(pauses)).is_success
    assert ends() == []
    redis.set(first, held)  # as if its workers had been away
    await replicas.move(model=model)
    await until(lambda: ends() == [], "the end of the pause")


@pytest.mark.parametrize("model", ["", "topics"])
async def test_a_pause_of_a_model_and_its_end_concern_all_of_its_publications(
    many: Many, replicas: Replicas, model: str
) -> None:
    """Jobs went on with the publication before, and what waited there stayed until the end of the pause."""
    api, redis = replicas.apis[0], many.client()
    pause = f"/admin/pauses/models/{model or 'stub'}"
    queues = [f"default/{model}".removesuffix("/"), f"default/{model}@1"]

    def paused() -> list[bool]:
        return [b"keep" in (redis.get(f"{{millrace:2:{queue}}}:pauses") or b"") for queue in queues]

    await replicas.publish("stub@v2", model)
    await replicas.move(model=model, number=1)
    assert (await api.put(pause, json={"for_s": 600})).json()["pauses"].keys() == {"interactive", "bulk"}
    assert paused() == [True, True]

    async def shown() -> bool:
        return (await api.get("/admin/pauses")).json()["pauses"].keys() == {"interactive", "bulk"}

    if not model:
        await until_async(shown, "the pause of what answers to be shown")
    assert (await api.delete(pause)).json()["pauses"] == {}
    assert paused() == [False, False]


async def test_every_route_moves_and_jobs_do(many: Many, replicas: Replicas) -> None:
    store = many.job_store()
    await replicas.publish("stub@v2", "topics")
    await replicas.move(model="topics", number=1)
    new = model_header("topics", "v2")
    for api in replicas.apis:
        for path, body in (
            ("/models/topics/predict", {"text": ["a"]}),
            ("/v1/models/topics:predict", {"instances": ["a"]}),
            ("/v1/classify", {"input": "a", "model": "topics"}),
        ):
            assert (await api.post(path, json=body)).headers["x-model"] == new
        assert (await api.post("/predict", json={"text": ["a"]})).headers["x-model"] == model_header(
            "stub", ""
        )
        listed = (await api.get("/models")).json()["models"]
        assert [one["name"] for one in listed] == ["stub", "topics"]
        assert new.endswith(listed[1]["revision"][:12])
    submitted = await replicas.apis[0].post("/jobs?model=topics", json={"text": ["of a job"]})
    assert await many.run_job(submitted.json()["id"]) == "finished"
    redis = many.client()
    assert redis.keys("millrace:cache:2:default/topics@1:*")
    assert store.record(submitted.json()["id"]) is not None


async def test_other_paths_of_predict_stayed_with_the_former_revision(many: Many) -> None:
    many.worker("stub")
    client = await many.api(compat="project")
    await ready(client, "stub")
    replicas = Replicas([client])
    assert (await replicas.admin("publish", reference="stub@v2")).status_code == 200
    await until_async(lambda: _moves(replicas), "the move")
    for path in ("/predict", "/bulk-predict"):
        answer = await client.post(path, json={"text": ["a"]})
        assert answer.headers["x-model"] == model_header("stub", "v2"), path


async def test_a_batch_of_moderations_was_refused_for_the_labels_of_the_former_revision(many: Many) -> None:
    many.worker("stub")
    client = await many.api()
    await ready(client, "stub")
    replicas = Replicas([client])
    assert (await replicas.admin("publish", reference="stub@signed-6")).status_code == 200
    await until_async(lambda: _moves(replicas), "the move")
    line = {"custom_id": "1", "method": "POST", "url": "/v1/moderations", "body": {"input": "a"}}
    sent = await client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", json.dumps(line).encode())}
    )
    asked = {"endpoint": "/v1/moderations", "completion_window": "24h"}
    made = await client.post("/v1/batches", json=asked | {"input_file_id": sent.json()["id"]})
    assert made.status_code == 200, made.text


async def test_readyz_and_stats_named_the_first_revision_after_another_was_published(many: Many) -> None:
    many.worker("stub")
    client = await many.api()
    await ready(client, "stub")
    replicas = Replicas([client])
    assert (await replicas.admin("publish", reference="stub@v2")).status_code == 200
    await until_async(lambda: _moves(replicas), "the move")
    assert (await client.get("/readyz")).json()["model"] == model_header("stub", "v2")

    async def named() -> bool:  # a frame is made once a second
        return model_header("stub", "v2").endswith((await client.get("/stats")).json()["model"]["revision"])

    await until_async(named, "a frame that names the revision")


async def _moves(replicas: Replicas) -> bool:
    return (await replicas.admin("move", number=1)).status_code == 200


async def test_a_revision_that_no_worker_can_load_changes_nothing(replicas: Replicas) -> None:
    asked = await replicas.admin("publish", reference="/no/such/model")
    number = asked.json()["number"]

    async def failed() -> bool:
        state = (await replicas.apis[0].get("/admin/models")).json()["models"]["stub"]
        return "is not a directory" in state["revisions"][str(number)]["failure"]

    await until_async(failed, "the failure")
    refused = await replicas.admin("move", number=number)
    assert (refused.status_code, refused.json()["code"]) == (409, "revision_not_ready")
    assert refused.json()["detail"].startswith(f"0 of 2 workers serve publication {number}: wait for ")
    assert (await replicas.admin("move", number=7)).json()["code"] == "no_revision"
    answer = await replicas.apis[1].post("/predict", json={"text": ["a"]})
    assert answer.headers["x-model"] == model_header("stub", "")


async def test_an_older_revision_is_dropped_and_a_new_process_knows_what_answers(
    many: Many, replicas: Replicas
) -> None:
    for number in (1, 2, 3):
        assert await replicas.publish(f"stub@v{number}") == number
        await replicas.move(number=number)
    state = (await replicas.apis[0].get("/admin/models")).json()["models"]["stub"]
    assert (state["current"], state["previous"]) == (3, 2)
    assert set(state["revisions"]) == {"0", "2", "3"}
    later = await many.api()
    first: list[str] = []

    async def answered() -> bool:
        """It may have to wait for the first look at the queue, but must not answer by another revision."""
        answer = await later.post("/predict", json={"text": ["a"]})
        first.append(answer.headers.get("x-model", answer.json().get("code", "")))
        return answer.status_code != 503

    await until_async(answered, "the first answer")
    assert first[-1] == model_header("stub", "v3"), first
    many.worker("stub,topics=stub@t")

    async def three() -> bool:
        found = (await later.get("/admin/models")).json()["models"]["stub"]["revisions"]
        return bool(found["3"]["workers"] == 3 and found["2"]["workers"] == 3)

    await until_async(three, "the third worker to load what is kept")


async def test_a_request_that_waits_in_a_publication_that_is_dropped_learns_it(replicas: Replicas) -> None:
    """It got "this process is stopping"."""
    api = replicas.apis[0]
    await replicas.move(number=await replicas.publish("stub@v1"))
    assert (await api.put("/admin/pauses/all", json={"waiting": "keep", "for_s": 50})).status_code == 200
    body, headers = {"text": ["a"]}, {"prefer": "wait=55"}
    asking = asyncio.create_task(api.post("/predict", json=body, headers=headers))
    for reference in ("stub@v2", "stub@v3"):
        await replicas.move(number=await replicas.publish(reference))
    refused = await asking
    assert (refused.status_code, refused.json()["code"]) == (503, "no_worker"), refused.text
    assert refused.json()["detail"].startswith("the queue of the revision that was asked was closed")
    assert (await api.delete("/admin/pauses/all")).status_code == 200
    answer = await api.post("/predict", json=body, headers=headers)
    assert (answer.status_code, answer.headers["x-model"]) == (200, model_header("stub", "v3"))


async def test_finding_29_a_dropped_revision_leaves_no_connection_no_memory_and_no_endless_key(
    many: Many, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one kept three connections, its model and two keys, in every worker, until the worker ended."""
    served, client, closed = many.worker("stub,topics=stub@t"), many.client(), []
    # What is not published would be dropped by the worker itself.
    monkeypatch.setattr("batcher.worker.building.DROP_S", 600.0)
    served.add("topics", "topics@1", "stub@v1")
    keys = [f"{{millrace:2:default/topics@1}}:{key}" for key in ("model", "clock")]
    await until(lambda: client.exists(*keys) == len(keys), "the revision to be served")
    monkeypatch.setattr(fakeredis.FakeRedis, "close", lambda self: closed.append(self))
    dropped = weakref.ref(served.models[-1].worker)
    served.drop("topics@1")
    await until(lambda: all(0 < client.ttl(key) <= 300 for key in keys), "its keys to have an end")
    await until(lambda: len(closed) == 4, "its connections to be closed, and that of its cache")
    await until(lambda: gc.collect() >= 0 and dropped() is None, "its memory to be free")
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("kind", "other"),
    [(ReplyHub, "batcher.worker.several"), (StubClassifier, "api.models.served")],
)
async def test_finding_34_the_memory_of_a_dropped_revision_is_freed_in_each_process(
    many: Many, replicas: Replicas, monkeypatch: pytest.MonkeyPatch, kind: type, other: str
) -> None:
    """It refers to itself, and the collector hardly ever looked at what is that old."""
    monkeypatch.setattr(f"{other}.collect_dropped", lambda: None)  # all processes of this test are one

    def living() -> weakref.WeakSet[Any]:
        return weakref.WeakSet(one for one in gc.get_objects() if issubclass(type(one), kind))

    async def another(variant: str) -> None:
        number = await replicas.publish(f"stub@{variant}", "topics")
        await replicas.move(model="topics", number=number)

    await another("v2")
    await another("v3")  # from here on, each new one takes the place of the one before the last
    gc.collect()
    gc.disable()
    try:
        before = living()
        known = len(before)
        await another("v4")
        await until(lambda: len(before) < known, "the memory of the revision before the last to be free")
    finally:
        gc.enable()


@pytest.mark.parametrize(("model", "base"), [("topics", "topics"), ("stub", "")])
async def test_refused_texts_are_those_of_all_revisions_of_a_model(
    many: Many, replicas: Replicas, monkeypatch: pytest.MonkeyPatch, model: str, base: str
) -> None:
    api = await many.api(keep_refused_texts=True)
    await ready(api, "stub", "topics")
    path = f"/models/{model}/predict"
    texts = ["\0raise first", "\0raise second"]

    async def listed(name: str) -> list[tuple[str, str]]:
        found = await api.get("/admin/refused", params={"model": name})
        return [(one["text"], one["revision"]) for one in found.json()["refused"]]

    def revision(variant: str) -> str:
        return StubClassifier(variant=variant).info.revision

    variant = "t" if base else ""
    assert (await api.post(path, json={"text": texts[:1]})).json()["code"] == "inference_failed"
    await replicas.move(model=base, number=await replicas.publish("stub@v2", base))
    assert (await api.post(path, json={"text": texts[1:]})).json()["code"] == "inference_failed"
    assert await listed(model) == [(texts[1], revision("v2")), (texts[0], revision(variant))]
    assert await listed("stub" if base else "topics") == []
    # The revision that answers tries all of them again.
    monkeypatch.setattr("model_store.stub._fault", lambda text: None)
    tried = await api.post("/admin/refused/retry", json={"model": model, "filter": {}})
    assert tried.json() == {"found": 2, "not_held": 0, "classified": 2, "failed": 0}
    assert await listed(model) == []
    assert (await api.get("/admin/refused?model=nothing")).json()["code"] == "model_not_found"


@pytest.mark.parametrize(("model", "path"), [("", "/predict"), ("topics", "/models/topics/predict")])
async def test_the_timeline_of_another_publication_or_model_did_not_know_the_worker(
    monkeypatch: pytest.MonkeyPatch, replicas: Replicas, model: str, path: str
) -> None:
    """Only workers of the first queue were asked, which may have run the text for another request."""
    monkeypatch.setattr(Traces, "open_s", 60.0)
    api = replicas.apis[0]

    async def ran(request_id: str, *texts: str) -> list[dict[str, Any]]:
        answer = await api.post(path, json={"text": texts}, headers={"x-request-id": request_id})
        assert answer.status_code == 200
        steps = (await api.get(f"/admin/traces/{request_id}")).json()["timeline"]
        assert [step["step"] for step in steps][2:] == ["queued", "claimed", "batch", "answered"]
        return [step for step in steps if "worker" in step]

    await replicas.publish("stub@v2", model)
    before = await ran("before", "a")
    await replicas.move(model=model, number=1)
    after = await ran("after", "a", "b")
    assert all(step["worker"] for step in [*before, *after])
    assert [step["texts"] for step in after] == [2, 2]
