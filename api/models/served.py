"""The models that workers serve, by name: each with its queue, its caches and its handler (decision 0015).

API processes learn of them from the snapshot of the first model's queue, which every worker that serves
another model adds it to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from api.backend import Cache, Hub
from api.errors import Problem
from api.predict.handler import PredictHandler
from api.predict.lookup import PredictionLookup

log = logging.getLogger(__name__)

Connect = Callable[[str], tuple[Hub, Cache]]
Handle = Callable[[str, PredictionLookup], PredictHandler]


@dataclass(frozen=True, slots=True)
class Served:
    """One model: `name` is that of its queue, "" for the first."""

    name: str
    hub: Hub
    cache: Cache
    lookup: PredictionLookup
    handler: PredictHandler

    @property
    def title(self) -> str:
        """The name that clients use, remembered while workers are down; "" before the first worker."""
        return self.name or self.lookup.models.name


class ServedModels:
    """All models. `connect` opens the queue and the cache of another model, `handle` makes its handler."""

    def __init__(self, first: Served, connect: Connect, handle: Handle) -> None:
        self.first = first
        self._connect, self._handle = connect, handle
        self._others: dict[str, Served] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Served]:
        yield self.first
        yield from self._others.values()

    @property
    def titles(self) -> Sequence[str]:
        """The names that clients can use."""
        return [served.title for served in self if served.title]

    def get(self, name: str) -> Served | None:
        """The model of this name."""
        return self.first if name == self.first.title else self._others.get(name)

    def find(self, name: str) -> Served:
        """The model of this name. Raises Problem 404 `model_not_found`, which lists those that are served."""
        if (served := self.get(name)) is None:
            raise self.unknown()
        return served

    def unknown(self, advice: str = "") -> Problem:
        """The problem of a request for a model that is not served."""
        if not self.titles:
            return Problem(503, "no worker is running", code="no_worker")
        names = ", ".join(f'"{title}"' for title in self.titles)
        served = f"models {names}" if len(self.titles) > 1 else f"model {names}"
        detail = f"this service serves the {served} and not the one in the request{advice}"
        return Problem(404, detail, code="model_not_found", models=self.titles)

    def follow(self) -> None:
        """Adds the models that workers have begun to serve, and removes those that are gone.

        One whose queue has lost a loop is removed too, and added again by the next call.
        """
        listed = self.first.hub.snapshot.models
        for name in listed:
            if name not in self._others:
                self._others[name] = self._open(name)
        for name in [
            one.name for one in self._others.values() if one.name not in listed or not one.hub.alive
        ]:
            self._later(_close(self._others.pop(name)))

    def _open(self, name: str) -> Served:
        hub, cache = self._connect(name)
        self._later(hub.start())
        lookup = self.first.lookup.for_model(hub, cache)
        log.info("serving the model %s", name, extra={"action": "model.served", "model": name})
        return Served(name, hub, cache, lookup, self._handle(name, lookup))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self) -> None:
        """Follows the workers from now on. Returns once the queues of the known models are open."""
        self.first.hub.on_sweep = self.follow
        self.follow()
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """Closes the queues of all models but the first."""
        self.first.hub.on_sweep = lambda: None
        await asyncio.gather(*self._tasks, *map(_close, self._others.values()))
        self._others.clear()


async def _close(served: Served) -> None:
    await served.hub.stop()
    await served.cache.close()
