"""Which queues and candidates answer for the models of a job, as of the start of its attempt."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial
from secrets import token_hex
from time import monotonic

from batcher.cascades import read_cascade
from batcher.connection.clients import connect_shards
from batcher.connection.outage import REDIS_ERRORS
from batcher.core.publications import Candidate, Publications, number_of, publication_queue
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import connect_cache
from batcher.jobs.queues import Cache, Hub, Queues
from batcher.lookup.cascade import CascadeLookup, CascadeModel
from batcher.lookup.queue import Lookup, Models
from batcher.lookup.shadow import ShadowedLookup
from batcher.lookup.share import ShareLookup, Takes
from batcher.publishing.comparisons import ComparisonStore
from batcher.publishing.publications import PublicationStore
from batcher.settings import JobSettings

# Jobs collect answers for this long before reading them: it saves round trips, and no caller waits for them.
LINGER_S = 0.02
LOOK_S = 1.0


def takes(setting: Candidate, account: str) -> Takes:
    """Whether a text is in the share, for jobs of a client by its account."""
    if setting.by == "text":
        return setting.takes
    # A job without an account was submitted by no client that a request could have.
    taken = setting.chooses(int(account, 16)) if account else False
    return lambda text, client: taken


class JobModels:
    """Connects an attempt to the queues and candidates of its models, and notices when these change.

    `account` is that of the client that submitted the job, and `stop` says whether the process must end.
    """

    def __init__(self, settings: JobSettings, account: Callable[[], str], stop: Callable[[], bool]) -> None:
        shards = settings.queue_shards
        self._settings = settings
        self._clients = connect_shards(shards, timeout_s=2.0)
        self._publications = PublicationStore(self._clients, shards)
        self._comparisons = ComparisonStore(self._clients[0], settings.name)
        self._account = account
        self._stop = stop
        # The queue that answers for each model, and the candidate beside it.
        self._chosen: dict[str, tuple[str, Candidate | None]] = {}
        self._look_at = 0.0
        self._changed = False

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def connect(self, model: str) -> tuple[Lookup, Queues]:
        """What finds the predictions of a model, or of a cascade, as jobs keep it. Raises Redis errors.

        Needs a running loop.
        """
        queues = Queues(self._settings.keep_refused_texts, self.should_stop)
        if (cascade := read_cascade(model)) is None:
            return self._lookup(model, queues), queues
        members = self._lookup(cascade.fast, queues), self._lookup(cascade.sure, queues)
        models = Models(CascadeModel(cascade, *(member.models for member in members)))
        return CascadeLookup(cascade, lambda: members, models), queues

    def should_stop(self) -> bool:
        """Whether this attempt must end: another then continues with the current queues and candidates."""
        return self._stop() or self._look()

    def _lookup(self, model: str, queues: Queues) -> Lookup:
        publications = self._publications.read()
        queue = publications.queue(model)
        setting = publications.candidates.get(model)
        self._chosen[model] = queue, setting
        current = queues.add(*self._queue(queue))
        if setting is None:
            return current
        candidate = self._queue(publication_queue(model, setting.number))
        taken = takes(setting, self._account() if setting.by == "client" else "")
        if setting.shadow:
            report = partial(self._report, (model, number_of(queue), setting.number), token_hex(8))
            return ShadowedLookup(current, queues.add_shadow(*candidate, report).offer, taken)
        return ShareLookup(current, queues.add(*candidate), taken)

    def _queue(self, queue: str) -> tuple[Hub, Cache]:
        own = self._settings.for_model(queue)
        return ReplyHub.connect(own, linger_s=LINGER_S), connect_cache(own)

    def _look(self) -> bool:
        """Whether a candidate has changed, or workers no longer serve a publication. Looks once a second."""
        if self._chosen and not self._changed and monotonic() >= self._look_at:
            self._look_at = monotonic() + LOOK_S
            try:
                publications = self._publications.read()
            except REDIS_ERRORS:
                return False
            self._changed = any(not _holds(publications, model, *one) for model, one in self._chosen.items())
        return self._changed

    async def _report(
        self, pair: tuple[str, int, int], shadow: str, number: int, counts: Counter[str]
    ) -> bool:
        try:
            await asyncio.to_thread(self._comparisons.add, pair, shadow, number, counts)
        except REDIS_ERRORS:
            return False
        return True


def _holds(publications: Publications, model: str, queue: str, candidate: Candidate | None) -> bool:
    """Whether workers still serve a queue, and the candidate has not changed."""
    served = {publication_queue(model, number) for number in (0, *publications.of(model).references)}
    return queue in served and publications.candidates.get(model) == candidate
