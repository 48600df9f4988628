"""Counts what each client sends, and publishes it every few seconds: usage of each day, and current rates.

Everything is counted in this process. One command in FLUSH_S adds it up in Redis, for all texts together.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import add, attrgetter
from threading import Lock
from time import monotonic

from api.errors import Problem
from api.keys import key_name
from api.lifecycle import Lifecycle
from api.settings import ApiSettings
from batcher.connection.outage import REDIS_ERRORS
from batcher.core.commands import COUNTS, AddUsage, UsageRow
from batcher.errors import QueueUnavailable
from batcher.jobs.records import JobRecord, Used
from batcher.lookup.backend import Hub
from batcher.version import process_name

log = logging.getLogger(__name__)

FLUSH_S = 5.0
# The most clients that are counted separately between two flushes, and that are published.
MAX_CLIENTS = 10_000
MAX_SHOWN = 50
# The name under which requests without a key are counted.
NO_KEY = "-"


@dataclass(slots=True)
class Counts:
    """What one client has sent since the last flush."""

    texts: int = 0
    tokens: int = 0
    requests: int = 0
    hits: int = 0
    errors: int = 0
    refused: int = 0

    def add(self, texts: int, hits: int, tokens: int, status: int) -> None:
        """Adds a request."""
        self.requests += 1
        self.texts += texts
        if status < 400:
            self.hits += hits
            self.tokens += tokens
        else:
            self.errors += 1
            self.refused += status in (429, 503)


# What is kept of each day.
_of_day = attrgetter(*COUNTS)
_NOTHING = (0,) * len(COUNTS)


class QuotaExceeded(Problem):
    """A key has fewer texts left than a request has."""


@dataclass(eq=False)
class Traffic:
    """The counters of one process. `waiting` has the texts of each client that wait now.

    `jobs_used` returns what jobs of keys use today.
    """

    settings: ApiSettings
    hub: Hub
    waiting: Mapping[str, int]
    jobs_used: Callable[[Sequence[str]], Awaitable[Used]] | None = None

    def __post_init__(self) -> None:
        self._quotas = self.settings.quotas
        self.has_quotas = bool(self._quotas)
        self._api = process_name()
        self._clients: dict[str, Counts] = {}
        self._flushed_at = monotonic()
        self._shown = False
        # The texts of today by key name, as of the last flush, and their day.
        self._today: dict[str, int] = {}
        self._day = ""
        # What jobs used as of the last flush, and the jobs of this process since, by the names of their keys.
        self._of_jobs = Used(0, {})
        self._new_jobs: list[tuple[str, JobRecord]] = []
        # The texts of what was let in and is not counted yet, by key name. Threads read those of jobs.
        self._reserved: Counter[str] = Counter()
        self._lock = Lock()
        self._number = 0
        self._unsent: AddUsage | None = None

    def count(self, client: str, texts: int, hits: int, tokens: int, status: int) -> None:
        """Counts a request of a client. A hit is a text that a cache knew."""
        counts = self._clients.get(client)
        if counts is None:
            if len(self._clients) >= MAX_CLIENTS:
                client = ""
            counts = self._clients.setdefault(client, Counts())
        counts.add(texts, hits, tokens, status)

    def count_job(self, client: str, record: JobRecord) -> None:
        """Counts a new job. Its texts are usage once they have results, but count for a quota at once."""
        self.count(client, 0, 0, 0, 202)
        name = key_name(client)
        if name in self._quotas and record.created_us > self._of_jobs.at_us:
            self._new_jobs.append((name, record))

    def reserve(self, client: str, texts: int, reserved: int = 0) -> int:
        """Lets a request or job in, whose texts count for the quota of its key until they are released.

        `reserved` of them are already. Returns how many are to be released. Raises as `check_quota`.
        """
        if (name := key_name(client)) not in self._quotas:
            return 0
        with self._lock:
            self.check_quota(client, texts, reserved)
            self._reserved[name] += texts - reserved
        return texts

    def release(self, client: str, texts: int) -> None:
        """These texts have been counted, or will not be."""
        if texts:
            with self._lock:
                self._reserved[key_name(client)] -= texts

    def check_quota(self, client: str, texts: int = 1, reserved: int = 0) -> None:
        """Raises Problem 429 `quota_exceeded` if a key has fewer texts left until midnight (UTC).

        `reserved` of them have been already.
        """
        name = key_name(client)
        quota = self._quotas.get(name)
        if quota is None:
            return
        now = datetime.now(UTC)
        day = f"{now:%F}"
        counts, unsent = self._clients.get(client), self._unsent
        used = (counts.texts if counts else 0) + self._reserved[name] - reserved
        used += sum([job.total for own, job in self._new_jobs if own == name])
        if unsent is not None:
            used += sum([row.texts for row in unsent.rows if (row.name, row.day) == (name, day)])
        if self._day == day:
            used += self._today.get(name, 0) + self._of_jobs.texts.get(name, 0)
        if used + texts > quota:
            ends = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
            detail = f"{used} of {quota} texts of this day are used; the next day begins at {ends:%FT%TZ}"
            if used < quota:
                detail = f"more than {quota - used} texts, and {detail}: send fewer"
            wait_s = (ends - now).total_seconds()
            raise QuotaExceeded(429, detail, code="quota_exceeded", retry_after_s=wait_s)

    @contextlib.asynccontextmanager
    async def running(self, lifecycle: Lifecycle) -> AsyncIterator[None]:
        """Flushes every FLUSH_S while it is open, and once more when it closes."""
        try:
            async with lifecycle.running(self._run(), "traffic"):
                yield
        finally:
            await self.flush()

    async def _run(self) -> None:
        while True:
            try:
                await self.flush()
            except Exception:
                log.exception("could not add up the usage", extra={"action": "usage.lost"})
            await asyncio.sleep(FLUSH_S)

    async def flush(self) -> None:
        """Adds what was counted to Redis. What Redis does not take is sent again later, under its number."""
        if not self.hub.reachable:
            return
        await self._look_at_jobs()
        command = self._unsent or self._next()
        if command is None:
            return
        self._unsent = command
        with contextlib.suppress(*REDIS_ERRORS):
            texts = await self.hub.console.run(command)
            self._unsent = None
            self._day = f"{datetime.now(UTC):%F}"
            rows = zip(command.rows, texts, strict=True)
            self._today = {row.name: total for row, total in rows if row.day == self._day}

    async def _look_at_jobs(self) -> None:
        """Learns what the jobs of keys with a quota use, unless their Redis does not answer."""
        if self.jobs_used is None or not self._quotas:
            return
        with contextlib.suppress(QueueUnavailable):
            used = await self.jobs_used(list(self._quotas))
            with self._lock:
                self._of_jobs = used
                self._new_jobs = [new for new in self._new_jobs if new[1].created_us > used.at_us]

    def _next(self) -> AddUsage | None:
        clients = self._clients
        self._clients = {}
        now = monotonic()
        shown = self._rates(clients, max(now - self._flushed_at, 0.1))
        self._flushed_at = now
        totals = dict.fromkeys(self._quotas, _NOTHING)
        for client, counts in clients.items():
            name = key_name(client) or NO_KEY
            totals[name] = tuple(map(add, totals.get(name, _NOTHING), _of_day(counts)))
        if not totals and not shown and not self._shown:
            return None
        self._shown = bool(shown)
        self._number += 1
        day = f"{datetime.now(UTC):%F}"
        rows = [UsageRow(name, day, *total) for name, total in totals.items()]
        encoded = json.dumps(shown, separators=(",", ":"))
        return AddUsage(self._api, self._number, encoded, self.settings.usage_days * 86_400_000, rows)

    def _rates(self, clients: Mapping[str, Counts], seconds: float) -> Mapping[str, Mapping[str, float]]:
        """The rates per second of the clients with the most texts."""
        texts = Counter(self.waiting)
        for client, counts in clients.items():
            texts[client] += counts.texts + counts.requests
        return {
            client: _rate(clients.get(client, Counts()), self.waiting.get(client, 0), seconds)
            for client, _ in texts.most_common(MAX_SHOWN)
        }


def _rate(counts: Counts, waiting: int, seconds: float) -> Mapping[str, float]:
    names = ("texts", "requests", "hits", "refused")
    return {"waiting": waiting, **{f"{name}_s": round(getattr(counts, name) / seconds, 1) for name in names}}
