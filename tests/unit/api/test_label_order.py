"""Labels by falling score: most clients of the first services with this contract take the first label."""

from __future__ import annotations

import json
from typing import Any

from api import label_order
from api.label_order import line_by_score
from tests.unit.api.service import Service, Start, assert_problem
from tests.unit.fakes import prediction, score

TEXTS = ("a", "b", "c", "d")


def by_score(*texts: str) -> list[Any]:
    found = [json.loads(prediction(text).fragment) for text in texts]
    return [sorted(pairs, key=lambda pair: pair["score"], reverse=True) for pairs in found]


async def ask(service: Service, query: str, *texts: str) -> list[Any]:
    answer = await service.client.post(f"/predict{query}", json={"text": texts})
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["predictions"]
    return found


async def test_labels_come_by_falling_score_if_the_request_asks(service: Service) -> None:
    assert {score(text) > 0.5 for text in TEXTS} == {True, False}
    in_id_order = await ask(service, "", *TEXTS)
    assert [[pair["label"] for pair in pairs] for pairs in in_id_order] == [["NEGATIVE", "POSITIVE"]] * 4
    for query in ("?order=score", "?order=id&order=score", "?x=1&order=score"):
        assert await ask(service, query, *TEXTS) == by_score(*TEXTS)  # known
    assert await ask(service, "?order=score", "new", "a") == by_score("new", "a")
    assert await ask(service, "?order=id", *TEXTS) == await ask(service, "?other=1", *TEXTS) == in_id_order


async def test_a_setting_makes_it_the_default(start: Start) -> None:
    service = await start(label_order="score")
    assert await ask(service, "", *TEXTS) == by_score(*TEXTS)
    assert await ask(service, "?order=id", *TEXTS) != by_score(*TEXTS)
    document = (await service.client.get("/openapi.json")).json()
    first = document["paths"]["/predict"]["post"]["parameters"][0]
    assert (first["name"], first["schema"]["default"]) == ("order", "score")


async def test_another_order_is_refused_before_anything_is_computed(service: Service) -> None:
    answer = await service.client.post("/predict?order=best", json={"text": ["a"]})
    detail: Any = assert_problem(answer, 422, "invalid_request")["detail"]
    assert detail[0]["loc"] == ["query", "order"]
    assert service.hub.asked == []


async def test_the_dialects_keep_their_own_order(start: Start) -> None:
    service = await start(label_order="score")
    answer = await service.client.post("/classify", json={"input": "a"})
    assert answer.json()["data"][0]["probs"] == [
        pair["score"] for pair in json.loads(prediction("a").fragment)
    ]


def test_the_bytes_of_labels_and_scores_stay() -> None:
    """Labels with the same score stay in label id order."""
    pairs = (
        b'{"label":"a\\"},{\\u00e9","score":1e-07}',
        b'{"label":"b","score":0.5}',
        b'{"label":"c","score":0.5}',
    )
    ordered = pairs[1], pairs[2], pairs[0]
    assert label_order.by_score(b"[%b]" % b",".join(pairs)) == b"[%b]" % b",".join(ordered)
    assert line_by_score(b"[%b]" % b",".join(pairs)) == b"[%b]" % b",".join(ordered)
