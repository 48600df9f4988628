"""The client speaks of models: it names them in every call, lists them, and says which one answered."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from millrace_client import AsyncClient, Client, Options, RequestError, TextError
from millrace_client.results import Model

from tests.unit.client.fake_service import FakeService, moody, refusal, scores

NAMES = {"x-model": "topics@a1b2c3d4e5f6"}
LISTED = {
    "models": [
        {"name": "default", "first": True, "state": "ready", "workers": 2, "revision": "a1", "labels": ["x"]},
        {"name": "topics", "first": False, "state": "no_worker", "workers": 0, "waiting": {}},
    ],
    "cascades": [{"name": "quick", "state": "ready", "revision": "b2", "labels": ["x"], "fast": "a"}],
}


def answered(*texts: str, headers: dict[str, str] = NAMES, **more: Any) -> httpx.Response:
    predictions = [scores(text) for text in texts]
    return httpx.Response(200, json={"predictions": predictions, **more}, headers=headers)


async def both(service: FakeService, **arguments: Any) -> list[list[Any]]:
    """What the two clients return for the text "a"."""
    async with service.async_client() as client:
        slow = [one async for one in client.classify(["a"], **arguments)]
    with service.client() as client:
        return [slow, list(client.classify(["a"], **arguments))]


async def test_a_call_could_not_name_a_model() -> None:
    service = moody(answered("a"), answered("a"))
    for (prediction,) in await both(service, model="org/topics"):
        assert (prediction.label, prediction.model, prediction.revision) == ("a", "topics", "a1b2c3d4e5f6")
    assert {request.url.path for request in service.requests} == {"/models/org/topics/predict"}


async def test_two_revisions_in_one_answer_are_named_by_the_service_or_not_at_all() -> None:
    two = {"x-model": "a@1, b@2"}
    for (prediction,) in await both(moody(*(answered("a", headers=two) for _ in range(2)))):
        assert (prediction.model, prediction.revision) == ("", "")
    cascade = moody(*(answered("a", headers=two, models=["b@2"]) for _ in range(2)))
    for (prediction,) in await both(cascade):
        assert (prediction.model, prediction.revision) == ("b", "2")


async def test_models_are_listed() -> None:
    service = moody(httpx.Response(200, json=LISTED), httpx.Response(200, json=LISTED))
    async with service.async_client() as client:
        slow = await client.models()
    with service.client() as client:
        found = client.models()
    assert found == slow
    assert found == [
        Model("default", True, "ready", 2, "a1", ("x",)),
        Model("topics", False, "no_worker", 0, "", ()),
        Model("quick", False, "ready", 0, "b2", ("x",)),
    ]
    other = moody(httpx.Response(200, json={"models": [7]}))
    with other.client() as client, pytest.raises(RequestError, match="not_millrace"):
        client.models()


@pytest.mark.parametrize("status", [404, 405, 415])
def test_a_url_with_a_path_failed_from_ten_thousand_texts_on(status: int) -> None:
    """There are no jobs below the path of a model."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/models/topics/jobs":
            return refusal(status, "not_found")
        assert request.url.path == "/models/topics/predict"
        return answered(*json.loads(request.content)["text"])

    transport = httpx.MockTransport(answer)
    with Client("http://x/models/topics", options=Options(job_from=2), transport=transport) as client:
        assert [one.label for one in client.classify(["a", "b"])] == ["a", "b"]


def test_a_job_for_a_model_says_which_one_answered_each_text() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if request.url.path.endswith("/predictions"):
            error = {"error": {"detail": "too long", "code": "text_too_long"}, "model": None}
            items = [{"model": "topics@1", "prediction": scores("a")}, error]
            return httpx.Response(200, json={"predictions": items, "next_offset": None})
        return httpx.Response(
            202, json={"id": "7", "status": "finished", "total": 2, "done": 2, "failed": 1, "model": "topics"}
        )

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        job = client.jobs.create(["a", "b"], model="topics", keep_input=True)
        first, second = client.jobs.results(job)
    assert dict(asked[0].url.params) == {"model": "topics", "keep_input": "true"}
    assert asked[1].url.params["models"] == "true"
    assert (first.label, first.model, first.revision) == ("a", "topics", "1")  # type: ignore[union-attr]
    assert str(second) == "text 1: too long (text_too_long)"


async def test_a_job_asks_for_nothing_by_itself() -> None:
    """Kept inputs take memory of the service."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(202, json={"id": "7", "status": "queued", "total": 1, "done": 0, "failed": 0})

    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        client.jobs.create(["a"])
    async with AsyncClient("http://x", transport=httpx.MockTransport(answer)) as later:
        await later.jobs.create(["a"])
    assert [dict(one.url.params) for one in asked] == [{}, {}]
    assert not any("webhook-url" in one.headers for one in asked)


def test_the_message_of_an_error_named_the_place_in_a_request() -> None:
    service = FakeService(bad=frozenset({"bad"}))
    service.moods = iter([])
    texts = [str(number) for number in range(40)] + ["bad"]
    with service.client() as client:
        (failed,) = [one for one in client.classify(texts, errors="return") if isinstance(one, TextError)]
    assert failed.index == 40
    assert str(failed).startswith("text 40: because of poison")
    numbered = TextError("text 3: is longer than 5 characters", code="text_too_long", index=90)
    assert numbered.detail == "text 90: is longer than 5 characters"
    assert TextError("text 3 is too long", code="c", index=9).detail == "text 9: is too long"


def test_verify_proxy_and_timeout_reach_the_connections() -> None:
    seen: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return answered("a")

    transport = httpx.MockTransport(answer)
    with Client("https://x", transport=transport, verify=False, timeout=0.5) as client:
        list(client.classify(["a"]))
    assert seen[0] == {"connect": 0.5, "read": 0.5, "write": 0.5, "pool": 0.5}
    for given_s, read_s in ((7.0, 7.0), (16.0, 15.0), (None, 15.0)):
        connection: Any = {} if given_s is None else {"timeout": given_s}
        with Client("https://x", transport=transport, **connection) as client:
            list(client.classify(["a"]))
        assert (seen[-1]["connect"], seen[-1]["read"]) == (5.0, read_s)
    with Client("https://x", proxy="http://127.0.0.1:9") as client:
        assert client._runner.http._mounts
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        AsyncClient("http://x", verified=False)  # type: ignore[call-arg]
