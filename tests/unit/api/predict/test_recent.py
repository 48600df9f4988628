"""The console's memory of requests has a bound in bytes, and usage is what was looked up."""

from __future__ import annotations

import gc
import tracemalloc
from unittest.mock import Mock

import pytest

from api.asgi.http import RequestHeaders
from api.predict.request import RequestContext
from api.predict.request_log import MAX_BYTES, RecentRequests, RequestLog
from batcher.lookup.queue import LookupResult
from batcher.messages import Prediction


def large_request(number: int, batch: int) -> RequestContext:
    """A request of 1,024 texts that ran in batches of so many, as it is once it has been answered."""
    scope = {"headers": [(b"x-request-id", b"%0128d" % number)], "client": ("192.0.2.1", number)}
    context = RequestContext(RequestHeaders(scope))
    context.texts = [f"text {number} {at}" for at in range(1024)]
    found = context.answer = LookupResult(asked=1024, asked_at=context.started)
    found.ids = {text: f"{number:016}{at:016}" for at, text in enumerate(context.texts)}
    for at, text in enumerate(context.texts):
        times = float(number), at // batch + 0.25, at // batch + 0.5
        found.computed[text] = Prediction(b"[]", "r" * 64, 3, 0, *times, batch)
    return context


def test_ten_thousand_large_answers_could_take_gigabytes() -> None:
    """22 MiB for 500 answers of 1,024 texts in batches of 8, and eight times as much if each ran alone."""
    recent = RecentRequests()
    tracemalloc.start()
    try:
        for number in range(60):
            recent.add(large_request(number, batch=8 if number % 2 else 1), 200, 0.1)
            recent.add(large_request(number, batch=8 if number % 2 else 1), 200, 5.0)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * MAX_BYTES
    assert recent.find(f"{0:0128}") is None
    newest = recent.find(f"{59:0128}")
    assert newest is not None
    assert (newest["texts"], len(newest["runs"])) == (1024, 128)


def test_times_of_a_request_are_in_milliseconds() -> None:
    recent = RecentRequests()
    context = large_request(7, batch=8)
    assert context.answer is not None
    context.answer.asked_at = context.started + 0.25
    recent.add(context, 200, 0.5)
    found = recent.find(f"{7:0128}")
    assert found is not None
    assert (found["ms"], found["asked_ms"]) == (500.0, 250.0)


@pytest.mark.parametrize(
    ("status", "known", "hits"), [(200, "b", 1), (200, "", 0), (422, "b", 1), (200, "ab", 6), (503, "b", 0)]
)
def test_texts_that_a_request_has_twice_and_those_that_fail_counted_as_hits(
    status: int, known: str, hits: int
) -> None:
    """Of one new text five times in a request, four were hits."""
    traffic = Mock()
    context = RequestContext(RequestHeaders({"headers": [], "client": ("192.0.2.1", 1)}))
    context.texts = ["a"] * 5 + ["b"]
    context.used = len(context.texts)
    computed = dict.fromkeys("ab" if status == 200 else "", Prediction(b"[]", "r", 3, 0, 1.0, 1.0, 1.0, 8))
    context.answer = LookupResult(by_text={text: Mock() for text in {*known, *computed}})
    context.answer.computed = {text: one for text, one in computed.items() if text not in known}
    RequestLog(Mock(), traffic).add(context, "/predict", status)
    (counted,) = traffic.count.call_args_list
    assert counted.args[1:3] == (0 if status == 503 else 6, hits)
