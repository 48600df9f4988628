"""Rates and quantiles from counters read once a second."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from api.stats.history import HISTORY_S, SPAN_S, CounterSample, StatsHistory

BOUNDS = (0.01, 0.1, 1.0)
START = CounterSample(0.0, 0, 0, 0, 0, 0, waiting=0, durations=array("d", [0, 0, 0, 0, 0]))


def after(
    reading: CounterSample, seconds: float = 1.0, *, answered: tuple[int, ...] = (0, 0, 0, 0), **more: float
) -> CounterSample:
    """The next sample: durations per bucket, and the increase of the other counters."""
    durations = array("d", [was + now for was, now in zip(reading.durations, (*answered, 0), strict=True)])
    grown = {name: getattr(reading, name) + value for name, value in more.items()}
    return replace(reading, at=reading.at + seconds, durations=durations, **grown)


def test_rates_are_per_second_of_the_last_five() -> None:
    pulse = StatsHistory(BOUNDS)
    reading = START
    pulse.add(reading)
    for _ in range(10):
        reading = after(reading, hits=30, computed=10, refused=1, worked=12)
        beat = pulse.add(reading)
    assert (beat.answered, beat.hits, beat.refused, beat.worked) == (40, 30, 1, 12)
    for _ in range(5):
        reading = after(reading)
        beat = pulse.add(reading)
    assert beat.answered == 0


def test_nothing_answered_has_no_quantile() -> None:
    pulse = StatsHistory(BOUNDS)
    assert pulse.add(START).p99_ms is None
    assert pulse.add(after(START)).p99_ms is None


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
    pulse = StatsHistory(BOUNDS)
    pulse.add(START)
    beat = pulse.add(after(START, answered=answered))
    assert beat.p50_ms == pytest.approx(p50_ms)
    assert beat.p99_ms == pytest.approx(p99_ms)


def test_quantiles_forget_after_a_minute() -> None:
    pulse = StatsHistory(BOUNDS)
    pulse.add(START)
    reading = after(START, answered=(0, 0, 100, 0))
    pulse.add(reading)
    for _ in range(SPAN_S):
        reading = after(reading, answered=(1, 0, 0, 0))
        beat = pulse.add(reading)
    assert beat.p99_ms is not None
    assert beat.p99_ms <= 10


def test_history_is_bounded_and_oldest_first() -> None:
    pulse = StatsHistory(BOUNDS)
    reading = START
    for second in range(HISTORY_S + 20):
        reading = replace(after(reading), waiting=second)
        pulse.add(reading)
    waiting = pulse.history()["waiting"]
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
