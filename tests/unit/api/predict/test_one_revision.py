"""While workers of two revisions answer, an answer of a dialect is of one of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx

from api.main import create_app
from api.parts import Backends
from api.settings import ApiSettings
from batcher.errors import BudgetExceeded
from batcher.messages import Outcome, Prediction, fragment
from tests.unit.api.service import Service, Start
from tests.unit.fakes import MODEL, REVISION, RUNNING, FakeCache, FakeHub

OLD, NEW = REVISION, "f" * 64
# In another order.
LABELS = {OLD: ("NEGATIVE", "POSITIVE"), NEW: ("POSITIVE", "NEGATIVE")}
SCORES = {OLD: (0.9, 0.1), NEW: (0.2, 0.8)}


def answered_by(revision: str) -> Prediction:
    return Prediction(fragment(LABELS[revision], SCORES[revision]), revision, 3, model="stub")


def in_turn(*revisions: str) -> Callable[[str], Outcome]:
    """Each text that is computed is answered by the next revision; the last one goes on."""
    order: Iterator[str] = itertools.chain(revisions, itertools.repeat(revisions[-1]))
    return lambda text: answered_by(next(order))


async def probs(service: Service, *texts: str) -> tuple[str, list[list[float]]]:
    answer = await service.client.post("/classify", json={"input": texts})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model"], [one["probs"] for one in answer.json()["data"]]


async def test_what_another_revision_answered_is_asked_again(start: Start) -> None:
    service = await start()
    service.hub.answer = in_turn(OLD, NEW, OLD, OLD)
    assert await probs(service, "a", "b", "c") == (f"stub@{OLD[:12]}", [[0.9, 0.1]] * 3)
    assert service.hub.asked == [["a", "b", "c"], ["b"]]
    assert service.hub.only == ["", OLD]


async def test_the_revision_with_most_answers_is_completed(start: Start) -> None:
    service = await start()
    service.hub.answer = in_turn(OLD, NEW, NEW, NEW)
    assert await probs(service, "a", "b", "c") == (f"stub@{NEW[:12]}", [[0.2, 0.8]] * 3)
    assert service.hub.asked == [["a", "b", "c"], ["a"]]


async def test_known_texts_of_the_published_revision_do_not_join_new_ones_of_another(start: Start) -> None:
    service = await start()
    service.hub.answer = in_turn(OLD, OLD, NEW)
    await probs(service, "a", "b")
    model, rows = await probs(service, "a", "b", "c")
    assert (model, rows) == (f"stub@{NEW[:12]}", [[0.2, 0.8]] * 3)


async def test_a_revision_without_workers_is_given_up(start: Start) -> None:
    """All answers but the first ones are of the other revision."""
    service = await start()
    service.hub.answer = in_turn(OLD, OLD, NEW)
    assert await probs(service, "a", "b", "c") == (f"stub@{NEW[:12]}", [[0.2, 0.8]] * 3)


async def test_results_that_are_known_under_the_revision_are_not_computed_again(start: Start) -> None:
    service = await start()
    service.hub.answer = in_turn(NEW, OLD, OLD, OLD)
    await service.predict("a")  # the local cache has it under the other revision
    service.cache.keep("b")
    model, rows = await probs(service, "a", "c")
    assert model == f"stub@{OLD[:12]}"
    assert rows == [[0.9, 0.1]] * 2


async def test_without_time_for_it_the_client_is_sent_away(start: Start) -> None:
    service = await start()
    service.hub.answer = in_turn(*[OLD, NEW] * 1000)
    refusing = service.hub.classify

    async def classify(ids: list[str], texts: list[str], **more: object) -> list[Outcome]:
        if more["only"]:
            raise BudgetExceeded("no result within the budget")
        return await refusing(ids, texts, **more)  # type: ignore[arg-type]

    service.hub.classify = classify  # type: ignore[method-assign,assignment]
    answer = await service.client.post("/classify", json={"input": ["a", "b"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "revisions_mixed")
    assert answer.headers["retry-after"] == "1"


async def test_the_native_route_does_not_ask_again(start: Start) -> None:
    service = await start()
    service.hub.answer = in_turn(OLD, NEW)
    answer = await service.predict("a", "b")
    assert answer.headers["x-model"] == f"stub@{OLD[:12]}, stub@{NEW[:12]}"
    assert [pairs[0]["label"] for pairs in answer.json()["predictions"]] == ["NEGATIVE", "POSITIVE"]
    assert service.hub.asked == [["a", "b"]]


async def test_moderation_reads_the_labels_of_the_results(start: Start) -> None:
    """Not those that workers published last, which lack the category."""
    service = await start()
    harmful = Prediction(fragment(("harassment", "ok"), (0.99, 0.01)), NEW, 3, model="stub")
    service.hub.answer = lambda text: harmful
    answer = await service.client.post("/v1/moderations", json={"input": ["a", "b"]})
    assert [result["flagged"] for result in answer.json()["results"]] == [True, True]


async def test_the_function_of_the_scores_is_that_of_the_revision_that_answers(start: Start) -> None:
    """It was that of the published one, and sigmoid scores were handed out as softmax."""
    service = await start()

    async def ask(wanted: str, revision: str) -> int:
        service.hub.answer = in_turn(revision)
        body = {"inputs": f"{wanted} {revision}", "parameters": {"function_to_apply": wanted}}
        answer = await service.client.post("/", json=body)
        assert answer.status_code != 503 or answer.headers["retry-after"]
        return answer.status_code

    assert await ask("softmax", OLD) == 200
    assert await ask("softmax", NEW) == 503, "no worker has published it yet"
    published = service.hub.snapshot
    service.hub.snapshot = replace(published, model=replace(MODEL, revision=NEW, multi_label=True))
    assert [await ask("sigmoid", NEW), await ask("softmax", NEW)] == [200, 422]
    assert [await ask("sigmoid", OLD), await ask("softmax", OLD)] == [422, 200]
    service.hub.snapshot = published
    assert [await ask("sigmoid", NEW), await ask("softmax", NEW)] == [200, 422]


async def test_a_cascade_whose_labels_differ_was_listed_as_ready_and_said_to_have_no_worker() -> None:
    fast = FakeHub(snapshot=replace(RUNNING, models=("sure",)))
    sure = FakeHub(snapshot=replace(RUNNING, model=replace(MODEL, name="sure", labels=("a", "b"))))
    settings = ApiSettings(cascades="quick=stub:sure:0.5")
    app = create_app(settings, Backends(fast, FakeCache(), connect=lambda name: (sure, FakeCache())))
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        for path in ("/v2/models/quick/ready", "/v1/models/quick", "/models/quick/health"):
            answer = await client.get(path)
            assert (answer.status_code, "different labels" in answer.text) == (503, True), answer.text
        listed = (await client.get("/v1/models")).json()["data"]
        sure.snapshot = replace(sure.snapshot, workers=0)
        without = (await client.get("/v1/models")).json()["data"]
    assert {card["id"]: card["ready"] for card in listed} == {"stub": True, "sure": True, "quick": False}
    assert {card["id"]: card["ready"] for card in without} == {"stub": True, "sure": False, "quick": False}


async def test_the_version_of_a_cascade_is_that_of_the_results() -> None:
    """If a member moved while the request ran, it was that of the new revision."""

    def moving(text: str) -> Outcome:
        fast.snapshot = replace(fast.snapshot, model=replace(MODEL, revision=NEW))
        return answered_by(OLD)

    fast = FakeHub(snapshot=replace(RUNNING, models=("sure",)), answer=moving)
    sure = FakeHub(snapshot=replace(RUNNING, model=replace(MODEL, name="sure")))
    settings = ApiSettings(cascades="quick=stub:sure:0.5")
    app = create_app(settings, Backends(fast, FakeCache(), connect=lambda name: (sure, FakeCache())))
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        before = (await client.get("/models")).json()["cascades"][0]["revision"]
        tensor = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
        for version in ("", f"/versions/{before}"):
            answer = await client.post(f"/v2/models/quick{version}/infer", json=tensor)
            assert answer.json()["model_version"] == before[:12]
            assert answer.headers["x-model"] == f"stub@{OLD[:12]}"
            fast.snapshot = replace(fast.snapshot, model=MODEL)
            tensor["inputs"][0]["data"] = ["b"]


async def test_known_results_of_a_cascade_keep_the_name_of_their_model() -> None:
    """X-Model said `@REVISION` after another text had been asked again."""
    fast = FakeHub(snapshot=replace(RUNNING, models=("sure",)), answer=in_turn(OLD, OLD, NEW, OLD))
    sure = FakeHub(snapshot=replace(RUNNING, model=replace(MODEL, name="sure")))
    settings = ApiSettings(cascades="quick=stub:sure:0.5")
    app = create_app(settings, Backends(fast, FakeCache(), connect=lambda name: (sure, FakeCache())))
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        for texts in (["a", "b"], ["c", "a", "b"]):
            answer = await client.post("/classify", json={"input": texts, "model": "quick"})
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-model"] == f"stub@{OLD[:12]}"
    assert fast.asked == [["a", "b"], ["c"], ["c"]]
