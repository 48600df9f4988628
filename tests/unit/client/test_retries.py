"""What a client repeats, when, and for how long."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from millrace_client import Client, Job, MillraceError, Options, Progress, RequestError, Unavailable
from millrace_client.exchange import Send, Sleep, exchange, read_retry_after
from millrace_client.options import Window
from millrace_client.runners import arguments

from tests.unit.client.fake_service import FakeService, Mood, full, labels, moody, refusal


@pytest.mark.parametrize("wrong", [{"budget_s": 0}, {"batch_texts": 0}, {"concurrency": 0}])
def test_the_least_options_are_accepted_and_less_is_refused(wrong: dict[str, int]) -> None:
    least = {"budget_s": 0.001, "batch_texts": 1, "concurrency": 1}
    assert Options(**least)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be"):
        Options(**least | wrong)  # type: ignore[arg-type]


async def test_a_client_waits_as_long_as_it_is_asked_to() -> None:
    moods: list[Mood] = []
    for _ in range(2):
        moods += [full("7"), refusal(503, "no_worker", "2.5"), None]
    service = moody(*moods)
    with service.client() as client:
        assert labels(client.classify(["a"])) == ["a"]
    assert service.pauses == [7.0, 2.5]
    async with service.async_client() as aio:
        assert [one.label async for one in aio.classify(["a"])] == ["a"]
    assert service.pauses == [7.0, 2.5] * 2


def test_without_another_clock_a_client_waits_in_real_time() -> None:
    """In the threads that classify, and in the one that asks for models."""
    service = moody(full("0.05"), None, full("0.05"), httpx.Response(200, json={"models": []}))
    transport, options = httpx.MockTransport(service), Options(random=lambda: 0.0)
    with Client("http://x", options=options, transport=transport) as client:
        for ask in (lambda: labels(client.classify(["a"])), client.models):
            began = time.monotonic()
            ask()
            assert time.monotonic() - began >= 0.05
    assert len(service.requests) == 4


def test_clients_that_were_refused_together_do_not_return_together() -> None:
    latest = moody(full("8"))
    with latest.client(random=lambda: 1.0) as client:
        assert labels(client.classify(["a"])) == ["a"]
    assert latest.pauses == [10.0]


def test_without_a_retry_after_pauses_are_random_and_grow() -> None:
    service = moody(*[httpx.ConnectError("refused")] * 8)
    with service.client(random=lambda: 1.0) as client:
        assert labels(client.classify(["a"])) == ["a"]
    assert service.pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


@pytest.mark.parametrize("budget_s", [41.0, 59.0, 60.0])
def test_a_client_gives_up_before_a_pause_that_would_exceed_the_budget(budget_s: float) -> None:
    service = moody(full("20"), full("20"), full("20"))
    with service.client(budget_s=budget_s) as client, pytest.raises(Unavailable) as caught:
        list(client.classify(["a"]))
    assert service.pauses == [20.0, 20.0]
    assert (caught.value.code, caught.value.request_id) == ("queue_full", "r1")
    assert isinstance(caught.value.__cause__, RequestError)
    assert caught.value.__cause__.status == 429


def test_a_service_that_is_not_there_is_unreachable() -> None:
    def never() -> Iterator[Mood]:
        while True:
            yield httpx.ConnectError("refused")

    service = FakeService(never())
    with service.client(random=lambda: 0.5) as client, pytest.raises(Unavailable) as caught:
        list(client.classify(["a"]))
    assert caught.value.code == "unreachable"
    assert caught.value.detail == "the service does not answer: refused"
    assert caught.value.request_id == service.requests[-1].headers["x-request-id"]
    assert 100 < sum(service.pauses) <= 120


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 415, 422, 500, 507])
def test_what_would_fail_again_is_not_repeated(status: int) -> None:
    service = moody(refusal(status, "some_code"))
    with service.client() as client, pytest.raises(RequestError) as caught:
        list(client.classify(["a"]))
    assert len(service.requests) == 1
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (status, "some_code", "r1")
    assert str(caught.value) == "because of some_code (some_code, request r1)"


def test_the_error_of_a_proxy_is_readable() -> None:
    moved = {"location": "https://service/predict"}
    service = moody(httpx.Response(301, text="<html>moved</html>", headers=moved))
    said = "answered 301 and redirects to https://service/predict: use that address"
    with service.client() as client, pytest.raises(MillraceError, match=said) as caught:
        list(client.classify(["a"]))
    assert caught.value.code == "http_301"
    assert caught.value.request_id == service.requests[0].headers["x-request-id"]


PREDICTIONS = [{"POSITIVE": 0.1}], [5], {}, [], [[]], [[{"label": "a"}]], None, [[[1]]], [[], []]


@pytest.mark.parametrize("predictions", PREDICTIONS)
def test_predictions_of_another_service_ended_in_errors_of_python(predictions: object) -> None:
    body = {"predictions": predictions, "next_offset": None}
    service = moody(httpx.Response(200, json=body))
    with service.client() as client, pytest.raises(RequestError, match="not_millrace"):
        list(client.classify(["a"]))
    if predictions:
        service = moody(httpx.Response(200, json=body))
        with service.client() as client, pytest.raises(RequestError, match="not_millrace"):
            assert len(list(client.jobs.results("1"))) == 2


def test_a_job_of_another_service_ended_in_errors_of_python() -> None:
    for body in ({"status": "ok"}, {"status": "ok", "error": "no"}):
        service = moody(httpx.Response(200, json=body))
        with service.client() as client, pytest.raises(RequestError, match="not_millrace"):
            client.jobs.get("1")


def test_an_answer_with_broken_compression_is_asked_for_again() -> None:
    broken = httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"{}"))
    service = moody(broken)
    with service.client() as client:
        assert len(list(client.classify(["a"]))) == 1
    assert len(service.requests) == 2


def test_a_job_is_waited_for_no_longer_than_that_if_the_service_is_away() -> None:
    service = moody(*[httpx.ConnectError("refused")] * 1000)
    job = Job("1", "running", 1, 0, 0)
    with service.client(lambda: 1.0) as client:
        with pytest.raises(TimeoutError, match="after 5 s"):
            client.jobs.wait(job, timeout_s=5)
        assert service.time <= 1005
        with pytest.raises(Unavailable):
            client.jobs.wait(job, timeout_s=500)
    service.time = 1000.0
    later = service.client(lambda: 1.0, budget_s=64.0)
    with later, pytest.raises(TimeoutError, match="after 64 s"):
        later.jobs.wait(job, timeout_s=64)


def answered(job: Job) -> httpx.Response:
    return httpx.Response(200, json=asdict(job))


def test_a_wait_of_no_time_asks_nothing() -> None:
    job, ended = Job("1", "running", 1, 0, 0), Job("1", "finished", 1, 1, 0)
    service = moody(answered(ended))
    with service.client() as client:
        with pytest.raises(TimeoutError, match="after 0 s"):
            client.jobs.wait(job, timeout_s=0)
        assert service.requests == []
        assert client.jobs.wait(job, timeout_s=0.001) == ended
    assert [request.url.params["wait"] for request in service.requests] == ["0.001"]


def test_a_job_is_asked_for_again_at_once_unless_it_has_not_changed() -> None:
    before, more, ended = (
        Job("1", "running", 2, 0, 0),
        Job("1", "running", 2, 1, 0),
        Job("1", "failed", 2, 1, 0),
    )
    service = moody(*map(answered, (before, more, ended)))
    seen: list[Progress] = []
    with service.client() as client:
        assert client.jobs.wait(before, progress=seen.append) == ended
    assert service.pauses == [0.5]
    assert seen == [Progress(job.done, 2, job) for job in (before, before, more, ended)]
    assert [request.url.params["wait"] for request in service.requests] == ["10.000"] * 3


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"null", b'{"output": 1}'])
def test_the_answer_of_another_service_is_an_error_of_the_client(body: bytes) -> None:
    service = moody(httpx.Response(200, content=body))
    said = "did not answer like Millrace"
    with service.client() as client, pytest.raises(RequestError, match=said) as caught:
        list(client.classify(["a"]))
    assert len(service.requests) == 1
    assert caught.value.code == "not_millrace"
    assert caught.value.request_id == service.requests[0].headers["x-request-id"]
    for ask in ("get", "wait", "results", "create"):
        service = moody(httpx.Response(200, content=body))
        with service.client() as client, pytest.raises(RequestError, match=said):
            list(getattr(client.jobs, ask)("1" if ask != "create" else ["a"]))


def test_the_service_is_asked_to_answer_within_the_budget() -> None:
    service = moody(full("53"))
    with service.client(budget_s=60.0) as client:
        list(client.classify(["a"]))
    assert [request.headers["prefer"] for request in service.requests] == ["wait=10.000", "wait=7.000"]
    short = moody()
    with short.client(budget_s=0.5) as client:
        list(client.classify(["a"]))
    assert short.requests[0].headers["prefer"] == "wait=0.500"


def test_each_answer_allows_one_more_request_at_once_and_a_refusal_only_one() -> None:
    window = Window(3)
    sizes = [window.size]
    for _ in range(3):
        window.answered()
        sizes.append(window.size)
    window.refused()
    assert [*sizes, window.size] == [1, 2, 3, 3, 1]


def test_a_refusal_and_a_lost_answer_make_the_window_small_again() -> None:
    options, window = FakeService().options(), Window(3)
    for outcome in (full(), httpx.ConnectError("refused")):
        window.answered()
        window.answered()
        flow = exchange(options, Send("GET", "/models"), 2000.0, window)
        next(flow)
        step = flow.throw(outcome) if isinstance(outcome, Exception) else flow.send(outcome)
        assert (step, window.size) == (Sleep(0.0), 1)


def test_a_refused_request_holds_the_others_back() -> None:
    service = moody(full("5"))
    with service.client(batch_texts=1) as client:
        assert labels(client.classify(["a", "b", "c"])) == ["a", "b", "c"]
    assert [json.loads(request.content)["text"] for request in service.requests[:2]] == [["a"], ["a"]]


def test_a_cancellation_is_not_repeated_if_it_may_have_happened() -> None:
    lost = moody(httpx.ReadTimeout(""))
    with lost.client() as client, pytest.raises(Unavailable, match="does not answer: ReadTimeout "):
        client.jobs.cancel("a" * 32)
    assert len(lost.requests) == 1
    refused = moody(full("1"), httpx.Response(204))
    with refused.client() as client:
        client.jobs.cancel("a" * 32)
    assert len(refused.requests) == 2


def test_retry_after_may_be_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=61), usegmt=True)
    assert 55 < read_retry_after(in_a_minute) <= 61
    long_ago = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert [read_retry_after(value) for value in (long_ago, "", "soon", "-3", "inf", "nan")] == [0.0] * 6


@given(st.text(max_size=40) | st.from_regex(r"Mon, \d{1,30} Jan \d{1,30} \d{1,30}:00:00 (GMT|[+]\d{1,30})"))
def test_a_retry_after_with_numbers_of_many_digits_ended_in_an_error_of_python(value: str) -> None:
    assert read_retry_after(value) >= 0


moods = st.sampled_from(
    [
        *[lambda wait=wait: full(wait) for wait in ("", "0", "1", "3")],
        lambda: refusal(503, "no_worker", "2"),
        lambda: refusal(504, "budget_exceeded"),
        lambda: httpx.Response(502, text="bad gateway"),
        lambda: httpx.ReadTimeout("slow"),
        lambda: httpx.ConnectError("refused"),
        lambda: httpx.RemoteProtocolError("closed"),
        lambda: None,
    ]
)
texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=60)


@settings(max_examples=50)
@given(texts, st.lists(moods, max_size=12), st.integers(1, 7), st.floats(0, 1), st.integers(1, 4))
def test_whatever_happens_within_the_budget_every_text_ends_once_and_in_order(
    given_texts: list[str], happens: list[Mood], size: int, chance: float, concurrency: int
) -> None:
    service = FakeService(make() for make in happens)  # type: ignore[operator]
    options = {"budget_s": 10_000.0, "batch_texts": size, "concurrency": concurrency}
    with service.client(random=lambda: chance, **options) as client:
        assert labels(client.classify(given_texts)) == given_texts
    assert all(len(texts) <= size for texts in service.answered)


@settings(max_examples=50)
@given(texts, st.lists(moods, max_size=12), st.integers(1, 7), st.floats(0, 1))
async def test_the_same_holds_with_asyncio(
    given_texts: list[str], happens: list[Mood], size: int, chance: float
) -> None:
    service = FakeService(make() for make in happens)  # type: ignore[operator]
    async with service.async_client(random=lambda: chance, budget_s=10_000.0, batch_texts=size) as client:
        assert labels([found async for found in client.classify(given_texts)]) == given_texts


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.models(),
        lambda client: client.jobs.create(["a"]),
        lambda client: client.jobs.get("a" * 32),
        lambda client: client.jobs.cancel("a" * 32),
        lambda client: list(client.jobs.results("a" * 32)),
    ],
    ids=["models", "create", "get", "cancel", "results"],
)
def test_every_call_is_repeated_within_the_budget(call: Callable[[Client], object]) -> None:
    service = moody(full(), full(), refusal(422, "wrong"))
    with service.client() as client, pytest.raises(RequestError, match="wrong"):
        call(client)
    assert len(service.requests) == 3


def test_a_file_is_announced_and_sent_as_a_whole_at_each_attempt() -> None:
    body = io.BytesIO(b"abc" * 100_000)
    step = Send("PUT", "/", body, headers={"a": "b"})
    for _ in range(2):
        given = arguments(step, None)
        assert given["headers"] == {"a": "b", "content-length": "300000"}
        assert b"".join(given["content"]) == body.getvalue()
