"""Loads what operators publish, beside what answers, and drops what is no longer needed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from batcher.connection.outage import REDIS_ERRORS
from batcher.core.publications import model_of, publication_queue
from batcher.gc_tuning import collect_dropped
from batcher.publishing.publications import PublicationStore

log = logging.getLogger(__name__)

LOOK_S = 1.0
# Longer than the longest budget of a request, unless the settings of the API say otherwise.
DROP_S = 60.0


class Models(Protocol):
    """The models of a worker process."""

    @property
    def names(self) -> Sequence[str]:
        """The names of all queues that are served."""

    def add(self, model: str, queue: str, reference: str) -> None:
        """Loads a publication of `model` and serves its queue. Raises whatever the model raises."""

    def drop(self, queue: str) -> None:
        """Ends serving a queue."""


class Publishing:
    """Watches the publications in a separate thread."""

    def __init__(self, models: Models, store: PublicationStore) -> None:
        self._models = models
        self._publications = store
        self._failed: set[str] = set()
        self._unwanted: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publishing", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def look(self) -> None:
        """Loads missing publications and drops surplus ones. Raises Redis errors."""
        publications = self._publications.read()
        served = set(self._models.names)
        wanted = {
            publication_queue(model, number): (model, reference)
            for model in {model_of(name) for name in served}
            for number, reference in publications.of(model).references.items()
        }
        self._failed &= wanted.keys()
        self._drop([queue for queue in served if "@" in queue and queue not in wanted])
        for queue in wanted.keys() - served - self._failed:
            model, reference = wanted[queue]
            try:
                self._models.add(model, queue, reference)
            except Exception as error:
                self._failed.add(queue)
                failure = str(error)
            else:
                continue
            log.error("cannot serve the publication: %s", failure, extra={"action": "revision.unable"})
            collect_dropped()  # once the error, which refers to what was loaded, is gone
            self._publications.report(queue, failure[:500])

    def _drop(self, unwanted: Sequence[str]) -> None:
        """Drops publications not needed for a while: until then, earlier requests may wait there."""
        now = time.monotonic()
        self._unwanted = {queue: self._unwanted.get(queue, now) for queue in unwanted}
        for queue, since in self._unwanted.items():
            if now - since >= DROP_S:
                self._models.drop(queue)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look()
            except REDIS_ERRORS:
                continue
            except Exception:
                log.exception("could not look for publications", extra={"action": "revision.lost"})
