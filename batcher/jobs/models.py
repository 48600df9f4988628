"""Which queues and candidates answer for the models of jobs, as of the start of each attempt."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from secrets import token_hex

from batcher.cascades import read_cascade
from batcher.connection.clients import connect_shards
from batcher.connection.outage import REDIS_ERRORS
from batcher.core.publications import Candidate, Publications, number_of, publication_queue
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import connect_cache
from batcher.jobs.queues import Cache, OpenQueues, Queues
from batcher.lookup.cascade import CascadeLookup, CascadeModel
from batcher.lookup.queue import Lookup, Models
from batcher.lookup.share import ShadowedLookup, ShareLookup, Takes
from batcher.publishing.publications import PublicationStore
from batcher.publishing.shadow import ComparisonStore
from batcher.settings import JobSettings

# Jobs collect answers for this long before reading them: it saves round trips, and no caller waits for them.
LINGER_S = 0.02


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

    async def report(
        self, pair: tuple[str, int, int], shadow: str, number: int, counts: Counter[str]
    ) -> bool:
        """Adds what a shadow has counted; returns whether it could."""
        try:
            await asyncio.to_thread(self._comparisons.add, pair, shadow, number, counts)
        except REDIS_ERRORS:
            return False
        return True


class Connection:
    """What one attempt asks: a `lookup` for a model, or for a cascade, as jobs keep it, and its `queues`.

    `account` is that of the client that submitted the job, and `stop` says whether the attempt has to end
    soon. Needs a running loop.
    """

    def __init__(
        self,
        models: JobModels,
        model: str,
        account: str = "",
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.queues = Queues(models.settings.keep_refused_texts, self.should_stop)
        self._models = models
        self._account = account
        self._stop = stop
        # The queue that answers for each model, and the candidate beside it.
        self._chosen: dict[str, tuple[str, Candidate | None]] = {}
        self.lookup = self._of(model)

    def should_stop(self) -> bool:
        """Whether the attempt must end: another then continues with the current queues and candidates.

        It must if a candidate has changed, or workers no longer serve a revision.
        """
        publications = self._models.publications
        return self._stop() or any(
            not _holds(publications, model, *one) for model, one in self._chosen.items()
        )

    def _of(self, model: str) -> Lookup:
        if (cascade := read_cascade(model)) is None:
            return self._of_model(model)
        members = self._of_model(cascade.fast), self._of_model(cascade.sure)
        models = Models(CascadeModel(cascade, *(member.models for member in members)))
        return CascadeLookup(cascade, lambda: members, models)

    def _of_model(self, model: str) -> Lookup:
        publications, opened = self._models.publications, self._models.queues
        queue = publications.queue(model)
        setting = publications.candidates.get(model)
        self._chosen[model] = queue, setting
        current = self.queues.add(opened.get(queue))
        if setting is None:
            return current
        candidate = opened.get(publication_queue(model, setting.number))
        taken = takes(setting, self._account if setting.by == "client" else "")
        if setting.shadow:
            report = partial(self._models.report, (model, number_of(queue), setting.number), token_hex(8))
            return ShadowedLookup(current, self.queues.add_shadow(candidate, report).offer, taken)
        return ShareLookup(current, self.queues.add(candidate), taken)


def _holds(publications: Publications, model: str, queue: str, candidate: Candidate | None) -> bool:
    """Whether workers still serve a queue, and the candidate has not changed."""
    served = {publication_queue(model, number) for number in (0, *publications.of(model).references)}
    return queue in served and publications.candidates.get(model) == candidate
