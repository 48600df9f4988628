"""Protocols for the hub and the shared cache."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from batcher.core.commands import Command
from batcher.core.redis_watch import RedisWatch
from batcher.core.snapshot import Snapshot, WorkerRecord
from batcher.hub.dispatcher import HubCounts
from batcher.lookup import queue

Reply = TypeVar("Reply")


class Runs(Protocol):
    """Runs the commands of one shard: `batcher.connection.pipeline.Pipeline`."""

    def run(self, command: Command[Reply]) -> Future[Reply]: ...


class Commands(Protocol):
    """Implemented by `batcher.hub.hub.ConsoleCommands`, and by a fake in tests."""

    @property
    def parts(self) -> Sequence[Runs]: ...
    def run(self, command: Command[Reply]) -> Future[Reply]: ...
    def send(self, command: Command[Any]) -> None: ...
    def send_to_all(self, command: Command[Any]) -> None: ...


class Queue(queue.Source, Protocol):
    """The state of a model's queue, or of those of a cascade."""

    @property
    def reachable(self) -> bool: ...
    @property
    def trouble(self) -> str: ...


class Hub(Queue, queue.Hub, Protocol):
    """Implemented by `batcher.hub.hub.ReplyHub`, and by a fake in tests."""

    snapshot: Snapshot
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
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    @property
    def console(self) -> Commands: ...
    async def workers(self) -> tuple[WorkerRecord, ...]: ...


class Cache(queue.Cache, Protocol):
    """Implemented by `batcher.hub.shared_cache.SharedCache`, by `ShardedCache`, and by a fake in tests."""

    @property
    def outages(self) -> int: ...
    async def close(self) -> None: ...
