"""The async interface to what `batcher.admin` does, with an audit line for every change.

A shard that is down is named, and stops no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

from starlette.requests import Request

from api.asgi.http import client_address, headers_of
from api.errors import Problem
from api.jobs.service import JobBackend
from api.settings import ApiSettings
from batcher.admin.console import Answers, AuditLog, MinuteHistory, PreparingStore, SessionStore
from batcher.admin.forget import CachedResults, Forgetting
from batcher.admin.job_eraser import JobEraser
from batcher.admin.refused import RefusedTexts
from batcher.admin.usage import UsageStore
from batcher.connection.clients import Redis, connect
from batcher.connection.outage import NO_ANSWER, REDIS_ERRORS, reason, refused, refused_to_all
from batcher.core.holds import ClientHolds
from batcher.errors import MillraceError, QueueUnavailable
from batcher.publishing.publications import PublicationStore, connect_shards
from batcher.publishing.shadow import ComparisonStore
from batcher.shards import Shard

log = logging.getLogger(__name__)

THREADS = 2
TIMEOUT_S = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Replies(Generic[T]):
    """The replies of the shards that have answered, in their order, and the numbers of the others."""

    found: Sequence[T]
    down: Sequence[int]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What an answer of the console says about the others."""
        return missing(self.down)


def missing(down: Sequence[int]) -> Mapping[str, Any]:
    """The fields of an answer of the console about shards that are down: none if all are up."""
    return {"shards_down": list(down)} if down else {}


async def gather(asked: Mapping[int, Awaitable[T]], down: Iterable[int] = ()) -> Replies[T]:
    """Waits for the replies of shards, by their number. Those that are `down` were not asked.

    Raises Problem if Redis refuses the command, and QueueUnavailable if no shard answers.
    """
    found = list[T]()
    lost = set(down)
    replies = await asyncio.gather(*asked.values(), return_exceptions=True)
    for number, reply in zip(asked, replies, strict=True):
        if isinstance(reply, REDIS_ERRORS):
            if refused(reply):
                raise not_allowed(reply)
            lost.add(number)
        elif isinstance(reply, BaseException):
            raise reply
        else:
            found.append(reply)
    if not found:
        raise no_answer()
    return Replies(found, sorted(lost))


def not_allowed(error: BaseException) -> Problem:
    """The problem of a command that Redis has refused."""
    if why := refused_to_all(error):
        return Problem(503, why, code="redis_unavailable")
    detail = f"Redis refuses this to the user of the API: {reason(error)}"
    return Problem(503, detail, code="redis_refused")


def no_answer(detail: str = NO_ANSWER) -> QueueUnavailable:
    """The error of a command that Redis has not answered."""
    return QueueUnavailable(detail, retry_after_s=1.0)


class ShardStore:
    """What each shard keeps about its texts, and the holds of clients, which all of them keep."""

    def __init__(self, queue: Redis, number: int, settings: ApiSettings) -> None:
        def shard(model: str) -> Shard:
            return settings.for_model(model).queue_shards[number]

        name = shard("").name
        cached = None
        if settings.cache_here:
            cached = CachedResults(queue, lambda model: shard(model).cache_name)
        self.holds = ClientHolds(queue, name)
        usage = UsageStore(queue, name, settings.usage_days)
        self.forgetting = Forgetting(queue, lambda model: shard(model).name, cached, usage)
        # Those of the queue of a model, by its name.
        self.answers: Callable[[str], Answers] = lambda model: Answers(queue, shard(model).name)
        self.refused: Callable[[str], RefusedTexts] = lambda model: RefusedTexts(queue, shard(model).name)


class ConsoleStores:
    """What the console reads and changes in Redis, synchronously. `queues` are clients of all shards.

    All but `shards` is kept at the first shard, `jobs` and `cached` elsewhere: `cached` is None without a
    `cache`, the client of the cache if it has its own Redis, because results are cached beside their shards.
    """

    def __init__(
        self, queues: Sequence[Redis], jobs: JobBackend, settings: ApiSettings, cache: Redis | None = None
    ) -> None:
        queue = queues[0]
        name = settings.name
        self.audit = AuditLog(queue, name)
        self.usage = UsageStore(queue, name, settings.usage_days, jobs.store)
        self.minutes = MinuteHistory(queue, name)
        self.publications = PublicationStore(queues, settings.queue_shards)
        self.preparing = PreparingStore(queue, name)
        self.comparisons = ComparisonStore(queue, name)
        self.sessions = SessionStore(queue, name)
        self.jobs = JobEraser(jobs.store.client, name, jobs.store, jobs.queue.forget)
        self.cached = None
        if cache is not None:
            self.cached = CachedResults(cache, lambda model: settings.for_model(model).name)
        self.shards = [ShardStore(queue, number, settings) for number, queue in enumerate(queues)]

    @classmethod
    def connect(cls, jobs: JobBackend, settings: ApiSettings) -> Self:
        """Creates separate clients, which connect when they are first used."""
        shards = settings.queue_shards
        cache = None
        if not settings.cache_here:
            cache = connect(settings.cache_address(shards[0]), timeout_s=TIMEOUT_S, retries=1)
        return cls(connect_shards(shards, timeout_s=TIMEOUT_S), jobs, settings, cache)


class Console:
    """Runs `stores` in separate threads, so that a slow walk over Redis delays no job.

    Each shard has its own threads, so that one that hangs delays no other.
    """

    def __init__(self, stores: ConsoleStores, shards_up: Callable[[], Sequence[bool]]) -> None:
        self.stores = stores
        # Whether each shard answers, as far as is known. One that does not is not asked.
        self.shards_up = shards_up
        self._stopped = False
        self._threads = [
            ThreadPoolExecutor(THREADS, thread_name_prefix=f"console-{number}")
            for number in range(len(stores.shards))
        ]

    def stop(self) -> None:
        """Lets all later calls raise QueueUnavailable: a sweep may come between this and the end."""
        self._stopped = True
        for threads in self._threads:
            threads.shutdown(wait=False)

    @property
    def shards_down(self) -> Sequence[int]:
        """The numbers of the shards that do not answer. Empty with a single one, whose error shows it."""
        down = [number for number, up in enumerate(self.shards_up()) if not up]
        return down if len(self.stores.shards) > 1 else []

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Calls a function of a store at the first shard.

        Raises QueueUnavailable, and Problem if Redis refuses the command.
        """
        return await self._run(self._kept_there(), function, *args)

    async def attempt(self, function: Callable[..., object], *args: object) -> bool:
        """Calls as `call` does, and returns whether Redis has done it."""
        try:
            await self.call(function, *args)
        except (MillraceError, Problem):
            return False
        return True

    async def call_elsewhere(self, function: Callable[..., T], *args: object) -> T:
        """Calls a function of `stores` that uses another Redis than the queue's. Raises as `call` does."""
        return await self._run(NO_ANSWER, function, *args)

    async def each(self, function: Callable[[ShardStore], T]) -> Replies[T]:
        """Calls a function with the stores of every shard that is up. Raises as `gather` does."""
        down = self.shards_down
        run = asyncio.get_running_loop().run_in_executor
        if self._stopped:
            raise no_answer()
        parts = zip(self._threads, self.stores.shards, strict=True)
        asked = {
            number: run(threads, function, shard)
            for number, (threads, shard) in enumerate(parts)
            if number not in down
        }
        return await gather(asked, down)

    async def _run(self, problem: str, function: Callable[..., T], *args: object) -> T:
        if self._stopped:
            raise no_answer(problem)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads[0], function, *args)
        except REDIS_ERRORS as error:
            raise not_allowed(error) if refused(error) else no_answer(problem) from error

    def _kept_there(self) -> str:
        if (count := len(self.stores.shards)) == 1:
            return NO_ANSWER
        return f"the Redis of shard 0 of {count}, which keeps this for all shards, does not answer"

    async def record(self, request: Request, action: str, **facts: Any) -> None:
        """Writes the audit line of a change, to the log and to Redis. It must not contain a text."""
        headers = headers_of(request)
        line = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "operator": headers.client_name,
            "address": client_address(headers.scope),
            "action": action,
            **facts,
        }
        log.warning("an operator changed something", extra={**line, "action": f"admin.{action}"})
        await self.attempt(self.stores.audit.add, line)
