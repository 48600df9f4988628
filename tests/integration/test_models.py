"""Several models behind one endpoint: one process of each kind, on a fake Redis."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace

import httpx
import pytest

from batcher.settings import WorkerSettings
from batcher.worker import building
from batcher.worker.building import LoadedModels
from model_store import ModelError
from tests.answers import right_json
from tests.many import Many, ready, until_async
from tests.shards import until


@pytest.fixture
async def many(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Many]:
    async with Many(monkeypatch) as made:
        yield made


@pytest.fixture
async def client(many: Many) -> httpx.AsyncClient:
    """An API and a worker with the models stub (the first), topics and spam."""
    many.worker("stub,topics=stub@t,spam=stub@s")
    made = await many.api(compat_models="gpt-x")
    await ready(made, "stub", "topics", "spam")
    return made


def named(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model"].partition("@")[0]


async def test_each_name_is_answered_by_its_model(client: httpx.AsyncClient) -> None:
    body = {"text": ["one", "two"]}
    paths = {
        "/predict": "stub",
        "/models/stub/predict": "stub",
        "/models/topics/predict": "topics",
        "/models/spam/predict": "spam",
    }
    answers = {path: await client.post(path, json=body) for path in paths}
    assert {path: named(answer) for path, answer in answers.items()} == paths
    assert {json.dumps(answer.json()["predictions"]) for answer in answers.values()} == {
        json.dumps(right_json(["one", "two"]))
    }
    # No model answers from the cache of another one, and each has its own revision.
    assert [answers[path].headers["x-cache"] for path in paths] == ["MISS", "HIT", "MISS", "MISS"]
    assert len({answer.headers["x-model"] for answer in answers.values()}) == 3
    again = await client.post("/models/topics/predict", json=body)
    assert (again.headers["x-cache"], named(again)) == ("HIT", "topics")


async def test_models_are_listed(client: httpx.AsyncClient) -> None:
    found = (await client.get("/models")).json()["models"]
    assert [(one["name"], one["first"]) for one in found] == [
        ("stub", True),
        ("spam", False),
        ("topics", False),
    ]
    topics = found[2]
    assert len(topics.pop("revision")) == 64
    assert topics == {
        "name": "topics",
        "first": False,
        "state": "ready",
        "workers": 1,
        "waiting": {"interactive": 0, "bulk": 0},
        "labels": ["NEGATIVE", "POSITIVE"],
        "engine": "stub",
        "precision": "f32",
        "max_tokens": 512,
    }
    frame = {}

    async def all_shown() -> bool:
        """Frames are computed once a second, from what each model's hub has read by then."""
        frame.update((await client.get("/stats")).json())
        return [one["name"] for one in frame["models"] if one["model"]] == ["stub", "spam", "topics"]

    await until_async(all_shown, "a frame with all models")
    assert frame["models"][1]["model"]["name"] == "spam"


async def test_an_unknown_model_gets_404_with_those_that_are_served(client: httpx.AsyncClient) -> None:
    body = {"text": ["a"]}
    for answer in (
        await client.post("/models/nothing/predict", json=body),
        await client.post("/jobs?model=nothing", json=body),
    ):
        assert answer.status_code == 404
        problem = answer.json()
        assert problem["code"] == "model_not_found"
        assert problem["models"] == ["stub", "spam", "topics"]
        assert 'serves the models "stub", "spam", "topics" and not' in problem["detail"]


async def test_two_models_of_one_name_were_both_answered_by_the_first(
    many: Many, caplog: pytest.LogCaptureFixture
) -> None:
    """`stub` is the first model of one worker, and another worker serves `stub@other` by that name."""
    many.worker("stub")
    second = many.worker("-,stub=stub@other")
    client = await many.api(compat_models="*")
    body = {"text": ["a"]}

    async def ambiguous() -> bool:
        return (await client.post("/models/stub/predict", json=body)).status_code == 409

    await until_async(ambiguous, "the API to see both")
    for path, asked in (
        ("/models/stub/predict", body),
        ("/jobs?model=stub", body),
        ("/admin/models/publish", {"model": "stub", "reference": "stub@new"}),
        ("/v1/classify", {"input": "a", "model": "stub"}),
    ):
        answer = await client.post(path, json=asked)
        assert answer.status_code == 409, (path, answer.text)
        assert "two models called stub: give one of them another name" in answer.text
    assert (await client.put("/admin/pauses/models/stub", json={"for_s": 5})).status_code == 409
    assert "two models have the same name" in caplog.text
    assert named(await client.post("/predict", json=body)) == "stub"
    second.drop("stub")
    await ready(client, "stub")


async def test_the_publications_of_the_first_model_were_hidden_by_another_of_its_name(many: Many) -> None:
    """For an hour after the last worker of the other one, too."""
    many.worker("stub")
    client = await many.api()
    await ready(client, "stub")
    published = await client.post("/admin/models/publish", json={"reference": "stub@new"})
    number = str(published.json()["number"])
    many.worker("-,stub=stub@other")

    async def both() -> bool:
        return len((await client.get("/models")).json()["models"]) == 2

    await until_async(both, "the API to see both")
    shown = (await client.get("/admin/models")).json()["models"]
    assert shown["stub"]["revisions"][number]["reference"] == "stub@new"
    assert (await client.get("/admin/pauses")).json()["models"] == ["stub"]


async def test_a_restart_with_another_setting_was_answered_from_the_cache_of_the_former(
    many: Many,
) -> None:
    """The new worker did not become the current one while the former lived, and for eight seconds after."""
    many.worker("stub")
    client = await many.api()
    await ready(client, "stub")
    body = {"text": ["one"]}
    await client.post("/predict", json=body)
    for settings in ({"abstain": 0.99}, {"text_windows": "20:5"}):
        revision = many.worker("stub", **settings).models[0].instruments.classifier.info.revision

        async def taken_over(revision: str = revision) -> bool:
            return bool((await client.get("/models")).json()["models"][0]["revision"] == revision)

        await until_async(taken_over, "the new worker to be the current one")
        assert (await client.post("/predict", json=body)).headers["x-cache"] == "MISS"


async def test_other_servers_routes_take_the_name(client: httpx.AsyncClient) -> None:
    tensor = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
    asked = [
        ("/v2/models/topics/infer", tensor),
        ("/v1/models/topics:predict", {"instances": ["a"]}),
        ("/models/topics", {"inputs": "a"}),
        ("/v1/classify", {"input": "a", "model": "topics"}),
        ("/models/topics/predict", {"inputs": "a"}),  # text-embeddings-inference shares the route
    ]
    for path, body in asked:
        assert named(await client.post(path, json=body)) == "topics", path
    for name in ("stub", "gpt-x"):
        assert named(await client.post("/v1/classify", json={"input": "a", "model": name})) == "stub"
    missing = await client.post("/v1/classify", json={"input": "a", "model": "nothing"})
    assert missing.status_code == 404
    assert 'serves the models "stub", "spam", "topics"' in missing.json()["error"]["message"]
    cards = (await client.get("/v1/models")).json()["data"]
    assert [card["id"] for card in cards] == ["stub", "spam", "topics"]
    described = (await client.get("/v2/models/spam")).json()
    assert described["name"] == "spam"


async def test_a_model_in_the_body_was_not_listened_to(client: httpx.AsyncClient) -> None:
    """Where clients name the model in the path or nowhere, the answer was that of another model."""
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}
    bodies = {
        "/": {"inputs": "a"},
        "/predict": {"inputs": "a"},
        "/models/spam": {"inputs": "a"},
        "/models/spam/predict": {"inputs": "a"},
        "/v1/models/spam:predict": {"instances": ["a"]},
        "/v2/models/spam/infer": {"inputs": [tensor]},
        "/api/v1/text/contents": {"contents": ["a"]},
    }
    for path, body in bodies.items():
        answers = "spam" if "spam" in path else "stub"
        for model in ("topics", 7):
            refused = await client.post(path, json={**body, "model": model})
            assert refused.status_code in (400, 422), (path, refused.text)
            assert f"model: {answers} would answer" in refused.text
        assert (await client.post(path, json={**body, "model_name": "topics"})).status_code in (400, 422)
        assert (await client.post(path, json={**body, "model": "nothing"})).status_code == 404
        assert named(await client.post(path, json={**body, "model": answers})) == answers


async def test_a_model_called_predict_was_answered_by_the_first_one(many: Many) -> None:
    many.worker("stub,predict=stub@p")
    client = await many.api()
    await ready(client, "stub", "predict")
    assert named(await client.post("/models/predict", json={"inputs": "a"})) == "predict"
    assert named(await client.post("/models/predict/predict", json={"text": ["a"]})) == "predict"
    without = await many.api(compat="")
    await ready(without, "stub", "predict")
    for api in (client, without):
        assert (await api.post("/models//predict", json={"text": ["a"]})).status_code == 404


async def test_health_and_limits_of_one_model_were_not_found(client: httpx.AsyncClient) -> None:
    """`health_check()` of a client of one model was false, though the model answers."""
    assert (await client.get("/models/topics/health")).json() == {"status": "alive"}
    assert (await client.get("/models/topics/info")).json()["model_id"] == "topics"
    for path in ("/models/nothing/health", "/models/nothing/info"):
        assert (await client.get(path)).status_code == 404


async def test_a_version_that_another_revision_has_replaced_was_answered_by_it(
    client: httpx.AsyncClient,
) -> None:
    asked = {"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}
    (version,) = (await client.get("/v2/models/topics")).json()["versions"]
    for given, status in ((version, 200), ("1", 200), ("0123456789ab", 404)):
        path = f"/v2/models/topics/versions/{given}"
        answers = [
            await client.get(path),
            await client.get(f"{path}/ready"),
            await client.post(f"{path}/infer", json=asked),
        ]
        for answer in answers:
            assert answer.status_code == status, answer.text
            assert answer.headers.get("x-ignored") == ("version" if given == "1" else None)
            assert status == 200 or f"does not answer now, but {version}" in answer.json()["error"]


async def test_a_job_runs_on_the_model_that_it_names(many: Many, client: httpx.AsyncClient) -> None:
    store = many.job_store()
    for query, name in (("?model=topics", "topics"), ("?model=stub", "stub"), ("", "stub")):
        submitted = await client.post(f"/jobs{query}", json={"text": ["a", "b"]})
        assert submitted.status_code == 202, submitted.text
        assert await many.run_job(submitted.json()["id"]) == "finished"
        record = store.record(submitted.json()["id"])
        assert record is not None
        assert record.model.partition("@")[0] == name
    deferred = await client.post(
        "/models/spam/predict", json={"text": ["a"]}, headers={"prefer": "respond-async"}
    )
    record = store.record(deferred.json()["id"])
    assert record is not None
    assert record.queue == "spam"


async def test_a_key_of_a_job_is_not_for_another_model(many: Many, client: httpx.AsyncClient) -> None:
    key = {"idempotency-key": "k"}
    body = {"text": ["a"]}
    assert (await client.post("/jobs?model=topics", json=body, headers=key)).status_code == 202
    assert (await client.post("/jobs?model=topics", json=body, headers=key)).status_code == 200
    assert (await client.post("/jobs?model=spam", json=body, headers=key)).status_code == 409


def batch_file(*models: str | None) -> bytes:
    """The lines of a batch, each of which asks for one of these models, if any."""
    asked = [{"input": "a text"} | ({"model": model} if model else {}) for model in models]
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/moderations", "body": body}
        for number, body in enumerate(asked)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def batch(client: httpx.AsyncClient, content: bytes) -> httpx.Response:
    sent = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", content)})
    body = {
        "input_file_id": sent.json()["id"],
        "endpoint": "/v1/moderations",
        "completion_window": "24h",
    }
    return await client.post("/v1/batches", json=body)


async def test_a_batch_was_answered_by_the_first_model_whatever_its_lines_asked_for(many: Many) -> None:
    many.worker("stub=stub@signed-23,topics=stub@t,harm=stub@signed-6")
    client = await many.api(compat_models="gpt-x")
    await ready(client, "stub", "topics", "harm")
    for models, name in (
        (["harm", "harm"], "harm"),
        (["stub", None, "omni-moderation-latest", "gpt-x"], "stub"),
    ):
        made = await batch(client, batch_file(*models))
        assert made.status_code == 200, made.text
        number = made.json()["id"].removeprefix("batch_")
        assert await many.run_job(number) == "finished"
        output = (await client.get(f"/v1/files/file-{number}-output/content")).text
        bodies = [json.loads(line)["response"]["body"] for line in output.splitlines()]
        assert [body["model"].partition("@")[0] for body in bodies] == [name] * len(models)
    for models, status, why in (
        (["harm", "harm", "stub"], 422, "line 3: this line asks for another model"),
        (["omni-moderation-latest", "gpt-y"], 422, "line 2: this line asks for another model"),
        (["gpt-y"], 400, "not the one in the request"),
        (["topics"], 422, "the labels of this model are not categories"),
    ):
        refused = await batch(client, batch_file(*models))
        assert refused.status_code == status, refused.text
        assert why in refused.json()["error"]["message"]


async def test_metrics_are_by_model(client: httpx.AsyncClient) -> None:
    await client.post("/models/topics/predict", json={"text": ["a"]})
    lines = (await client.get("/metrics")).text.splitlines()
    assert "millrace_workers 1.0" in lines
    assert 'millrace_workers{model="topics"} 1.0' in lines
    assert 'millrace_queue_entries{lane="bulk",model="spam"} 0.0' in lines
    assert 'millrace_requests_total{route="/models/topics/predict",status="200"} 1.0' in lines
    assert lines.count("# TYPE millrace_workers gauge") == 1
    assert sum(line.startswith("millrace_redis_up") for line in lines) == 1


async def test_a_model_that_other_workers_serve(many: Many) -> None:
    many.worker("stub")
    many.worker("-,topics=stub@t")
    client = await many.api()
    await ready(client, "stub", "topics")
    assert named(await client.post("/predict", json={"text": ["a"]})) == "stub"
    assert named(await client.post("/models/topics/predict", json={"text": ["a"]})) == "topics"


async def test_a_model_that_comes_later_is_served_and_one_without_workers_says_so(many: Many) -> None:
    many.worker("stub")
    client = await many.api()
    await ready(client, "stub")
    later = many.worker("-,topics=stub@t")
    await ready(client, "topics")
    later.worker.stop()
    new = itertools.count()  # known texts are still answered

    async def refused() -> bool:
        answer = await client.post("/models/topics/predict", json={"text": [f"text {next(new)}"]})
        return answer.status_code == 503 and answer.json()["code"] == "no_worker"

    await until_async(refused, "topics to have no worker")
    assert named(await client.post("/predict", json={"text": ["a"]})) == "stub"


async def test_one_process_was_ready_while_another_refused_until_its_next_sweep(
    many: Many, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batcher.hub.hub.SWEEP_EVERY_S", 600.0)
    clients = [await many.api() for _ in range(3)]
    for client in clients:
        assert (await client.post("/predict", json={"text": ["early"]})).json()["code"] == "no_worker"
    many.worker("stub")
    await until(lambda: many.client().exists("{millrace:2:default}:model"), "a worker")
    for client in clients:
        assert named(await client.post("/predict", json={"text": ["a"]})) == "stub"


async def test_an_error_about_one_model_does_not_end_the_sweeps(
    many: Many, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without sweeps, a process counts as not ready and answers 503."""
    many.worker("stub")
    client = await many.api()
    await ready(client, "stub")

    def fail(self: object, name: str) -> None:
        raise RuntimeError(f"cannot open {name}")

    with monkeypatch.context() as patch:
        patch.setattr("api.models.served.ServedModels._open", fail)
        many.worker("-,topics=stub@t")
        await until(lambda: caplog.text.count("could not follow the models") >= 2, "two sweeps that failed")
        assert named(await client.post("/predict", json={"text": ["a"]})) == "stub"
        assert (await client.get("/readyz")).status_code == 200
    await ready(client, "topics")


async def test_forgetting_a_text_and_pausing_a_lane_hold_for_all_models(
    many: Many, client: httpx.AsyncClient
) -> None:
    body = {"text": ["a secret"]}
    for path in ("/predict", "/models/topics/predict"):
        assert (await client.post(path, json=body)).headers["x-cache"] == "MISS"
    redis = many.client()
    kept = ("millrace:cache:2:default:*", "millrace:cache:2:default/topics:*")
    assert [len(redis.keys(pattern)) for pattern in kept] == [1, 1]
    forgotten = await client.post("/admin/forget", json={"text": "a secret"})
    assert forgotten.json()["removed"]["cached"] == 2
    assert [len(redis.keys(pattern)) for pattern in kept] == [0, 0]

    pause = {"for_s": 60, "waiting": "refuse"}
    assert (await client.put("/admin/pauses/interactive", json=pause)).status_code == 200

    async def paused() -> bool:
        answers = [await client.post(f"{path}", json={"text": ["new"]}) for path in paths]
        return [answer.status_code for answer in answers] == [503, 503]

    paths = ("/predict", "/models/topics/predict")
    await until_async(paused, "both models to be paused")


async def test_a_model_that_comes_later_is_paused_as_all_are_and_one_that_comes_back_is_resumed(
    many: Many,
) -> None:
    """One that joined during a pause answered and ran jobs; one that was away at its end stayed paused."""
    many.worker("stub")
    client, redis, key = await many.api(), many.client(), "{millrace:2:default/topics}:pauses"
    await ready(client, "stub")
    assert (await client.put("/admin/pauses/all", json={"for_s": 600, "waiting": "refuse"})).is_success
    other = await many.api()
    assert (await client.delete("/admin/pauses/models/stub")).is_success
    many.worker("-,topics=stub@t")

    async def code(text: str, path: str = "/models/topics/predict", api: httpx.AsyncClient = client) -> str:
        answer = await api.post(path, json={"text": [text]})
        return "" if answer.is_success else str(answer.json()["code"])

    for api in (client, other):
        await ready(api, "topics")
        assert await code("joined", api=api) == "paused"
    assert await code("resumed by its name", path="/predict") == ""
    held = redis.get(key)
    assert held.count(b" refuse ") == 2

    assert (await client.delete("/admin/pauses/all")).json()["pauses"] == {}
    redis.set(key, held)  # as if its workers had been away

    async def resumed() -> bool:
        return b"refuse" not in redis.get(key) and await code("back") == ""

    await until_async(resumed, "the model to be resumed")


async def test_one_model_alone_has_todays_keys(many: Many) -> None:
    many.worker("stub")
    client = await many.api()
    await ready(client, "stub")
    await client.post("/predict", json={"text": ["a"]})
    redis = many.client()
    keys = {key.decode() for key in redis.keys("*")}
    assert not [key for key in keys if "/" in key]
    assert not [
        field for field in redis.hkeys("{millrace:2:default}:snapshot") if field.startswith(b"model:")
    ]
    assert (await client.get("/models")).json()["models"][0]["name"] == "stub"


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("stub,stub@b", "two models of this name"),
        ("stub,stub=stub@b", "two models of this name"),
    ],
)
def test_models_of_one_name_are_refused(many: Many, model: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        LoadedModels(WorkerSettings(model=model))


def test_the_only_model_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no URL."""
    only = SimpleNamespace(info=SimpleNamespace(name="my model/7"))
    monkeypatch.setattr(building, "load_one", lambda settings, spec: only)
    assert building._load_all(WorkerSettings(model="stub")) == {"": only}
    with pytest.raises(ModelError, match="cannot stand in a URL"):
        building._load_all(WorkerSettings(model="stub,other=stub@b"))
    only.info.name = "org/health"  # but not that of a route
    with pytest.raises(ModelError, match=r"'org/health'.*write NAME=stub"):
        building._load_all(WorkerSettings(model="stub"))
