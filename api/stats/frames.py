"""The parts of a frame as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any

from batcher.core.holds import Pause, in_force
from batcher.core.snapshot import ModelRecord, Snapshot, WorkerRecord


def model_facts(model: ModelRecord | None) -> dict[str, Any] | None:
    if model is None:
        return None
    return asdict(model) | {"revision": model.revision[:12]}


def lanes_facts(snapshot: Snapshot) -> dict[str, Any]:
    lanes = {"interactive": snapshot.interactive, "bulk": snapshot.bulk}
    return {
        name: {"entries": lane.entries, "cost": lane.cost, "oldest_s": lane.oldest_ms / 1000}
        for name, lane in lanes.items()
    }


def shard_facts(up: Sequence[bool]) -> dict[str, Any]:
    """How many shards there are and are available, and the numbers of the others."""
    down = [number for number, one in enumerate(up) if not one]
    return {"count": len(up), "up": sum(up), "down": down}


def pause_facts(pauses: Mapping[str, Pause]) -> dict[str, Any]:
    """The pauses of lanes that have not ended."""
    return {
        lane: {"waiting": pause.waiting, "left_s": round(pause.left_s, 1)}
        for lane, pause in in_force(pauses).items()
    }


_OF_WORKER = ("id", "engine", "precision", "arithmetic", "fallback", "state", "rate", "batches", "texts")


def worker_facts(worker: WorkerRecord, now_ms: float, silence_s: float) -> dict[str, Any]:
    """`recent` lists batches: number, size, tokens, computed tokens, reason, longest wait, duration in ms."""
    return {
        **{name: getattr(worker, name) for name in _OF_WORKER},
        "revision": worker.revision[:12],
        "silent_s": silence_s,
        "age_s": round(max(now_ms - worker.started_ms, 0.0) / 1000),
        "recent": [astuple(note) for note in worker.recent],
    }


# An idle worker has two heartbeats per lease; it is silent once both are missing.
SILENT_LEASES = 0.9


class Silences:
    """For how long each worker has been silent, by this process's clock: hosts may differ in theirs."""

    def __init__(self, lease_s: float) -> None:
        self._limit_s = lease_s * SILENT_LEASES
        self._heard: dict[str, tuple[int, float]] = {}

    def take(self, workers: Sequence[WorkerRecord], now: float) -> list[float]:
        """The silence of each worker in seconds, 0.0 if it is within the limit.

        `now` is when the records were read, in seconds of a monotonic clock.
        """
        heard = {}
        for worker in workers:
            last_ms, since = self._heard.get(worker.id, (-1, now))
            heard[worker.id] = worker.heartbeat_ms, since if last_ms == worker.heartbeat_ms else now
        self._heard = heard
        silences = [now - heard[worker.id][1] for worker in workers]
        return [round(silence_s, 1) if silence_s >= self._limit_s else 0.0 for silence_s in silences]
