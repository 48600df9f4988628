"""Protocols for the hub and the shared cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from batcher.core.eviction import EvictionWatch
from batcher.core.outage import Outage
from batcher.core.snapshot import Snapshot, WorkerRecord
from batcher.hub.counts import HubCounts
from batcher.messages import Lane, Outcome, Prediction


class Hub(Protocol):
    """Implemented by `batcher.hub.hub.ReplyHub`, and by a fake in tests."""

    snapshot: Snapshot
    counts: HubCounts
    outage: Outage
    eviction: EvictionWatch

    @property
    def alive(self) -> bool: ...
    @property
    def reachable(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    @property
    def looks(self) -> bool: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def workers(self) -> tuple[WorkerRecord, ...]: ...
    async def classify(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        budget_s: float,
        lane: Lane = ...,
        trace: str = ...,
        first: bool = ...,
        revision: str = ...,
    ) -> list[Outcome]: ...


class Cache(Protocol):
    """Implemented by `batcher.hub.shared_cache.SharedCache`, and by a fake in tests."""

    outage: Outage

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]: ...
    async def close(self) -> None: ...
