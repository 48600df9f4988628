"""Detects workers that miss their heartbeats, long before their record expires. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.snapshot import WorkerRecord

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
            heard[worker.id] = (
                (last_ms, since) if last_ms == worker.heartbeat_ms else (worker.heartbeat_ms, now)
            )
        self._heard = heard
        silences = [now - heard[worker.id][1] for worker in workers]
        return [round(silence_s, 1) if silence_s >= self._limit_s else 0.0 for silence_s in silences]
