"""The async interface to what `batcher.admin` does, with an audit line for every change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from starlette.requests import Request

from api.asgi.http import RequestHeaders, client_address
from api.errors import Problem
from api.jobs.service import JobService
from api.settings import ApiSettings
from batcher.admin.answers import Answers
from batcher.admin.audit import AuditLog
from batcher.admin.comparisons import ComparisonBooks
from batcher.admin.forget import Forgetting
from batcher.admin.history import MinuteHistory
from batcher.admin.holds import ClientHolds
from batcher.admin.refused import RefusedTexts
from batcher.admin.revisions import RevisionBooks
from batcher.admin.usage import UsageBooks
from batcher.core.connection import Redis, connect
from batcher.core.outage import REDIS_ERRORS, reason, refused
from batcher.errors import QueueUnavailable

log = logging.getLogger(__name__)

THREADS = 2
TIMEOUT_S = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Books:
    """What the console reads and changes in Redis, synchronously."""

    audit: AuditLog
    refused: RefusedTexts
    forgetting: Forgetting
    usage: UsageBooks
    holds: ClientHolds
    minutes: MinuteHistory
    answers: Answers
    revisions: RevisionBooks
    comparisons: ComparisonBooks

    @classmethod
    def of(
        cls,
        queue: Redis,
        cache: Redis,
        jobs: JobService,
        settings: ApiSettings,
        shards: Sequence[tuple[Redis, str]] = (),
    ) -> Self:
        """`shards` are the clients of all shards, with the names of their keys, if there are several."""
        usage = UsageBooks(queue, settings.name, settings.usage_days)
        forgetting = Forgetting(queue, cache, jobs.eraser(settings.name), settings.name, usage)
        name = settings.name
        return cls(
            AuditLog(queue, name),
            RefusedTexts(queue, name),
            forgetting,
            usage,
            ClientHolds(queue, name),
            MinuteHistory(queue, name),
            Answers(queue, name),
            RevisionBooks(shards or [(queue, name)]),
            ComparisonBooks(queue, name),
        )


class Console:
    """Runs `books` in separate threads, so that a slow walk over Redis delays no job."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="console")

    @classmethod
    def connect(cls, settings: ApiSettings, jobs: JobService) -> Console:
        """A console with separate clients, which connect when they are first used."""
        shards = settings.queue_shards
        clients = [connect(one.url, timeout_s=TIMEOUT_S, retries=1, key=one.prefix) for one in shards]
        queue, shard = clients[0], shards[0]
        cache = queue
        if not settings.cache_here:
            cache = connect(settings.cache_address(shard), timeout_s=TIMEOUT_S, retries=1, key=shard.prefix)
        named = [(client, one.name) for client, one in zip(clients, shards, strict=True)]
        return cls(Books.of(queue, cache, jobs, settings, named))

    def stop(self) -> None:
        self._threads.shutdown(wait=False)

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Calls a function of `books`. Raises QueueUnavailable, and Problem if Redis refuses the command."""
        return await self.ask(asyncio.get_running_loop().run_in_executor(self._threads, function, *args))

    async def ask(self, reply: Awaitable[T]) -> T:
        """The reply of a command. Raises as `call` does."""
        try:
            return await reply
        except REDIS_ERRORS as error:
            if refused(error):
                detail = f"Redis refuses this to the user of the API: {reason(error)}"
                raise Problem(503, detail, code="redis_refused") from error
            raise QueueUnavailable("Redis does not answer", retry_after_s=1.0) from error

    async def record(self, request: Request, action: str, **facts: Any) -> None:
        """Writes the audit line of a change, to the log and to Redis. It must not contain a text."""
        headers: RequestHeaders = request.scope["state"]["headers"]
        line = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "operator": headers.client_name,
            "address": client_address(headers.scope),
            "action": action,
            **facts,
        }
        log.warning("an operator changed something", extra={**line, "action": f"admin.{action}"})
        with contextlib.suppress(QueueUnavailable, Problem):
            await self.call(self.books.audit.add, line)
