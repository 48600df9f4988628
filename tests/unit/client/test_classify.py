"""How texts are split, joined and bounded, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import pickle
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from itertools import count, islice
from queue import SimpleQueue
from threading import Event
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millrace_client import (
    AsyncClient,
    Client,
    JobError,
    MillraceError,
    Options,
    Prediction,
    Progress,
    RequestError,
    TextError,
    Unavailable,
)
from millrace_client.predict import BATCH_BYTES, BATCH_POSITIONS, Batcher

from tests.unit.client.fake_service import FakeService, labels, scores

WORDS = [f"text {number}" for number in range(100)]


def test_a_prediction_has_the_scores_in_the_order_of_the_label_ids() -> None:
    service = FakeService()
    with service.client() as client:
        (found,) = client.classify(["good"])
    assert list(found.scores.items()) == [("NEGATIVE", 0.25), ("good", 0.75)]
    assert (found.label, found.score) == ("good", 0.75)


def test_texts_are_split_into_requests_and_joined_in_order() -> None:
    service = FakeService()
    with service.client(batch_texts=7) as client:
        assert labels(client.classify(WORDS)) == WORDS
    assert sorted(len(texts) for texts in service.answered) == [2] + [7] * 14


def test_equal_texts_of_a_batch_are_sent_once() -> None:
    service = FakeService()
    with service.client() as client:
        assert labels(client.classify(["a", "b", "a", "a", "b"])) == ["a", "b", "a", "a", "b"]
    assert service.answered == [["a", "b"]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "text 71 must be a string, not int$"),
        (float("nan"), "text 71 must be a string, not float; fill missing values, with fillna"),
        (None, "text 71 must be a string, not NoneType; fill missing values, with fillna"),
    ],
)
def test_what_is_no_text_is_named_by_its_place_in_the_input(wrong: object, message: str) -> None:
    texts: list[Any] = ["a"] * 71 + [wrong]
    with FakeService().client(batch_texts=7) as client:
        with pytest.raises(TypeError, match=message):
            list(client.classify(texts))
        with pytest.raises(TypeError, match=message):
            client.jobs.create(texts)


def test_an_iterator_of_one_text_repeated_is_split_too() -> None:
    service = FakeService()
    with service.client() as client:
        assert labels(client.classify("a" for _ in range(BATCH_POSITIONS + 1))) == ["a"] * (
            BATCH_POSITIONS + 1
        )
    assert service.answered == [["a"], ["a"]]


def test_a_request_is_never_larger_than_the_service_accepts_by_default() -> None:
    service = FakeService()
    long = [f"{number}" + "ж" * 20_000 for number in range(40)]
    with service.client() as client:
        assert labels(client.classify(long)) == long
    assert max(len(request.content) for request in service.requests) < BATCH_BYTES + 1000


def test_every_batch_has_exactly_as_many_bytes_as_allowed() -> None:
    batcher = Batcher(10)
    for letter, before in (("a", None), ("b", 2)):
        full = batcher.add(letter * (BATCH_BYTES - 12))
        assert (full and full.end) == before
        assert batcher.add("y" * 8) is None, "two quotes more are exactly the limit"
    batcher = Batcher(10)
    batcher.add("x" * (BATCH_BYTES - 12))
    assert batcher.add("y" * 9) is not None


def test_a_service_that_accepts_fewer_texts_gets_fewer() -> None:
    service = FakeService(most_texts=3)
    with service.client(batch_texts=10) as client:
        assert labels(client.classify(WORDS[:20])) == WORDS[:20]


def test_one_text_that_is_too_large_is_an_error() -> None:
    service = FakeService(most_texts=0)
    with service.client() as client, pytest.raises(RequestError, match="too_many_texts"):
        list(client.classify(["a", "b"]))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_text_that_no_body_has_room_for_took_all_others_with_it(at: int) -> None:
    texts = ["a", "b"]
    texts.insert(at, "x" * 1000)
    service = FakeService(most_bytes=1000)
    with service.client(batch_texts=10) as client:
        results = list(client.classify(texts, errors="return"))
    failed = results.pop(at)
    assert isinstance(failed, TextError)
    assert (failed.index, failed.code) == (at, "too_large")
    assert labels(results) == ["a", "b"]


@pytest.mark.parametrize(
    "error",
    [
        TextError("why", code="poison", request_id="r1", index=7),
        RequestError("why", code="c", request_id="r1", status=400, index=1),
        Unavailable("why", code="unreachable"),
        JobError("why", code="c", job_id="j1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_could_not_be_sent_to_another_process(error: MillraceError) -> None:
    for found in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_a_process_that_was_forked_read_the_answers_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that share a connection mix up their requests and answers."""
    with Client("http://x") as client:
        of_parent = client._runner.http
        assert client._runner.http is of_parent
        monkeypatch.setattr(os, "getpid", lambda: -1)
        of_child = client._runner.http
        assert of_child is not of_parent
        assert client._runner.http is of_child
        of_parent.close()


@pytest.mark.parametrize("key", ["secret\n", "s\u00e9cret", "secret\0"])
def test_the_error_of_a_malformed_key_repeated_it(key: str) -> None:
    with pytest.raises(ValueError, match="api_key has a character") as caught:
        Client("http://x", key)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["client", "async_client"])
async def test_a_text_that_fails_takes_no_other_with_it(name: str) -> None:
    service = FakeService(bad=frozenset(("x", "y")))
    words = ["a", "x", "b", "y", "x", "c"]
    if name == "client":
        with service.client(batch_texts=4) as client:
            found = list(client.classify(words, errors="return"))
    else:
        async with service.async_client(batch_texts=4) as aio:
            found = [result async for result in aio.classify(words, errors="return")]
    failed = {index: one for index, one in enumerate(found) if isinstance(one, TextError)}
    assert labels(one for one in found if isinstance(one, Prediction)) == ["a", "b", "c"]
    assert {index: (one.index, one.code, one.request_id) for index, one in failed.items()} == {
        index: (index, "poison", "r1") for index in (1, 3, 4)
    }


def test_by_default_the_first_text_that_fails_is_raised_in_its_place() -> None:
    service = FakeService(bad=frozenset("x"))
    with service.client(batch_texts=2) as client:
        results = client.classify(["a", "b", "c", "x", "d"])
        assert labels(islice(results, 3)) == ["a", "b", "c"]
        with pytest.raises(TextError) as caught:
            next(results)
    assert (caught.value.index, caught.value.code) == (3, "poison")


def test_a_string_is_not_an_iterable_of_texts() -> None:
    for client in (FakeService().client(), FakeService().async_client()):
        with pytest.raises(TypeError, match=r"pass \[text\]"):
            client.classify("I love you.")


def test_no_texts_are_no_request() -> None:
    service = FakeService()
    with service.client() as client:
        assert list(client.classify([])) == []
    assert service.requests == []


def test_an_endless_iterable_is_read_only_a_little_ahead() -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for number in count():
            read += 1
            yield f"text {number}"

    service = FakeService()
    with service.client(batch_texts=10, concurrency=2) as client:
        results = client.classify(endless())
        assert labels(islice(results, 100)) == WORDS
        results.close()
    assert read <= 100 + 2 * 2 * 10 + 1


async def test_the_same_with_asyncio_which_also_reads_asynchronous_iterables() -> None:
    read = 0

    async def endless() -> AsyncIterator[str]:
        nonlocal read
        for number in count():
            read += 1
            yield f"text {number}"

    service, got = FakeService(), []
    async with service.async_client(batch_texts=10, concurrency=2) as client:
        results = client.classify(endless())
        async for result in results:
            got.append(result.label)
            if len(got) == 100:
                break
        await results.aclose()
    assert got == WORDS
    assert read <= 100 + 2 * 2 * 10 + 1


async def test_no_more_is_read_while_a_request_hangs() -> None:
    read = 0
    answered, hangs, others = list[str](), asyncio.Event(), asyncio.Event()

    def texts() -> Iterator[str]:
        nonlocal read
        for number in range(200):
            read += 1
            yield f"text {number}"

    async def answer(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["text"]
        if "text 10" in texts:
            await hangs.wait()
        answered.append(texts[0])
        if len(answered) == 4:
            others.set()
        return httpx.Response(200, json={"predictions": [scores(text) for text in texts]})

    options, transport = Options(batch_texts=10, concurrency=2), httpx.MockTransport(answer)
    async with AsyncClient("http://x", options=options, transport=transport) as client:
        results = client.classify(texts())
        for _ in range(10):
            await anext(results)
        following = asyncio.create_task(anext(results))
        await asyncio.wait_for(others.wait(), 10)
        for _ in range(100):
            await asyncio.sleep(0)
        assert answered == ["text 0", "text 20", "text 30", "text 40"]
        assert read == 10 + 2 * 2 * 10 + 1
        hangs.set()
        assert (await following).label == "text 10"
        await results.aclose()


def test_a_client_that_waits_for_an_answer_does_not_look_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    done = Future.done

    def counted(future: Future[Any]) -> bool:
        nonlocal looks
        looks += 1
        return done(future)

    def answer(request: httpx.Request) -> httpx.Response:
        time.sleep(0.1)
        return httpx.Response(200, json={"predictions": [scores("a")]})

    monkeypatch.setattr(Future, "done", counted)
    with Client("http://x", transport=httpx.MockTransport(answer)) as client:
        assert labels(client.classify(["a"])) == ["a"]
    assert 0 < looks < 10


async def test_at_most_as_many_requests_as_allowed_are_sent_at_once() -> None:
    at_once = most = 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        for _ in range(3):
            await asyncio.sleep(0)
        at_once -= 1
        texts = json.loads(request.content)["text"]
        return httpx.Response(200, json={"predictions": [scores(text) for text in texts]})

    options, transport = Options(batch_texts=2, concurrency=3), httpx.MockTransport(answer)
    async with AsyncClient("http://x", options=options, transport=transport) as client:
        assert labels([one async for one in client.classify(WORDS)]) == WORDS
    assert most == 3


async def test_requests_are_cancelled_when_the_results_are_no_longer_read() -> None:
    cancelled: list[bool] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if len(cancelled) == 0 and b"text 0" in request.content:
            return httpx.Response(200, json={"predictions": [scores("text 0")]})
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError

    options, transport = Options(batch_texts=1, concurrency=3), httpx.MockTransport(answer)
    async with AsyncClient("http://x", options=options, transport=transport) as client:
        results = client.classify(WORDS)
        assert (await anext(results)).label == "text 0"
        await asyncio.sleep(0)
        await results.aclose()
    assert cancelled == [True, True]


async def test_the_connections_of_a_client_are_closed_with_it() -> None:
    closed: list[str] = []

    class Transport(httpx.MockTransport):
        def close(self) -> None:
            closed.append("close")

        async def aclose(self) -> None:
            closed.append("aclose")

    transport = Transport(lambda request: httpx.Response(200))
    with Client("http://x", transport=transport):
        assert closed == []
    async with AsyncClient("http://x", transport=transport):
        assert closed == ["close"]
    assert closed == ["close", "aclose"]


def test_a_request_that_hangs_does_not_keep_whoever_reads_no_more_results() -> None:
    hangs, closed = Event(), Event()
    in_time = SimpleQueue[bool]()

    def answer(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["text"]
        if texts != ["text 0"]:
            hangs.set()
            in_time.put(closed.wait(5))
        return httpx.Response(200, json={"predictions": [scores(text) for text in texts]})

    options, transport = Options(batch_texts=1, concurrency=2), httpx.MockTransport(answer)
    with Client("http://x", options=options, transport=transport) as client:
        results = client.classify(WORDS)
        assert next(results).label == "text 0"
        assert hangs.wait(5)
        results.close()
        closed.set()
    assert in_time.get(timeout=10)


async def test_progress_is_reported() -> None:
    seen: list[Progress] = []
    with FakeService().client(batch_texts=40) as client:
        list(client.classify(WORDS, progress=seen.append))
        list(client.classify(iter(WORDS[:2]), progress=seen.append))
    assert seen == [Progress(40, 100), Progress(80, 100), Progress(100, 100), Progress(2, None)]
    later: list[Progress] = []
    async with FakeService().async_client(batch_texts=40) as aio:
        assert len([one async for one in aio.classify(WORDS, progress=later.append)]) == 100
        assert len([one async for one in aio.classify(iter(WORDS[:2]), progress=later.append)]) == 2
    assert later == seen


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("x-truncated", "1 texts of request r9 were too long and were truncated"),
        ("x-unknown", "1 texts of request r9 are mostly unknown to the model"),
    ],
)
def test_texts_that_the_model_could_not_read_are_logged(
    caplog: pytest.LogCaptureFixture, header: str, said: str
) -> None:
    headers = {header: "1", "x-request-id": "r9"}
    answer = httpx.Response(200, json={"predictions": [scores("a")]}, headers=headers)
    service = FakeService(iter([answer]))
    with caplog.at_level(logging.WARNING, "millrace_client"), service.client() as client:
        list(client.classify(["a"]))
    assert caplog.messages == [said]


def test_the_key_is_sent() -> None:
    service = FakeService()
    with Client("http://x", "secret", transport=httpx.MockTransport(service)) as client:
        list(client.classify(["a"]))
    assert service.requests[0].headers["authorization"] == "Bearer secret"


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from("abcdefgh"), max_size=40),
    st.frozensets(st.sampled_from("abcdefgh")),
    st.integers(1, 6),
)
def test_every_text_has_its_result_or_its_error(words: list[str], bad: frozenset[str], size: int) -> None:
    service = FakeService(bad=bad)
    with service.client(batch_texts=size) as client:
        found = list(client.classify(words, errors="return"))
    assert [one.index if isinstance(one, TextError) else one.label for one in found] == [
        index if word in bad else word for index, word in enumerate(words)
    ]
