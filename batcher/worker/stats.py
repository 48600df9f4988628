"""Statistics of a worker: a report of each batch for metrics, traces and logs, and totals for its record."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from batcher.messages import BatchNote, Entry, Failure, Prediction
from batcher.worker.batching import Reason, TokenizedEntry
from batcher.worker.inference import FinishedBatch, Inference, Scored
from model_store import ModelInfo

MAX_BATCHES = 2000
log = logging.getLogger(__name__)
# How long the follow-up waits, so that it does not take a core from the API that sends the answers.
FOLLOW_UP_S = 0.02
# Batches listed in the worker's record.
NOTES = 20
# Caches results of texts that were claimed since this time (monotonic seconds).
Remember = Callable[[Iterable[tuple[str, Prediction]], float], None]


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
    """The last MAX_BATCHES batches. One thread adds them, and another may read them."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque(maxlen=MAX_BATCHES)

    def add(self, report: BatchReport) -> None:
        """Remembers a batch."""
        entries = tuple(_Claimed(entry.id, entry.waited_ms, entry.attempts) for entry in report.entries)
        ended_s = time.time() - (time.monotonic() - report.ended_at)
        self._batches.append(_Batch(ended_s, entries, report.queue_s, report.facts()))

    def find(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Facts about each of these texts, for each batch that had any of them, oldest first.

        `at_ms` is when the batch ended, by the clock of this machine. The text waited for `waited_ms` until a
        worker claimed it, and for `queue_ms` until the batch began.
        """
        wanted = set(ids)
        found = list[dict[str, Any]]()
        for batch in self._batches.copy():
            for entry, queue_s in zip(batch.entries, batch.queue_s, strict=True):
                if entry.id in wanted:
                    times = {"at_ms": round(batch.at_s * 1000), "queue_ms": round(queue_s * 1000, 3)}
                    found.append({**entry._asdict(), **times, **batch.facts})
        return found


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch. Durations are in seconds.

    `number` counts the batches of this worker; `queue_s` holds the waiting time of each of `entries`, among
    which is each window of a long text. `ended_at` is when the forward pass ended and `sent_at` when Redis
    accepted the results, 0 if it did not (monotonic).
    """

    number: int
    entries: tuple[Entry, ...]
    size: int
    tokens: int
    computed_tokens: int
    reason: Reason
    queue_s: tuple[float, ...]
    tokenize_s: float
    model_s: float
    failures: int
    ended_at: float = 0.0
    sent_at: float = 0.0
    scored: Sequence[Scored] = ()

    def facts(self) -> dict[str, object]:
        """What is true of all its entries, durations in ms."""
        return {
            "batch": self.number,
            "size": self.size,
            "tokens": self.tokens,
            "computed_tokens": self.computed_tokens,
            "reason": self.reason,
            "model_ms": round(self.model_s * 1000, 3),
        }

    def log_context(self) -> dict[str, object]:
        """Fields of the batch's log line: ids and durations in ms, never a text."""
        return {
            **self.facts(),
            "model_ms": round(self.model_s * 1000, 2),
            "longest_wait_ms": round(max(self.queue_s) * 1000, 1),
            "tokenize_ms": round(self.tokenize_s * 1000, 2),
            "failures": self.failures,
            "entries": [entry.id for entry in self.entries],
        }

    def note(self) -> BatchNote:
        """The batch as listed in the worker's record."""
        return BatchNote(
            self.number,
            self.size,
            self.tokens,
            self.computed_tokens,
            self.reason,
            max(self.queue_s) * 1000,
            self.model_s * 1000,
        )


def _reason(batch: Sequence[TokenizedEntry]) -> Reason:
    """Why the batch was closed: the reason of the last claim that contributed to it."""
    if any(item.entry.solo for item in batch):
        return "solo"
    return max(batch, key=lambda item: item.claimed_at).reason


class WorkerStats:
    """Totals of a worker since it started.

    `rate` is its recent throughput in tokens per second, in the queue's estimated tokens;
    `typical_tokens` is the recent size of a batch.
    """

    def __init__(self) -> None:
        self.rate = 0.0
        self.typical_tokens = 32.0
        self.texts = 0
        self._batches = self._last_batch = 0
        self._notes: tuple[str, ...] = ()
        self._started_ms = int(time.time() * 1000)

    def add(self, finished: FinishedBatch) -> BatchReport:
        """Adds a batch and reports it."""
        batch = finished.entries
        spent_s = finished.spent_s
        cost = sum(item.entry.cost for item in batch)
        self.rate += 0.05 * (cost / max(spent_s, 1e-6) - self.rate)
        self.typical_tokens += 0.05 * (finished.computed - self.typical_tokens)
        self._batches += 1
        self.texts += len(finished.results)
        self._last_batch = len(batch)
        report = BatchReport(
            number=self._batches,
            entries=tuple(item.entry for item in batch),
            size=len(batch),
            tokens=sum(len(item.tokens) for item in batch),
            computed_tokens=finished.computed,
            reason=_reason(batch),
            queue_s=tuple(item.entry.waited_ms / 1000 + finished.began - item.claimed_at for item in batch),
            tokenize_s=sum(item.tokenize_s for item in batch),
            model_s=spent_s,
            failures=sum(isinstance(result, Failure) for _, result in finished.results),
            ended_at=finished.began + spent_s,
            sent_at=finished.sent_at,
            scored=finished.scored,
        )
        # Replaced rather than mutated, because the heartbeat thread reads it.
        self._notes = (*self._notes[1 - NOTES :], report.note().encode())
        return report

    def record(self, info: ModelInfo, state: str) -> dict[str, Any]:
        """The fields of the worker's record in Redis."""
        return {
            "revision": info.revision,
            "engine": info.engine,
            "precision": info.precision,
            "arithmetic": info.arithmetic,
            "fallback": info.fallback_reason,
            "state": state,
            "rate": round(self.rate, 1),
            "batches": self._batches,
            "texts": self.texts,
            "last_batch": self._last_batch,
            "started_ms": self._started_ms,
            "recent": ";".join(self._notes),
        }


@dataclass(eq=False)
class FollowUp:
    """Processes batches once their results are sent, several at once, in a separate thread.

    Append to `finished`, then call `run` in that thread after FOLLOW_UP_S unless it is `due` already.
    """

    _stats: WorkerStats
    _inference: Inference
    _remember: Callable[[FinishedBatch], None]
    observe: Callable[[BatchReport], None]
    due = False
    finished: deque[FinishedBatch] = field(default_factory=deque)
    recent: RecentBatches = field(default_factory=RecentBatches)

    def run(self) -> None:
        """Caches results, learns what batches cost, counts them and reports them. Logs any error."""
        self.due = False  # before the last look, so that no batch is forgotten
        while self.finished:
            try:
                self._add(self.finished.popleft())
            except Exception as error:
                log.exception("error after a batch: %s", error, extra={"action": "worker.beside"})

    def _add(self, finished: FinishedBatch) -> None:
        if finished.sent_at:
            self._remember(finished)
        self._inference.cost = self._inference.cost.learn(finished.computed, finished.spent_s)
        report = self._stats.add(finished)
        self.recent.add(report)
        self.observe(report)


def model_record(info: ModelInfo, long_s: Sequence[tuple[int, float]] = ()) -> dict[str, Any]:
    """The fields of the model's record in Redis, written by ready workers. `long_s`: see `measure_long`."""
    return {
        "name": info.name,
        "revision": info.revision,
        "identity": info.identity,
        "labels": "\n".join(info.labels),  # for API processes of 0.2.0
        "label_list": json.dumps(info.labels),
        "multi_label": int(info.multi_label),
        "max_tokens": info.max_tokens,
        "most_tokens": info.windows.most_tokens if info.windows else info.max_tokens,
        "engine": info.engine,
        "precision": info.precision,
        "long_s": json.dumps(long_s),
        "examples": json.dumps(info.examples),
    }
