"""Protocols for the queue of a model and its cache. Tests have fakes of them."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from batcher.core.commands import Command
from batcher.core.holds import Pause
from batcher.core.redis_watch import RedisWatch
from batcher.core.snapshot import Snapshot, WorkerRecord
from batcher.errors import MillraceError
from batcher.hub.pending import HubCounts
from batcher.messages import Lane, Outcome, Prediction

Reply = TypeVar("Reply")


class Runs(Protocol):
    """Runs the commands of one shard: `batcher.connection.pipeline.Pipeline`."""

    def run(self, command: Command[Reply]) -> Future[Reply]: ...


class Commands(Runs, Protocol):
    """Implemented by `batcher.hub.hub.ConsoleCommands`, and by a fake in tests."""

    @property
    def parts(self) -> Sequence[Runs]: ...
    def send_to_all(self, command: Command[Any]) -> None: ...


class Source(Protocol):
    """Where the model of a queue, or of several as one, is published."""

    @property
    def snapshot(self) -> Snapshot: ...


class Queue(Source, Protocol):
    """The state of a model's queue, or of those of a cascade."""

    @property
    def reachable(self) -> bool: ...
    @property
    def trouble(self) -> str: ...


class Hub(Queue, Protocol):
    """Implemented by `batcher.hub.hub.ReplyHub`, and by a fake in tests."""

    snapshot: Snapshot
    asked_at: float
    on_sweep: Callable[[], None]

    @property
    def counts(self) -> HubCounts: ...
    @property
    def redis_watch(self) -> RedisWatch: ...
    @property
    def outages(self) -> int: ...
    @property
    def shards_up(self) -> Sequence[bool]: ...
    @property
    def alive(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    @property
    def looks(self) -> bool: ...
    @property
    def console(self) -> Commands: ...
    async def start(self) -> None: ...
    async def stop(self, why: MillraceError = ...) -> None: ...
    async def look(self) -> None: ...
    def pause(self, decided: Mapping[str, Pause]) -> None: ...
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
        only: str = ...,
    ) -> list[Outcome]: ...


class Cache(Protocol):
    """Implemented by `batcher.hub.shared_cache.SharedCache`, by `ShardedCache`, and by a fake in tests."""

    @property
    def outages(self) -> int: ...
    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]: ...
    async def close(self) -> None: ...
