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
from batcher.core.revisions import Candidate, Revisions, number_of, revision_queue
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import connect_cache
from batcher.jobs.candidate import DividedHub, ShadowedHub, takes
from batcher.jobs.cascade import CascadeHub
from batcher.jobs.members import Member
from batcher.jobs.runner import Cache, Hub
from batcher.publishing.comparisons import ComparisonStore
from batcher.publishing.revisions import RevisionStore
from batcher.settings import JobSettings

# Jobs collect answers for this long before reading them: it saves round trips, and no caller waits for them.
LINGER_S = 0.02
LOOK_S = 1.0


class JobModels:
    """Connects an attempt to the queues and candidates of its models, and notices when these change.

    `account` is that of the client that submitted the job, and `stop` says whether the process must end.
    """

    def __init__(self, settings: JobSettings, account: Callable[[], str], stop: Callable[[], bool]) -> None:
        shards = settings.queue_shards
        self._settings = settings
        self._clients = connect_shards(shards, timeout_s=2.0)
        self._revisions = RevisionStore(self._clients, shards)
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

    def connect(self, model: str) -> tuple[Hub, Cache]:
        """The clients of a model, or of a cascade, as jobs keep it. Raises Redis errors."""
        if (cascade := read_cascade(model)) is None:
            return self._connect(model)
        members = [Member(*self._connect(name)) for name in (cascade.fast, cascade.sure)]
        hub = CascadeHub(cascade, *members)
        return hub, hub

    def should_stop(self) -> bool:
        """Whether this attempt must end: another then continues with the current queues and candidates."""
        return self._stop() or self._look()

    def _connect(self, model: str) -> tuple[Hub, Cache]:
        revisions = self._revisions.read()
        queue = revisions.queue(model)
        setting = revisions.candidates.get(model)
        self._chosen[model] = queue, setting
        if setting is None:
            return self._queue(queue)
        candidate = revision_queue(model, setting.number)
        taken = takes(setting, self._account() if setting.by == "client" else "")
        if setting.by == "client" and not setting.shadow:
            return self._queue(candidate if taken("") else queue)
        members = Member(*self._queue(queue)), Member(*self._queue(candidate))
        if setting.shadow:
            report = partial(self._report, (model, number_of(queue), setting.number), token_hex(8))
            hub: ShadowedHub | DividedHub = ShadowedHub(*members, taken, report, self.should_stop)
        else:
            hub = DividedHub(*members, taken)
        return hub, hub

    def _queue(self, queue: str) -> tuple[Hub, Cache]:
        own = self._settings.for_model(queue)
        return ReplyHub.connect(own, linger_s=LINGER_S), connect_cache(own)

    def _look(self) -> bool:
        """Whether a candidate has changed, or workers no longer serve a revision. Looks once a second."""
        if self._chosen and not self._changed and monotonic() >= self._look_at:
            self._look_at = monotonic() + LOOK_S
            try:
                revisions = self._revisions.read()
            except REDIS_ERRORS:
                return False
            self._changed = any(not _holds(revisions, model, *one) for model, one in self._chosen.items())
        return self._changed

    async def _report(
        self, pair: tuple[str, int, int], shadow: str, number: int, counts: Counter[str]
    ) -> bool:
        try:
            await asyncio.to_thread(self._comparisons.add, pair, shadow, number, counts)
        except REDIS_ERRORS:
            return False
        return True


def _holds(revisions: Revisions, model: str, queue: str, candidate: Candidate | None) -> bool:
    """Whether workers still serve a queue, and the candidate has not changed."""
    served = {revision_queue(model, number) for number in (0, *revisions.of(model).references)}
    return queue in served and revisions.candidates.get(model) == candidate
