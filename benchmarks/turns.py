"""A service that takes turns with others: what it answers, and the processor time a text of each process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import uvloop

from batcher.messages import BatchNote, decode_notes
from benchmarks import report
from benchmarks.net import Tally, closed_loop
from benchmarks.service import Service
from benchmarks.worker_time import EVERY_S

# That of the worker is without forward passes.
PROCESSES = ("client", "api", "redis", "worker")


def _batches(running: Service) -> tuple[int, int, Sequence[BatchNote]]:
    """Passes and texts so far, and the last passes."""
    with running.redis() as client:
        (name,) = client.keys("*:worker:*")
        batches, count, recent = client.hmget(name, "batches", "texts", "recent")
    return int(batches), int(count), decode_notes(recent.decode())


class Turns:
    """One service, and what it did in the turns of one load."""

    def __init__(self, running: Service) -> None:
        self.running = running
        self.spent: Counter[str] = Counter()
        self.tallies: list[Tally] = []
        self._texts = 0
        self._before = _batches(running)

    def turn(self, users: int, seconds: float, ask: Callable[[], list[str]]) -> None:
        def counted() -> list[str]:
            texts = ask()
            self._texts += len(texts)
            return texts

        self.spent.subtract(self._used())
        self.tallies.append(uvloop.run(closed_loop(self.running.port, users, seconds, counted)))
        time.sleep(2 * EVERY_S)  # the worker writes down what it used
        self.spent.update(self._used())

    def _used(self) -> dict[str, float]:
        """Processor seconds of each process so far."""
        running = self.running
        used = {"api": running.cpu_s("api"), "redis": running.cpu_s("redis"), "client": time.process_time()}
        return used | {"worker": running.beside_model_s()}

    def figures(self) -> dict[str, Any]:
        after = _batches(self.running)
        # The very last ones found the backlog at its end.
        notes = after[2][:-2]
        latencies_s = [spent for tally in self.tallies for spent in tally.latencies_s]
        return {
            "texts_per_s": fmean(tally.texts_per_s for tally in self.tallies),
            "p50_ms": report.quantile(latencies_s, 0.5) * 1000,
            "p99_ms": report.quantile(latencies_s, 0.99) * 1000,
            "waste": 1 - sum(note.tokens for note in notes) / sum(note.computed for note in notes),
            "batch": (after[1] - self._before[1]) / max(after[0] - self._before[0], 1),
            "statuses": sum((Counter(tally.statuses) for tally in self.tallies), Counter[int]()),
            "turns": [tally.texts_per_s for tally in self.tallies],
            "us_per_text": {name: spent / self._texts * 1e6 for name, spent in self.spent.items()},
        }
