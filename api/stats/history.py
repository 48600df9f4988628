"""The rates and quantiles of the last minutes, computed from counters that are read every second. No I/O."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import accumulate

from api.asgi.http import to_json
from batcher.jobs.store import HISTORY_S

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


def _read_line(line: bytes) -> tuple[int, StatsPoint | None]:
    """A line that another version has written counts as unknown."""
    at_s, *values = json.loads(line)
    return at_s, StatsPoint(*values) if len(values) == len(fields(StatsPoint)) else None


class StatsHistory:
    """The points of the last minutes, one per second."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._samples: deque[CounterSample] = deque(maxlen=SPAN_S + 1)
        self._points: deque[StatsPoint | None] = deque(maxlen=HISTORY_S)

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
        """The values of each field, oldest first; None for a second of which nothing is known."""
        return {
            field.name: [getattr(point, field.name, None) for point in self._points]
            for field in fields(StatsPoint)
        }

    def restore(self, lines: Iterable[bytes], now_s: int) -> None:
        """Puts the seconds that earlier processes kept (see `line`) before those of this one."""
        known = dict(map(_read_line, lines))
        own = list(self._points)
        began_s = now_s - len(self._points)
        self._points.clear()
        first_s = max(min(known, default=began_s), began_s - HISTORY_S)
        self._points.extend([*map(known.get, range(first_s, began_s)), *own])

    @staticmethod
    def line(point: StatsPoint, at_s: int) -> bytes:
        """A second as it is kept in Redis."""
        return to_json([at_s, *astuple(point)])

    def _quantile(self, buckets: Sequence[float], share: float) -> float | None:
        """A quantile in ms, assuming that durations are spread evenly within their bucket."""
        total = sum(buckets)
        if total < 1:
            return None
        rank = share * total
        sums = list(accumulate(buckets))
        at = bisect_left(sums, rank)
        if at == len(self._bounds):
            return round(self._bounds[-1] * 1e3, 2)
        lower = self._bounds[at - 1] if at else 0.0
        part = 1 - (sums[at] - rank) / buckets[at]
        return round((lower + (self._bounds[at] - lower) * part) * 1e3, 2)
