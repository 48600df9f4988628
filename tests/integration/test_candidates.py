"""A candidate beside the revision that answers: two API processes and two workers, on a fake Redis."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

import model_store
from batcher.core.publications import Candidate
from batcher.lookup.share import Choices
from model_store.stub import StubClassifier
from model_store.tokens import Tokens
from tests.many import Many, Replicas, model_header, publish_fast, ready, start_replicas, until_async
from tests.shards import until

TEXTS = [f"text {number}" for number in range(200)]
FAILS = "\0raise this"


class Turned(StubClassifier):
    """Exchanges the scores of every third text or so, and moves those of the others."""

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        scored = zip(batch, super().classify(batch), strict=True)
        return [scores[::-1] if tokens.ids[0] % 3 == 0 else _moved(scores) for tokens, scores in scored]


class Relabelled(StubClassifier):
    """Has the labels in another order."""

    def __init__(self, variant: str) -> None:
        super().__init__(variant=variant)
        self.info = replace(self.info, labels=self.info.labels[::-1])


def _moved(scores: Sequence[float]) -> list[float]:
    return [round(scores[0] * 0.9, 6), round(1 - scores[0] * 0.9, 6)]


def load(reference: str, **options: Any) -> Any:
    if reference == "relabelled":
        return Relabelled("relabelled")
    if not reference.startswith("turned"):
        return model_store.load(reference, **options)
    made = Turned(variant=reference)
    made.info = replace(made.info, name=options["name"] or made.info.name)
    return made


TURNED = f"stub@{Turned(variant='turned').info.revision[:12]}"


@pytest.fixture
async def many(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Many]:
    publish_fast(monkeypatch)
    monkeypatch.setattr("batcher.publishing.shadow.REPORT_EVERY_S", 0.05)
    monkeypatch.setattr("batcher.worker.building.load", load)
    async with Many(monkeypatch) as made:
        yield made


@pytest.fixture
async def replicas(many: Many) -> Replicas:
    return await start_replicas(many)


async def tried(replicas: Replicas, **body: Any) -> dict[str, Any]:
    found = await replicas.admin("candidate", **body)
    assert found.status_code == 200, found.text
    assert found.json()["unconfirmed"] == []
    return dict(found.json())


async def model_headers(
    api: httpx.AsyncClient, texts: Sequence[str], path: str = "/predict"
) -> dict[str, str]:
    """Which revision answers each text, asked alone."""

    async def one(text: str) -> str:
        answer = await api.post(path, json={"text": [text]})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-model"]

    return dict(zip(texts, await asyncio.gather(*map(one, texts)), strict=True))


def taken(texts: Sequence[str], share: float) -> dict[str, str]:
    candidate = Candidate(1, share)
    return {text: TURNED if candidate.takes(text, "") else model_header("stub", "") for text in texts}


def offline(classifier: StubClassifier, texts: Sequence[str]) -> list[list[float]]:
    return classifier.classify(classifier.tokenize(texts))


async def comparison(replicas: Replicas, **query: str) -> dict[str, Any]:
    found = await replicas.apis[1].get("/admin/models/comparison", params=query)
    assert found.status_code == 200, found.text
    return dict(found.json())


async def test_a_share_of_the_texts_is_answered_by_the_candidate_everywhere(
    many: Many, replicas: Replicas
) -> None:
    number = await replicas.publish("turned")
    assert await model_headers(replicas.apis[0], TEXTS[:20]) == dict.fromkeys(
        TEXTS[:20], model_header("stub", "")
    )
    found = await tried(replicas, number=number, share=0.25)
    assert found["candidate"] == {"number": 1, "mode": "share", "share": 0.25, "by": "text"}
    wanted = taken(TEXTS, 0.25)
    assert 30 < Counter(wanted.values())[TURNED] < 70
    for _ in range(2):  # the second time, from the cache
        for api in replicas.apis:
            assert await model_headers(api, TEXTS) == wanted
    # A process that starts later, and workers that start again, change nothing.
    later = await many.api()
    await ready(later, "stub")
    assert await model_headers(later, TEXTS) == wanted
    # A greater share adds texts and takes none away.
    assert (await tried(replicas, share=0.5))["candidate"]["by"] == "text"
    more = taken(TEXTS, 0.5)
    assert {text for text in TEXTS if wanted[text] == TURNED} < {
        text for text in TEXTS if more[text] == TURNED
    }
    for api in (*replicas.apis, later):
        assert await model_headers(api, TEXTS) == more
    state = (await later.get("/admin/models")).json()["models"]["stub"]
    assert state["candidate"] == {"number": 1, "mode": "share", "share": 0.5, "by": "text"}
    # Going back ends it; the other model never had one.
    assert (await replicas.move())["number"] == 0
    assert set((await model_headers(replicas.apis[1], TEXTS)).values()) == {model_header("stub", "")}
    assert state["previous"] == 0


async def test_a_forgotten_text_stayed_in_memory_while_a_candidate_had_a_share(replicas: Replicas) -> None:
    """Each API process remembers which texts it has divided."""

    def remembering() -> int:
        return sum("a secret" in vars(one)["_known"] for one in gc.get_objects() if type(one) is Choices)

    await tried(replicas, number=await replicas.publish("turned"), share=0.5)
    for api in replicas.apis:
        assert (await api.post("/predict", json={"text": ["a secret"]})).status_code == 200
    assert remembering() == len(replicas.apis)
    assert (await replicas.apis[0].post("/admin/forget", json={"text": "a secret"})).status_code == 200
    await until(lambda: not remembering(), "the memory of both processes")


async def test_a_request_may_have_texts_of_both(replicas: Replicas) -> None:
    await tried(replicas, number=await replicas.publish("turned"), share=0.5)
    wanted, (one, other) = taken(TEXTS, 0.5), replicas.apis
    old, new = (dict(zip(TEXTS, offline(made, TEXTS), strict=True)) for made in (StubClassifier(), Turned()))
    await model_headers(one, TEXTS[:50])
    for api in (one, one, other):  # partly known, known, and known to the shared cache
        answer = await api.post("/predict", json={"text": TEXTS})
        assert answer.status_code == 200, answer.text
        first = wanted[TEXTS[0]]
        assert answer.headers["x-model"].split(", ") == [
            first,
            *({model_header("stub", ""), TURNED} - {first}),
        ]
        for text, scores in zip(TEXTS, answer.json()["predictions"], strict=True):
            assert [pair["score"] for pair in scores] == (new if wanted[text] == TURNED else old)[text]
    assert answer.headers["x-cache"] == "HIT"
    # Dialects say the revision too.
    for text in TEXTS[:10]:
        body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}
        answer = await one.post("/v2/models/stub/infer", json=body)
        assert answer.headers["x-model"] == wanted[text]
        assert answer.json()["model_version"] == wanted[text].partition("@")[2]
    # The text that fails is named by its place in the whole request.
    failing = [f"{FAILS} {number}" for number in range(20)]
    at = next(n for n, text in enumerate(failing) if Candidate(1, 0.5).takes(text, ""))
    answer = await one.post("/predict", json={"text": [*TEXTS[:5], failing[at]]})
    assert (answer.status_code, answer.json()["index"]) == (500, 5)
    assert answer.json()["detail"].startswith("text 5:")


async def test_a_share_of_the_clients_gets_all_its_answers_from_the_candidate(
    many: Many, replicas: Replicas
) -> None:
    await tried(
        replicas, number=await replicas.publish("turned", "topics"), share=0.5, by="client", model="topics"
    )
    changed = await tried(replicas, share=0.5, model="topics")
    assert changed["candidate"]["by"] == "client", "what it is of does not change with the share"
    candidate = Candidate(1, 0.5, "client")
    new = TURNED.replace("stub", "topics")
    for api in replicas.apis:
        for number in range(8):
            address = f"192.0.2.{number}"
            api._transport.client = (address, 1)  # type: ignore[attr-defined]
            wanted = new if candidate.takes("", address) else model_header("topics", "t")
            for path, body in (
                ("/models/topics/predict", {"text": ["a", "b"]}),
                ("/v1/classify", {"input": "a", "model": "topics"}),
            ):
                answer = await api.post(path, json=body)
                assert (answer.status_code, answer.headers["x-model"]) == (200, wanted)
            assert (await api.post("/predict", json={"text": ["a"]})).headers["x-model"] == model_header(
                "stub", ""
            )


async def test_a_shadow_counts_what_an_offline_comparison_does(many: Many, replicas: Replicas) -> None:
    await tried(replicas, number=await replicas.publish("turned"), share=0.4, shadow=True)
    shadowed = [text for text in TEXTS if Candidate(1, 0.4).takes(text, "")]
    one, other = replicas.apis
    await model_headers(one, TEXTS[:100])
    answer = await other.post("/predict", json={"text": [*TEXTS, *TEXTS[:10]]})  # half of them cached
    assert set(answer.headers["x-model"].split(", ")) == {model_header("stub", "")}
    await model_headers(one, TEXTS)  # all of them cached
    found: dict[str, Any] = {}

    async def counted() -> bool:
        found.update(await comparison(replicas))
        return int(found["texts"]) >= len(shadowed)

    await until_async(counted, "all shadowed texts to be counted")
    old, new = offline(StubClassifier(), shadowed), offline(Turned(), shadowed)
    labels = StubClassifier().info.labels
    pairs = Counter((labels[_top(a)], labels[_top(b)]) for a, b in zip(old, new, strict=True))
    assert {(a, b): count for a, row in found["labels"].items() for b, count in row.items()} == pairs
    assert await comparison(replicas, labels="false") == found | {"labels": {}, "revisions": {}}
    assert (found["texts"], found["failed"], found["dropped"]) == (len(shadowed), 0, 0)
    shown = {"number": 1, "mode": "shadow", "share": 0.4, "by": "text"}
    assert (found["model"], found["current"], found["candidate"]) == ("stub", 0, shown)
    assert found["agree"] == sum(count for (a, b), count in pairs.items() if a == b)
    differences = [abs(x - y) for a, b in zip(old, new, strict=True) for x, y in zip(a, b, strict=True)]
    assert found["mean_difference"] == pytest.approx(sum(differences) / len(differences), rel=1e-9)
    assert found["batch_ms"]["candidate"] >= found["text_ms"]["candidate"] > 0
    scrape = (await one.get("/metrics")).text + (await other.get("/metrics")).text
    assert 'millrace_shadow_texts_total{model="stub",outcome="changed"}' in scrape
    assert 'millrace_shadow_texts_total{model="stub",outcome="failed"} 0.0' in scrape, "no panel is empty"
    # Neither texts nor their digests are kept.
    keys = [key for key in many.client().keys("*compared*") if many.client().type(key) == b"hash"]
    assert len(keys) == 1
    assert not any(b"text " in field for field in many.client().hgetall(keys[0]))
    await replicas.publish("turned")  # ends the candidate
    nothing = await other.get("/admin/models/comparison")
    assert (nothing.status_code, nothing.json()["code"]) == (404, "no_revision")


def _top(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


async def test_what_a_shadow_cannot_compute_is_counted_and_no_caller_notices(
    monkeypatch: pytest.MonkeyPatch, replicas: Replicas
) -> None:
    await tried(replicas, number=await replicas.publish("turned"), share=1.0, shadow=True)
    # The candidate's bulk lane is paused: its texts are refused, and requests are answered as ever.
    paused = await replicas.apis[0].put("/admin/pauses/bulk", json={"for_s": 600, "waiting": "finish"})
    assert paused.status_code == 200
    asked: list[str] = []

    async def dropped() -> bool:
        """Processes learn of the pause within a second."""
        texts = [f"{text} in round {len(asked)}" for text in TEXTS[:5]]
        asked.extend(await model_headers(replicas.apis[0], texts))
        return int((await comparison(replicas))["dropped"]) > 0

    await until_async(dropped, "texts to be dropped")
    # A process holds only so many texts.
    monkeypatch.setattr("batcher.publishing.shadow.MAX_CHARS", 0)
    asked.extend(await model_headers(replicas.apis[1], TEXTS[:10]))

    async def all_counted() -> bool:
        found = await comparison(replicas)
        return int(found["texts"] + found["dropped"]) == len(asked) and found["failed"] == 0

    await until_async(all_counted, "every text to be counted")


async def test_a_shadow_can_begin_to_answer_and_a_move_ends_it(replicas: Replicas) -> None:
    await tried(replicas, number=await replicas.publish("turned"), share=0.5, shadow=True)
    assert set((await model_headers(replicas.apis[0], TEXTS[:20])).values()) == {model_header("stub", "")}
    await tried(replicas, share=0.5)
    assert await model_headers(replicas.apis[1], TEXTS[:20]) == taken(TEXTS[:20], 0.5)
    assert (await replicas.move(number=1))["before"] == 0
    for api in replicas.apis:
        assert set((await model_headers(api, TEXTS)).values()) == {TURNED}
    state = (await replicas.apis[0].get("/admin/models")).json()["models"]["stub"]
    assert (state["candidate"], state["current"], state["previous"]) == (None, 1, 0)
    refused = await replicas.admin("candidate", share=0.5)
    assert (refused.status_code, refused.json()["code"]) == (404, "no_revision")


async def test_the_audit_log_says_what_was_published_tried_out_and_moved(replicas: Replicas) -> None:
    await tried(replicas, number=await replicas.publish("turned"), share=0.5, shadow=True)
    await replicas.move(number=1)
    lines = (await replicas.apis[0].get("/admin/audit")).json()["audit"]
    facts = [{name: line[name] for name in line.keys() - {"at", "operator", "address"}} for line in lines]
    shadow = {"number": 1, "mode": "shadow", "share": 0.5, "by": "text"}
    assert facts == [
        {"action": "move", "model": "stub", "number": 1, "before": 0},
        {"action": "candidate", "model": "stub", "current": 0, "candidate": shadow},
        {
            "action": "publish",
            "model": "stub",
            "number": 1,
            "reference": "turned",
            "dropped": [],
            "ended": None,
        },
    ]


async def test_what_is_published_says_what_it_ends_and_one_goes_back_only_to_something(
    replicas: Replicas,
) -> None:
    """`back` answered that the publication which answered all texts did so, as if it had gone back."""
    refused = await replicas.admin("move")
    assert (refused.status_code, refused.json()["code"]) == (404, "no_revision")
    assert refused.json()["detail"] == "there is none to go back to: publication 0 answers all texts"
    await replicas.move(number=await replicas.publish("turned"))
    candidate = (await tried(replicas, number=await replicas.publish("turned"), share=0.5))["candidate"]
    for dropped, ended in (([2], candidate), ([3], None)):
        asked = (await replicas.admin("publish", reference="/no/such/model")).json()
        assert (asked["dropped"], asked["ended"]) == (dropped, ended)
    assert (await replicas.move())["number"] == 1  # takes back what could not be loaded
    assert (await replicas.admin("move")).json()["code"] == "no_revision"


async def test_other_labels_are_refused(replicas: Replicas) -> None:
    number = await replicas.publish("relabelled")
    refused = await replicas.admin("candidate", number=number, share=0.1)
    assert (refused.status_code, refused.json()["code"]) == (409, "labels_differ")
    assert "labels of publication 1" in refused.json()["detail"]
    assert (await replicas.admin("candidate", number=7, share=0.1)).json()["code"] == "no_revision"
    assert (await replicas.admin("candidate", number=1, share=1.5)).status_code == 422
