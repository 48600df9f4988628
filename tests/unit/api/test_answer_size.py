"""The size of an answer has a bound. What cannot keep it is refused before any text is computed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from api.asgi.http import check_size
from api.errors import Problem
from batcher.core.snapshot import NO_SNAPSHOT
from batcher.lookup.queue import Models
from batcher.messages import Prediction, fragment
from tests.unit.api.compat.test_routes import REQUESTS
from tests.unit.api.service import Start, assert_problem
from tests.unit.fakes import MODEL, REVISION, RUNNING, FakeHub

LABELS = tuple(f"label_{number:03d}" for number in range(151))


def many(text: str) -> Prediction:
    """A result with many labels, all of them equally probable."""
    return Prediction(fragment(LABELS, [round(1 / 151, 7)] * 151), REVISION, 3, 0, 1.0, 0.1, 2.0, 1)


def hub() -> FakeHub:
    return FakeHub(answer=many, snapshot=replace(RUNNING, model=replace(MODEL, labels=LABELS)))


def test_an_answer_of_the_largest_size_is_allowed() -> None:
    check_size(1024, 1024)
    with pytest.raises(Problem) as refused:
        check_size(1025, 1024)
    assert (refused.value.status, refused.value.code) == (413, "answer_too_large")


@pytest.mark.parametrize("query", ["", "?order=score"])
async def test_3_kb_were_answered_with_7_mb(start: Start, query: str) -> None:
    service = await start(hub())
    assert (await service.client.post(f"/predict{query}", json={"text": [""] * 600})).status_code == 200
    refused = await service.client.post(f"/predict{query}", json={"text": [""] * 1024})  # its text is known
    assert "4194304" in str(assert_problem(refused, 413, "answer_too_large")["detail"])


@pytest.mark.parametrize("query", ["", "?order=score"])
async def test_texts_were_computed_whose_answer_could_only_be_too_large(start: Start, query: str) -> None:
    service = await start(hub())
    refused = await service.client.post(f"/predict{query}", json={"text": [str(n) for n in range(1024)]})
    assert_problem(refused, 413, "answer_too_large")
    assert service.hub.asked == []


async def test_a_revision_may_answer_that_has_more_labels_than_the_published_one(start: Start) -> None:
    """As in a rolling update: then the size is known with the results."""
    service = await start(FakeHub(answer=many), max_answer_bytes=4096)
    refused = await service.client.post("/predict", json={"text": ["a"]})
    assert_problem(refused, 413, "answer_too_large")
    assert service.hub.asked == [["a"]]


def test_a_share_may_answer_by_the_model_with_fewer_labels() -> None:
    few, more, unknown = Models(FakeHub()), Models(hub()), Models(FakeHub(snapshot=NO_SNAPSHOT))
    assert 0 < few.shortest < more.shortest <= len(many("").fragment)
    assert few.joined(more).shortest == more.joined(few).shortest == few.shortest
    assert unknown.shortest == more.joined(unknown).shortest == 0


@pytest.mark.parametrize("path", REQUESTS)
async def test_dialects_have_the_same_bound(start: Start, path: str) -> None:
    service = await start(hub(), max_answer_bytes=4096, moderation_labels="label_000=hate", compat_models="*")
    answer = await service.client.post(path, json=REQUESTS[path])
    assert answer.status_code in (413, 400), answer.text
    assert "send fewer texts" in answer.text
    assert service.hub.asked == []


async def test_moderations_were_computed_whose_answer_could_only_be_too_large(start: Start) -> None:
    """A result has all of OpenAI's categories, however few labels there are."""
    service = await start(FakeHub(), max_answer_bytes=1024, moderation_labels="NEGATIVE=hate")
    refused = await service.client.post("/v1/moderations", json={"input": ["a", "b"]})
    assert (refused.status_code, "send fewer texts" in refused.text) == (413, True)
    assert service.hub.asked == []


async def test_a_text_was_repeated_for_each_label(start: Start) -> None:
    """2 MB became 53 MB with 28 labels."""
    service = await start(hub())
    asked = {"contents": ["x" * 19_000] * 2, "detector_params": {"threshold": 0}}
    refused = await service.client.post("/api/v1/text/contents", json=asked)
    assert (refused.status_code, "send fewer texts" in refused.text) == (413, True)
    assert service.hub.asked == []
    asked["detector_params"] = {"threshold": 0.5}
    assert (await service.client.post("/api/v1/text/contents", json=asked)).json() == [[], []]


async def test_an_output_was_written_as_often_as_it_was_named(start: Start) -> None:
    """3,500 times `scores` in 188 KB were 158 MB, and took the memory of the process."""
    service = await start(hub())
    asked = {**REQUESTS["/v2/models/stub/infer"], "outputs": [{"name": "label"}, {"name": "scores"}] * 2}
    refused = await service.client.post("/v2/models/stub/infer", json=asked)
    assert refused.status_code == 400
    assert refused.json()["error"] == "outputs: scores is requested more than once"


async def test_results_of_many_labels_were_kept_decoded(start: Start) -> None:
    """Whatever their size: only short ones pay for their memory."""
    from api.compat import service as dialects

    service = await start(hub())
    dialects.kept_scores.cache_clear()
    answer = await service.client.post("/v1/models/stub:predict", json={"instances": ["a", "b"]})
    assert len(json.loads(answer.content)["predictions"][0]) == 151
    assert dialects.kept_scores.cache_info().currsize == 0
