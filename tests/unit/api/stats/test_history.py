"""Rates and quantiles from counters read once a second."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from api.stats.history import HISTORY_S, SPAN_S, CounterSample, StatsHistory

BOUNDS = (0.01, 0.1, 1.0)
START = CounterSample(0.0, 0, 0, 0, 0, 0, waiting=0, durations=array("d", [0, 0, 0, 0, 0]))


def after(
    sample: CounterSample, seconds: float = 1.0, *, answered: tuple[int, ...] = (0, 0, 0, 0), **more: float
) -> CounterSample:
    """The next sample: durations per bucket, and the increase of the other counters."""
    durations = array("d", [was + now for was, now in zip(sample.durations, (*answered, 0), strict=True)])
    grown = {name: getattr(sample, name) + value for name, value in more.items()}
    return replace(sample, at=sample.at + seconds, durations=durations, **grown)


def test_rates_are_per_second_of_the_last_five() -> None:
    history = StatsHistory(BOUNDS)
    sample = START
    history.add(sample)
    for _ in range(10):
        sample = after(sample, hits=30, computed=10, refused=1, worked=12)
        point = history.add(sample)
    assert (point.answered, point.hits, point.refused, point.worked) == (40, 30, 1, 12)
    for _ in range(5):
        sample = after(sample)
        point = history.add(sample)
    assert point.answered == 0


def test_rates_are_rounded_to_a_tenth() -> None:
    history = StatsHistory(BOUNDS)
    history.add(START)
    point = history.add(after(START, 3.0, hits=1, computed=1, refused=1, shed=1, worked=1))
    assert (point.answered, point.hits, point.refused, point.shed, point.worked) == (0.7, 0.3, 0.3, 0.3, 0.3)


def test_nothing_answered_has_no_quantile() -> None:
    history = StatsHistory(BOUNDS)
    assert history.add(START).p99_ms is None
    assert history.add(after(START)).p99_ms is None


@pytest.mark.parametrize(
    ("answered", "p50_ms", "p99_ms"),
    [
        ((100, 0, 0, 0), 5, 9.9),
        ((50, 50, 0, 0), 10, 98.2),
        ((0, 0, 0, 5), 1000, 1000),
        ((0, 100, 0, 0), 55, 99.1),
    ],
)
def test_quantiles_are_interpolated_within_their_bucket(
    answered: tuple[int, ...], p50_ms: float, p99_ms: float
) -> None:
    history = StatsHistory(BOUNDS)
    history.add(START)
    point = history.add(after(START, answered=answered))
    assert point.p50_ms == pytest.approx(p50_ms)
    assert point.p99_ms == pytest.approx(p99_ms)


def test_quantiles_beyond_the_last_bound_are_rounded_as_others() -> None:
    history = StatsHistory((0.01, 0.1, 0.1234567))
    history.add(START)
    point = history.add(after(START, answered=(0, 0, 2, 2)))
    assert (point.p50_ms, point.p99_ms) == (123.46, 123.46)


def test_quantiles_forget_after_a_minute() -> None:
    history = StatsHistory(BOUNDS)
    history.add(START)
    sample = after(START, answered=(0, 0, 100, 0))
    history.add(sample)
    for _ in range(SPAN_S):
        sample = after(sample, answered=(1, 0, 0, 0))
        point = history.add(sample)
    assert point.p99_ms is not None
    assert point.p99_ms <= 10


def test_history_is_bounded_and_oldest_first() -> None:
    history = StatsHistory(BOUNDS)
    sample = START
    for second in range(HISTORY_S + 20):
        sample = replace(after(sample), waiting=second)
        history.add(sample)
    waiting = history.history()["waiting"]
    assert len(waiting) == HISTORY_S
    assert (waiting[0], waiting[-1]) == (20, HISTORY_S + 19)


def test_the_history_goes_on_where_an_earlier_process_ended() -> None:
    """After a restart of the API, all charts were empty."""
    earlier, later = StatsHistory(BOUNDS), StatsHistory(BOUNDS)
    points = [earlier.add(after(START, waiting=waiting)) for waiting in (7, 8)]
    kept = [earlier.line(point, at_s) for point, at_s in zip(points, (1000, 1001), strict=True)]
    later.add(after(START, waiting=9))
    later.restore([*kept, b"[1002, 1, 2]"], now_s=1005)
    assert later.history()["waiting"] == [7, 8, None, None, 9]
