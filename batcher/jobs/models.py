"""Which queues and candidates answer for the models of jobs, as of the start of each attempt.

Attempts share the queues that are open in a process, with their caches; each has its own shadows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from time import monotonic

from batcher.cascades import read_cascade
from batcher.connection.outage import REDIS_ERRORS
from batcher.core.publications import Candidate, Publications, number_of, publication_queue
from batcher.errors import MillraceError, NoWorker, Paused
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import connect_cache
from batcher.lookup.backend import Cache
from batcher.lookup.cascade import CascadeLookup, CascadeModel
from batcher.lookup.queue import LocalCache, Lookup, Models, QueueLookup
from batcher.lookup.share import ShadowedLookup, ShareLookup, Takes
from batcher.publishing.publications import PublicationStore, connect_shards
from batcher.publishing.shadow import ComparisonStore, Pair, Shadow
from batcher.settings import JobSettings

# Jobs collect answers for this long before reading them: it saves round trips, and no caller waits for them.
LINGER_S = 0.02
# How long the end of a job waits for texts that a shadow has yet to compare: less than `forget` waits for
# processes, because these texts are no longer found.
DRAIN_S = 2.0
DRAIN_EVERY_S = 0.05
# How long a queue that no attempt uses stays open for the next one.
UNUSED_S = 10.0


class OpenQueue:
    """A queue and its cache, which attempts at jobs share."""

    def __init__(self, hub: ReplyHub, cache: Cache) -> None:
        self.hub = hub
        self.cache = cache
        self.users = 0
        self.unused_since = monotonic()
        self._starting: asyncio.Task[None] | None = None

    async def start(self, patience_s: float) -> None:
        """Takes part in it; the first one starts it."""
        self.users += 1
        if self._starting is None:
            self._starting = asyncio.create_task(self.hub.start(patience_s))
        await asyncio.shield(self._starting)

    def leave(self) -> None:
        self.users -= 1
        self.unused_since = monotonic()

    async def close(self) -> None:
        if self._starting is not None:
            await self._starting
        await self.hub.stop()
        await self.cache.close()

    @property
    def blocked(self) -> MillraceError | None:
        """Why its texts cannot be classified now, as far as it is known."""
        snapshot = self.hub.snapshot
        if not self.hub.reachable:
            return None
        if not snapshot.workers:
            return NoWorker("no worker runs the model of the job")
        pause = snapshot.pauses.get("bulk")
        if pause is not None and pause.left_s:
            return Paused("an operator has paused the jobs of this model")
        return None


class OpenQueues:
    """The queues that are open in this process, by name. `connect` opens one."""

    def __init__(self, connect: Callable[[str], tuple[ReplyHub, Cache]]) -> None:
        self._connect = connect
        self._open: dict[str, OpenQueue] = {}

    def get(self, name: str) -> OpenQueue:
        """The queue of this name. Needs a running loop."""
        if name not in self._open:
            self._open[name] = OpenQueue(*self._connect(name))
        return self._open[name]

    @property
    def reachable(self) -> bool:
        """Whether the Redis of each queue that is in use is available."""
        return all(one.hub.reachable for one in list(self._open.values()) if one.users)

    async def close(self, unused_s: float = 0.0) -> None:
        """Closes those that have not been in use for so long."""
        for name, one in list(self._open.items()):
            if not one.users and monotonic() >= one.unused_since + unused_s:
                del self._open[name]
                await one.close()


class _NoLimits:
    """Jobs have their own limit of texts in flight, and their texts go after those of requests."""

    def accepts(self, client: str, texts: int) -> bool:
        return True

    def hold(self, client: str, texts: int) -> bool:
        return False

    def release(self, client: str, texts: int) -> None:
        return


def takes(setting: Candidate, account: str) -> Takes:
    """Whether a text is in the share, for jobs of a client by its account."""
    if setting.by == "text":
        return setting.takes
    # A job without an account was submitted by no client that a request could have.
    taken = setting.chooses(int(account, 16)) if account else False
    return lambda text, client: taken


class JobModels:
    """The queues and candidates of all models, of which each attempt uses some.

    Call `read` before, and again once a second.
    """

    def __init__(self, settings: JobSettings) -> None:
        shards = settings.queue_shards
        self.settings = settings
        self._clients = connect_shards(shards, timeout_s=2.0)
        self._store = PublicationStore(self._clients, shards)
        self._comparisons = ComparisonStore(self._clients[0], settings.name)
        self.publications: Publications
        self.queues = OpenQueues(self._connect)

    async def close(self) -> None:
        """Only once no attempt is connected."""
        await self.queues.close()
        for client in self._clients:
            client.close()

    def read(self) -> None:
        """Reads what answers for each model by now. Blocking. Raises Redis errors."""
        self.publications = self._store.read()

    def _connect(self, queue: str) -> tuple[ReplyHub, Cache]:
        own = self.settings.for_model(queue)
        return ReplyHub.connect(own, linger_s=LINGER_S), connect_cache(own)

    async def report(self, pair: Pair, shadow: str, number: int, counts: Counter[str]) -> bool:
        """Adds what a shadow has counted; returns whether it could."""
        try:
            await asyncio.to_thread(self._comparisons.add, pair, shadow, number, counts)
        except REDIS_ERRORS:
            return False
        return True


@dataclass(eq=False)
class Connection:
    """What one attempt asks: a `lookup` for a model, or for a cascade, as jobs keep it.

    `account` is that of the client that submitted the job, and `stop` says whether the attempt has to end
    soon; otherwise its end waits for its shadows. Results are not kept in this process. Needs a running loop.
    """

    _models: JobModels
    model: InitVar[str]
    _account: str = ""
    _stop: Callable[[], bool] = lambda: False

    def __post_init__(self, model: str) -> None:
        self._answering: list[OpenQueue] = []
        self._comparing: list[OpenQueue] = []
        self._shadows: list[Shadow] = []
        # The queue that answers for each model, and the candidate beside it.
        self._chosen: dict[str, tuple[str, Candidate | None]] = {}
        self._cascade: CascadeModel | None = None
        self.lookup = self._of(model)

    def should_stop(self) -> bool:
        """Whether the attempt must end: another then continues with the current queues and candidates.

        It must if a candidate has changed, or workers no longer serve a revision.
        """
        publications = self._models.publications
        return self._stop() or any(
            not _holds(publications, model, *one) for model, one in self._chosen.items()
        )

    @property
    def moved(self) -> bool:
        """Whether an attempt that begins now would ask others."""
        now = self._models.publications
        return any(
            one != (now.queue(model), now.candidates.get(model)) for model, one in self._chosen.items()
        )

    @property
    def blocked(self) -> MillraceError | None:
        """Why the job cannot go on now, as far as it is known; None if it can."""
        why = next((why for one in self._answering if (why := one.blocked) is not None), None)
        return self._cascade.mismatch() if why is None and self._cascade is not None else why

    async def start(self, patience_s: float) -> None:
        await asyncio.gather(*(one.start(patience_s) for one in (*self._answering, *self._comparing)))

    async def stop(self) -> None:
        for shadow in self._shadows:
            await self._drain(shadow)
            await shadow.stop()
        for one in (*self._answering, *self._comparing):
            one.leave()

    async def _drain(self, shadow: Shadow) -> None:
        until = monotonic() + DRAIN_S
        while not (shadow.idle or monotonic() > until):
            if self.should_stop():
                return
            await asyncio.sleep(DRAIN_EVERY_S)

    def _of(self, model: str) -> Lookup:
        if (cascade := read_cascade(model)) is None:
            return self._of_model(model)
        members = self._of_model(cascade.fast), self._of_model(cascade.sure)
        self._cascade = CascadeModel(cascade, *(member.models for member in members))
        return CascadeLookup(cascade, lambda: members, Models(self._cascade))

    def _of_model(self, model: str) -> Lookup:
        publications, opened = self._models.publications, self._models.queues
        queue = publications.queue(model)
        setting = publications.candidates.get(model)
        self._chosen[model] = queue, setting
        current = self._in(opened.get(queue))
        if setting is None:
            return current
        candidate = opened.get(publication_queue(model, setting.number))
        taken = takes(setting, self._account if setting.by == "client" else "")
        if not setting.shadow:
            return ShareLookup(current, self._in(candidate), taken)
        pair = model, number_of(queue), setting.number
        shadow = Shadow(candidate.hub, self._models.report, pair)
        self._comparing.append(candidate)
        self._shadows.append(shadow)
        return ShadowedLookup(current, shadow.offer, taken)

    def _in(self, opened: OpenQueue) -> QueueLookup:
        """The lookup in a queue and its cache."""
        self._answering.append(opened)
        keeps_refused = self._models.settings.keep_refused_texts
        return QueueLookup(opened.hub, opened.cache, LocalCache(0, 0), _NoLimits(), 0.0, keeps_refused)


def _holds(publications: Publications, model: str, queue: str, candidate: Candidate | None) -> bool:
    """Whether workers still serve a queue, and the candidate has not changed."""
    served = {publication_queue(model, number) for number in (0, *publications.of(model).references)}
    return queue in served and publications.candidates.get(model) == candidate
