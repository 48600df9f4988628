"""A cascade of two models behind one endpoint, on a fake Redis."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import httpx
import pytest

from batcher.core.publications import Candidate
from batcher.jobs.upload import Submission
from model_store.stub import LABELS, StubClassifier
from tests.answers import right_json
from tests.conftest import encoded
from tests.many import Many, publish_fast, ready, until_async

TEXTS = [f"text {number}" for number in range(20)]
# What the second model says of every text, in the order of the first one's labels.
SURE = [{"label": "NEGATIVE", "score": 0.0}, {"label": "POSITIVE", "score": 1.0}]

# A text of which the first model is not sure, and on which the second one fails.
FAILING = "fail 0"
FAILING_IDS = StubClassifier().tokenize([FAILING])[0].ids


class Swapped(StubClassifier):
    """Calls every text positive, and has its labels in the opposite order."""

    def __init__(self, labels: Sequence[str] = LABELS[::-1], **settings: Any) -> None:
        super().__init__(**settings)
        self.info = replace(self.info, labels=tuple(labels))

    def classify(self, batch: Any) -> list[list[float]]:
        if any(tokens.ids == FAILING_IDS for tokens in batch):
            raise ValueError("the model was asked to fail")
        return [[1.0, 0.0] for _ in super().classify(batch)]


def loaded(*, variant: str, **settings: Any) -> StubClassifier:
    if variant.startswith("sure"):
        return Swapped(variant=variant, **settings)
    if variant == "several":
        made = StubClassifier(variant=variant, **settings)
        made.info = replace(made.info, multi_label=True)
        return made
    if variant == "foreign":
        return Swapped(("HAM", "SPAM"), variant=variant, **settings)
    return StubClassifier(variant=variant, **settings)


@pytest.fixture
async def many(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Many]:
    publish_fast(monkeypatch)
    monkeypatch.setattr("model_store.stub.StubClassifier", loaded)
    async with Many(monkeypatch) as made:
        yield made


@pytest.fixture
async def client(many: Many) -> httpx.AsyncClient:
    """An API and a worker with the models stub (the first) and sure, and a cascade of them."""
    many.worker("stub,sure=stub@sure")
    made = await many.api(cascades="quick=stub:sure:0.8")
    await ready(made, "stub", "sure")
    return made


def unsure(threshold: float, texts: Sequence[str] = TEXTS) -> list[str]:
    """The texts of which the first model is not sure."""
    said = zip(texts, right_json(texts), strict=True)
    return [text for text, pairs in said if max(pair["score"] for pair in pairs) < threshold]


def expected(threshold: float) -> list[Any]:
    passed = unsure(threshold)
    said = zip(TEXTS, right_json(TEXTS), strict=True)
    return [SURE if text in passed else pairs for text, pairs in said]


async def ask(client: httpx.AsyncClient, texts: Sequence[str] = TEXTS, **headers: str) -> httpx.Response:
    return await client.post("/models/quick/predict", json={"text": list(texts)}, headers=headers)


async def cascade(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await client.get("/models")).json()["cascades"][0])


def spoke(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [name.partition("@")[0] for name in answer.json()["models"]]


async def test_a_model_with_the_name_of_a_cascade_answered_in_its_place(
    client: httpx.AsyncClient, many: Many, caplog: pytest.LogCaptureFixture
) -> None:
    other = many.worker("-,quick=stub@other")

    async def ambiguous() -> bool:
        return (await ask(client)).status_code == 409

    await until_async(ambiguous, "the API to see both")
    for path, body in (
        ("/models/quick/predict", {"text": ["a"]}),
        ("/jobs?model=quick", {"text": ["a"]}),
        ("/v1/classify", {"input": "a", "model": "quick"}),
        ("/v1/moderations", {"input": "a", "model": "quick"}),
    ):
        answer = await client.post(path, json=body)
        assert answer.status_code == 409, (path, answer.text)
        assert "a cascade and a model are called quick" in answer.text

    async def logged() -> bool:
        return "two models have the same name" in caplog.text

    await until_async(logged, "the next sweep of the first model")
    other.drop("quick")

    async def answers() -> bool:
        return (await ask(client)).status_code == 200

    await until_async(answers, "the cascade to answer again")


async def test_a_cascade_did_not_answer_after_the_end_of_a_model_of_its_name(
    client: httpx.AsyncClient, many: Many
) -> None:
    """For the hour for which such a model is listed, it got 503, and jobs were accepted for that model."""
    store = many.job_store()
    other = many.worker("-,quick=stub@other")

    async def status(wanted: int) -> None:
        async def found() -> bool:
            return (await ask(client)).status_code == wanted

        await until_async(found, f"a status of {wanted}")

    await status(409)
    # Accepted by an API process that did not know the cascade.
    upload = store.upload("a" * 32, 256, Submission(model="quick"))
    upload.add(encoded(["a"]))
    store.create(upload, "digest", 10)
    other.worker.stop()
    await status(200)
    listed = (await client.get("/models")).json()["models"]
    assert {one["name"]: one["state"] for one in listed}["quick"] == "no_worker"
    assert (await client.post("/v1/classify", json={"input": "a", "model": "quick"})).status_code == 200
    job = (await client.post("/jobs?model=quick", json={"text": TEXTS})).json()
    assert job["waits_for"] is None
    assert await many.run_job(job["id"]) == "finished"
    assert (await client.get(f"/jobs/{'a' * 32}")).json()["waits_for"] == "no_worker"


async def test_the_second_model_answers_what_the_first_is_not_sure_of(client: httpx.AsyncClient) -> None:
    passed = unsure(0.8)
    assert 0 < len(passed) < len(TEXTS)
    answer = await ask(client)
    assert spoke(answer) == ["sure" if text in passed else "stub" for text in TEXTS]
    assert answer.json()["predictions"] == expected(0.8)
    assert {one.partition("@")[0] for one in answer.headers["x-model"].split(", ")} == {"stub", "sure"}
    assert answer.headers["x-cache"] == "MISS"

    again = await ask(client)
    assert again.headers["x-cache"] == "HIT"
    assert again.json() == answer.json()
    # Each member has what it said in its own cache, and has not been asked anything else.
    for name, texts in (("stub", TEXTS), ("sure", passed)):
        alone = await client.post(f"/models/{name}/predict", json={"text": texts})
        assert alone.headers["x-cache"] == "HIT"
    others = [text for text in TEXTS if text not in passed]
    alone = await client.post("/models/sure/predict", json={"text": others})
    assert alone.headers["x-cache"] == "MISS"
    by_score = await client.post("/models/quick/predict?order=score", json={"text": TEXTS})
    assert spoke(by_score) == spoke(answer)
    best = [pairs[0]["score"] for pairs in by_score.json()["predictions"]]
    assert best == [max(pair["score"] for pair in pairs) for pairs in expected(0.8)]


async def test_it_is_listed_with_the_share_that_was_passed_on(client: httpx.AsyncClient) -> None:
    before = await cascade(client)
    assert len(before.pop("revision")) == 64
    assert before == {
        "name": "quick",
        "fast": "stub",
        "sure": "sure",
        "threshold": 0.8,
        "state": "ready",
        "labels": ["NEGATIVE", "POSITIVE"],
        "answered": {},
    }
    await ask(client)
    await ask(client)
    passed = len(unsure(0.8))
    after = await cascade(client)
    assert after["answered"] == {"stub": 2 * (len(TEXTS) - passed), "sure": 2 * passed}
    assert after["passed_on"] == passed / len(TEXTS)
    lines = (await client.get("/metrics")).text.splitlines()
    assert f'millrace_cascade_texts_total{{cascade="quick",model="sure"}} {2.0 * passed}' in lines
    missing = await client.post("/models/nothing/predict", json={"text": ["a"]})
    assert missing.json()["models"] == ["stub", "sure", "quick"]


async def test_its_timeline_counts_hits_of_the_in_process_cache_as_metrics_do(
    client: httpx.AsyncClient,
) -> None:
    """They were called hits of the shared cache."""
    known = next(text for text in TEXTS if text not in unsure(0.8))
    await ask(client, [known])
    await ask(client, [known, "not seen before"], **{"x-request-id": "second"})
    lines = (await client.get("/metrics")).text.splitlines()
    assert [line for line in lines if "hit_" in line and not line.endswith(" 0.0")] == [
        'millrace_entries_total{outcome="hit_local"} 1.0'
    ]
    steps = (await client.get("/admin/traces/second")).json()["timeline"]
    found = next(step for step in steps if step["step"] == "cache")
    assert (found["in_process"], found["shared"]) == (1, 0)


async def test_other_servers_routes_take_the_name(client: httpx.AsyncClient) -> None:
    text = unsure(0.8)[0]
    body = {"input": text, "model": "quick"}
    answer = await client.post("/v1/classify", json=body)
    assert answer.headers["x-model"].startswith("sure@")
    assert (answer.json()["model"], answer.json()["data"][0]["probs"]) == ("quick", [0.0, 1.0])
    tensor = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["another text"]}]}
    versions = {
        (await client.post("/v2/models/quick/infer", json=tensor)).json()["model_version"] for _ in range(2)
    }
    assert versions == {(await cascade(client))["revision"][:12]}
    described = (await client.get("/v2/models/quick")).json()
    assert described["name"] == "quick"
    assert (await client.get("/v2/models/quick/ready")).status_code == 200


async def test_a_job_asks_both(many: Many, client: httpx.AsyncClient) -> None:
    store = many.job_store()
    submitted = await client.post("/jobs?model=quick", json={"text": TEXTS})
    deferred = await ask(client, TEXTS[:3], prefer="respond-async")
    for answer in (submitted, deferred):
        assert answer.status_code == 202, answer.text
        assert await many.run_job(answer.json()["id"]) == "finished"
    results = await client.get(f"/jobs/{submitted.json()['id']}/predictions")
    assert results.json()["predictions"] == expected(0.8)
    record = store.record(deferred.json()["id"])
    assert record is not None
    assert record.model == f"quick@{(await cascade(client))['revision'][:12]}"


@pytest.mark.parametrize("member", ["stub", "sure"])
async def test_a_job_says_that_a_member_is_paused(client: httpx.AsyncClient, member: str) -> None:
    pause = f"/admin/pauses/models/{member}"
    assert (await client.put(pause, json={"waiting": "refuse", "for_s": 600})).is_success
    submitted = await client.post("/jobs?model=quick", json={"text": TEXTS})

    async def why() -> Any:
        return (await client.get(submitted.headers["location"])).json()["waits_for"]

    async def paused() -> bool:
        return await why() == "paused"

    async def resumed() -> bool:
        return await why() is None

    await until_async(paused, "the pause to be shown")
    assert (await client.delete(pause)).is_success
    await until_async(resumed, "the end of the pause to be shown")


async def test_another_threshold_answers_anew(many: Many, client: httpx.AsyncClient) -> None:
    await ask(client)
    other = await many.api(cascades="quick=stub:sure:0.95")
    await ready(other, "stub", "sure")
    answer = await ask(other)
    assert answer.json()["predictions"] == expected(0.95)
    assert answer.json()["predictions"] != expected(0.8)
    assert (await cascade(other))["revision"] != (await cascade(client))["revision"]


async def test_a_published_revision_of_a_member_answers(client: httpx.AsyncClient) -> None:
    first = await ask(client)
    old = (await cascade(client))["revision"]
    asked = await client.post("/admin/models/publish", json={"reference": "stub@sure2", "model": "sure"})
    number = asked.json()["number"]

    async def moved() -> bool:
        answer = await client.post("/admin/models/move", json={"model": "sure", "number": number})
        return answer.status_code == 200

    await until_async(moved, "the revision to be served")
    answer = await ask(client)
    before = {name for name in first.json()["models"] if name.startswith("sure@")}
    after = {name for name in answer.json()["models"] if name.startswith("sure@")}
    assert len(after) == 1
    assert before != after
    assert (await cascade(client))["revision"] != old


async def test_a_member_may_have_a_candidate(many: Many, client: httpx.AsyncClient) -> None:
    """Requests and jobs get the answers of the revision that each text has, and say which it was."""
    store = many.job_store()
    asked = await client.post("/admin/models/publish", json={"reference": "stub@v2"})
    number, setting = asked.json()["number"], Candidate(asked.json()["number"], 0.5)

    async def tried() -> bool:
        answer = await client.post("/admin/models/candidate", json={"number": number, "share": 0.5})
        return answer.status_code == 200

    await until_async(tried, "the candidate to be served")
    both = [StubClassifier(), StubClassifier(variant="v2")]
    models = [made.info for made in both]
    said = [both[setting.takes(text, "")].classify(both[0].tokenize([text]))[0] for text in TEXTS]
    passed = [max(scores) < 0.8 for scores in said]
    assert {True, False} == set(passed)
    answer = await ask(client)
    for text, scores, rest, name, pairs in zip(
        TEXTS, said, passed, answer.json()["models"], answer.json()["predictions"], strict=True
    ):
        fast = models[setting.takes(text, "")]
        assert name.partition("@")[0] == ("sure" if rest else "stub")
        assert rest or name == f"stub@{fast.revision[:12]}"
        assert pairs == SURE if rest else [pair["score"] for pair in pairs] == scores
    assert len({name for name in answer.json()["models"] if name.startswith("stub@")}) == 2
    submitted = await client.post("/jobs?model=quick", json={"text": TEXTS})
    assert await many.run_job(submitted.json()["id"]) == "finished"
    results = await client.get(f"/jobs/{submitted.json()['id']}/predictions")
    assert results.json()["predictions"] == answer.json()["predictions"]
    results = await client.get(f"/jobs/{submitted.json()['id']}/predictions?models=true")
    assert [item["model"] for item in results.json()["predictions"]] == answer.json()["models"]
    sure = Swapped(variant="sure").info.revision
    pairs = [
        sha256(f"{models[setting.takes(text, '')].revision} {sure} 0.8".encode()).hexdigest()[:12]
        for text in TEXTS
    ]
    record = store.record(submitted.json()["id"])
    assert record is not None
    assert record.model == f"quick@{pairs[-1]}"
    for text, pair in zip(TEXTS, pairs, strict=True):
        tensor = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}]}
        answer = await client.post("/v2/models/quick/infer", json=tensor)
        assert answer.json()["model_version"] == pair, "it was that of the published revisions"


async def test_an_error_of_the_second_model_is_that_of_the_request(many: Many) -> None:
    text = unsure(0.8)[0]
    many.worker("stub")
    client = await many.api(cascades="quick=stub:sure:0.8")
    await ready(client, "stub")
    absent = await ask(client, [text])
    assert (absent.status_code, absent.json()["code"]) == (503, "no_worker")
    assert (await cascade(client))["state"] == "no_worker"

    later = many.worker("-,sure=stub@sure")
    await ready(client, "sure")
    known = next(one for one in TEXTS if one not in unsure(0.8))
    # The text is named by its place in the whole request.
    assert unsure(0.8, [FAILING])
    # With one worker, a failing text is tried again until its budget ends; 0.5 s may be too short for that.
    for wait_s in (0.5, 2, 8, 30):
        answer = await ask(client, [known, text, FAILING], prefer=f"wait={wait_s}")
        if answer.status_code != 504:
            break
    assert (answer.status_code, answer.json()["code"]) == (500, "inference_failed"), answer.text
    assert answer.json()["index"] == 2
    later.worker.stop()
    new = (text for number in itertools.count() for text in unsure(0.8, [f"new {number}"]))

    async def refused() -> bool:
        answer = await ask(client, [next(new)], prefer="wait=0.5")
        return answer.status_code == 503 and answer.json()["code"] == "no_worker"

    await until_async(refused, "the second model to have no worker")
    assert spoke(await ask(client, [known])) == ["stub"]


async def test_members_with_different_labels_are_refused(
    many: Many, caplog: pytest.LogCaptureFixture
) -> None:
    many.worker("stub,foreign=stub@foreign")
    client = await many.api(cascades="quick=stub:foreign:0.8")
    await ready(client, "stub", "foreign")
    why = "the members of the cascade quick have different labels: stub NEGATIVE, POSITIVE; foreign HAM, SPAM"
    for answer in (await ask(client), await client.post("/jobs?model=quick", json={"text": TEXTS})):
        assert (answer.status_code, answer.json()["code"]) == (409, "labels_differ")
        assert answer.json()["detail"] == why
    assert (await cascade(client))["state"] == "labels_differ"
    assert (await client.get("/v2/models/quick/ready")).status_code == 503

    async def logged() -> bool:
        return caplog.messages.count(why) == 1

    await until_async(logged, "the reason to be logged")


async def test_a_job_says_what_its_cascade_waits_for(many: Many, client: httpx.AsyncClient) -> None:
    """It said that no worker runs, and nothing of a pause."""
    job = (await client.post("/jobs?model=quick", json={"text": TEXTS})).headers["location"]

    async def waits_for(why: str | None) -> None:
        async def says() -> bool:
            return (await client.get(job)).json()["waits_for"] == why

        await until_async(says, f"the job to wait for {why}")

    await waits_for(None)
    paused = await client.put("/admin/pauses/models/sure", json={"for_s": 600, "waiting": "keep"})
    assert paused.is_success, paused.text
    await waits_for("paused")
    assert (await client.delete("/admin/pauses/models/sure")).is_success
    await waits_for(None)
    asked = await client.post("/admin/models/publish", json={"reference": "stub@foreign", "model": "sure"})

    async def moved() -> bool:
        body = {"model": "sure", "number": asked.json()["number"]}
        return (await client.post("/admin/models/move", json=body)).status_code == 200

    await until_async(moved, "the revision to be served")
    await waits_for("labels_differ")


async def test_members_with_several_labels_per_text_are_refused(many: Many) -> None:
    many.worker("stub,several=stub@several")
    client = await many.api(cascades="quick=stub:several:0.8")
    await ready(client, "stub", "several")
    why = "the cascade quick needs models with one label per text, and several may give several"
    for answer in (await ask(client), await client.post("/jobs?model=quick", json={"text": TEXTS})):
        assert (answer.status_code, answer.json()["code"]) == (409, "several_labels")
        assert answer.json()["detail"] == why
    assert (await cascade(client))["state"] == "several_labels"
