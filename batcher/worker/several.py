"""Several models in one worker process: a worker for each in a separate thread, and turns to compute.

Each has its own queue, exchange and heartbeat, so lanes, leases and recovery are those of a single model.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batcher.core.connection import Redis, connect
from batcher.core.outage import REDIS_ERRORS, reason
from batcher.models import listing
from batcher.settings import WorkerSettings
from batcher.worker.held import TokenizedEntry
from batcher.worker.inference import FinishedBatch, Tokenized
from batcher.worker.loop import Worker
from batcher.worker.turns import Turns

log = logging.getLogger(__name__)

# How often the models are listed again. They stay listed for an hour.
LIST_EVERY_S = 5.0
# A batch of nothing but bulk entries waits for its turn as if it took so many times as long.
BULK_WEIGHT = 8


class SharingWorker(Worker):
    """A worker that runs a batch only when it has the turn."""

    turns: Turns
    _has_turn = False

    def _run_batch(self) -> None:
        held = self._held
        cost_s = self.inference.cost.pass_s(min(held.tokens, self.budget))
        self.turns.take(cost_s * (BULK_WEIGHT if held.only_bulk else 1), self._claim_more)
        self._has_turn = True
        try:
            super()._run_batch()
        finally:
            self._end_turn()

    def _classify(self, batch: Sequence[TokenizedEntry], computed: int) -> FinishedBatch:
        try:
            return super()._classify(batch, computed)
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self.turns.end()

    def _claim_more(self) -> None:
        """Claims what has arrived while other models ran: one batch instead of two."""
        if not self._held.only_solo:
            self._keep(self._second_thread.submit(self._more).result())

    def _more(self) -> Tokenized:
        if self._stop.is_set() or self._held.tokens >= self.budget:
            return [], []
        claim = self.exchange.claim(self._claim_command(ahead=True))
        return self.inference.tokenize_entries(claim.entries, "full" if claim.left else "window")


class Listing:
    """Lists the models of this process in the snapshot of the service, from where API processes learn them.

    `clients` are those of the shards of the first model's queue, with the prefix of their keys.
    """

    def __init__(self, names: Sequence[str], clients: Sequence[tuple[Redis, str]]) -> None:
        self._names = names
        self._clients = clients
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listing", daemon=True)

    @classmethod
    def connect(cls, names: Sequence[str], settings: WorkerSettings) -> Listing:
        shards = settings.queue_shards
        clients = [connect(shard.url, timeout_s=1.0, retries=1, key=shard.prefix) for shard in shards]
        return cls(names, [(client, shard.prefix) for client, shard in zip(clients, shards, strict=True)])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def list(self) -> None:
        """Lists the models once, at each shard that answers."""
        fields: Mapping[Any, Any] = {key: end for name in self._names for key, end in listing(name).items()}
        for client, prefix in self._clients:
            try:
                client.hset(f"{prefix}:snapshot", mapping=dict(fields))
                client.expire(f"{prefix}:snapshot", 3600)
            except REDIS_ERRORS as error:
                log.debug("could not list the models: %s", reason(error), extra={"action": "models.unlisted"})

    def _run(self) -> None:
        self.list()
        while not self._stopping.wait(LIST_EVERY_S):
            self.list()


class SeveralWorkers:
    """The workers of one process, by model. It ends as a whole: a broken engine needs a new process."""

    def __init__(self, workers: Sequence[SharingWorker], listing: Listing) -> None:
        self._workers = workers
        self._listing = listing
        self._errors: list[BaseException] = []
        turns = Turns()
        for worker in workers:
            worker.turns = turns

    def warm_up(self) -> None:
        """Measures what the forward passes of each model cost. Raises whatever a model raises."""
        for worker in self._workers:
            worker.warm_up()

    def run(self) -> None:
        """Works until `stop` is called, or one of the workers has ended. Raises what that one raised."""
        threads = [
            threading.Thread(target=self._run, args=(worker.run,), name=f"model-{number}")
            for number, worker in enumerate(self._workers)
        ]
        self._listing.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._listing.stop()
        if self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        """Asks all workers to finish their batches. Safe to call from a signal handler."""
        for worker in self._workers:
            worker.stop()

    @property
    def broken(self) -> bool:
        """Whether one of the engines is at fault."""
        return any(worker.broken for worker in self._workers)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)
        finally:
            self.stop()
