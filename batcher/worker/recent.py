"""The last batches of a worker, for the console's timelines. Contains ids and numbers, no text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from batcher.worker.stats import BatchReport

MOST_BATCHES = 2000


class _Claimed(NamedTuple):
    id: str
    waited_ms: int
    attempts: int


class _Batch(NamedTuple):
    at_s: float
    entries: tuple[_Claimed, ...]
    queue_s: tuple[float, ...]
    facts: Mapping[str, Any]


class RecentBatches:
    """The last MOST_BATCHES batches. One thread adds them, and another may read them."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque(maxlen=MOST_BATCHES)

    def add(self, report: BatchReport) -> None:
        """Remembers a batch."""
        facts = {
            "batch": report.number,
            "size": report.size,
            "tokens": report.tokens,
            "computed_tokens": report.computed_tokens,
            "reason": report.reason,
            "model_ms": round(report.model_s * 1000, 3),
        }
        entries = tuple(_Claimed(entry.id, entry.waited_ms, entry.attempts) for entry in report.entries)
        ended_s = time.time() - (time.monotonic() - report.ended_at)
        self._batches.append(_Batch(ended_s, entries, report.queue_s, facts))

    def find(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Facts about each of these texts, for each batch that had any of them, oldest first.

        `at_ms` is when the batch ended, by the clock of this machine. The text waited for `waited_ms` until a
        worker claimed it, and for `queue_ms` until the batch began.
        """
        wanted, found = set(ids), list[dict[str, Any]]()
        for batch in self._batches.copy():
            for entry, queue_s in zip(batch.entries, batch.queue_s, strict=True):
                if entry.id in wanted:
                    times = {"at_ms": round(batch.at_s * 1000), "queue_ms": round(queue_s * 1000, 3)}
                    found.append({**entry._asdict(), **times, **batch.facts})
        return found
