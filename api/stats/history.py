"""What the last minutes were like: rates and quantiles from counters that are read once a second. No I/O."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

# What a viewer who has just come is told of.
HISTORY_S = 300
# Quantiles and rates are those of this span: long enough to be calm, short enough to be current.
SPAN_S = 60
RATE_S = 5


@dataclass(frozen=True, slots=True)
class CounterSample:
    """Counters at one moment. `at` in seconds of a monotonic clock, all else since the start.

    `durations` has a count for each bucket of `bounds`, one for what is beyond, and their sum.
    """

    at: float
    hits: float
    computed: float
    refused: float
    worked: float
    waiting: int
    durations: array[float]


@dataclass(frozen=True, slots=True)
class StatsPoint:
    """One second: texts per second, milliseconds (None: nothing was answered), entries that wait.

    `answered` and `refused` by this API, `worked` by all workers.
    """

    answered: float
    hits: float
    refused: float
    worked: float
    p50_ms: float | None
    p99_ms: float | None
    waiting: int


class StatsHistory:
    """Beats of the last minutes."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._readings: deque[CounterSample] = deque(maxlen=SPAN_S + 1)
        self._beats: deque[StatsPoint] = deque(maxlen=HISTORY_S)

    def add(self, reading: CounterSample) -> StatsPoint:
        """The beat that a reading, a second after the one before, makes."""
        self._readings.append(reading)
        then = self._readings[max(-1 - RATE_S, -len(self._readings))]
        seconds = max(reading.at - then.at, 1e-3)
        buckets = [now - was for now, was in zip(reading.durations, self._readings[0].durations, strict=True)]
        computed = max(reading.computed - then.computed, 0.0)
        hits = max(reading.hits - then.hits, 0.0)
        beat = StatsPoint(
            answered=round((hits + computed) / seconds, 1),
            hits=round(hits / seconds, 1),
            refused=round(max(reading.refused - then.refused, 0.0) / seconds, 1),
            worked=round(max(reading.worked - then.worked, 0.0) / seconds, 1),
            p50_ms=self._quantile(buckets[:-1], 0.5),
            p99_ms=self._quantile(buckets[:-1], 0.99),
            waiting=reading.waiting,
        )
        self._beats.append(beat)
        return beat

    def history(self) -> Mapping[str, list[float | None]]:
        """Each field of the beats so far, oldest first."""
        return {
            field.name: [getattr(beat, field.name) for beat in self._beats] for field in fields(StatsPoint)
        }

    def _quantile(self, buckets: Sequence[float], share: float) -> float | None:
        """In ms, as if durations were spread evenly within their bucket."""
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


class MonotonicTotal:
    """Texts that all workers did since the first look, although workers come and go."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._total = 0

    def add(self, texts: Mapping[str, int]) -> int:
        """The total after another look at the texts of each live worker."""
        for worker, count in texts.items():
            self._total += max(count - self._seen.get(worker, count), 0)
        self._seen = dict(texts)
        return self._total
