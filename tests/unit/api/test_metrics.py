"""Requests are counted many at a time."""

from __future__ import annotations

from api.metrics import MAX_NOTED, Metrics
from api.settings import ApiSettings
from tests.unit.api.service import running
from tests.unit.fakes import FakeCache, FakeHub

PREDICTED = {"route": "/predict", "status": "200"}


def test_requests_are_counted_when_there_are_many_or_when_they_are_read() -> None:
    metrics = Metrics(10.0)
    counted = metrics.registry.get_sample_value
    for _ in range(MAX_NOTED):
        metrics.request("/predict", 200, 0.5)
    metrics.request("/predict", 200, 20.0)
    metrics.entries("computed", 3)
    metrics.entries("hit_local", 2)
    assert counted("millrace_requests_total", PREDICTED) == MAX_NOTED
    for _ in range(2):
        outcomes, durations = metrics.read()
        assert counted("millrace_requests_total", PREDICTED) == MAX_NOTED + 1
        assert (outcomes["computed"], outcomes["hit_local"], outcomes["dead"]) == (3, 2, 0)
        assert (sum(durations[:-1]), durations[-2], durations[-1]) == (MAX_NOTED + 1, 1, MAX_NOTED / 2 + 20)


async def test_a_process_counts_its_last_requests_before_it_ends() -> None:
    async with running(FakeHub(), FakeCache(), ApiSettings()) as service:
        await service.predict("a")
        metrics = service.app._handler.request_log._metrics  # type: ignore[attr-defined]
    counted = metrics.registry.get_sample_value
    assert counted("millrace_requests_total", PREDICTED) == 1
    assert counted("millrace_entries_total", {"outcome": "computed"}) == 1
