"""The rates and quantiles of the last minutes, computed from counters that are read every second. No I/O."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

# How many seconds of history a new viewer gets.
HISTORY_S = 900
# Quantiles cover this many seconds, and rates this many: enough to be smooth, few enough to be current.
SPAN_S = 60
RATE_S = 5


@dataclass(frozen=True, slots=True)
class CounterSample:
    """Counters at one moment, since startup. `at` is in seconds of a monotonic clock.

    `durations` has a count per bucket of `bounds`, a count of longer durations, and the sum of all durations.
    """

    at: float
    hits: float
    computed: float
    refused: float
    shed: float
    worked: float
    waiting: int
    durations: array[float]


@dataclass(frozen=True, slots=True)
class StatsPoint:
    """Statistics of one second: texts per second, latency quantiles, and entries waiting.

    `answered`, `hits`, `refused` and `shed` (the queue is full) are those of this API; `worked`
    covers all workers. Quantiles are None if no request was answered.
    """

    answered: float
    hits: float
    refused: float
    shed: float
    worked: float
    p50_ms: float | None
    p99_ms: float | None
    waiting: int


class StatsHistory:
    """The points of the last minutes, one per second."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._samples: deque[CounterSample] = deque(maxlen=SPAN_S + 1)
        self._points: deque[StatsPoint] = deque(maxlen=HISTORY_S)

    def add(self, sample: CounterSample) -> StatsPoint:
        """Adds a sample, and returns the point computed from it and the samples before."""
        self._samples.append(sample)
        then = self._samples[max(-1 - RATE_S, -len(self._samples))]
        seconds = max(sample.at - then.at, 1e-3)
        buckets = [now - was for now, was in zip(sample.durations, self._samples[0].durations, strict=True)]
        computed = max(sample.computed - then.computed, 0.0)
        hits = max(sample.hits - then.hits, 0.0)
        point = StatsPoint(
            answered=round((hits + computed) / seconds, 1),
            hits=round(hits / seconds, 1),
            refused=round(max(sample.refused - then.refused, 0.0) / seconds, 1),
            shed=round(max(sample.shed - then.shed, 0.0) / seconds, 1),
            worked=round(max(sample.worked - then.worked, 0.0) / seconds, 1),
            p50_ms=self._quantile(buckets[:-1], 0.5),
            p99_ms=self._quantile(buckets[:-1], 0.99),
            waiting=sample.waiting,
        )
        self._points.append(point)
        return point

    def history(self) -> Mapping[str, list[float | None]]:
        """The values of each field, oldest first."""
        return {
            field.name: [getattr(point, field.name) for point in self._points] for field in fields(StatsPoint)
        }

    def _quantile(self, buckets: Sequence[float], share: float) -> float | None:
        """A quantile in ms, assuming that durations are spread evenly within their bucket."""
        total = sum(buckets)
        if total < 1:
            return None
        rank, below = share * total, 0.0
        lower = 0.0
        for upper, count in zip(self._bounds, buckets, strict=False):
            if count > 0 and below + count >= rank:
                return round((lower + (upper - lower) * (rank - below) / count) * 1e3, 2)
            lower, below = upper, below + count
        return round(lower * 1e3, 2)
