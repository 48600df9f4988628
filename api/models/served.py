"""The models that workers serve, by name: each with its queue, its caches and its handler (decision 0015).

API processes learn of them from the snapshot of the first model's queue, which every worker that serves
another model adds it to.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from starlette.types import ASGIApp

from api.errors import Problem
from batcher.core.holds import OF_ALL, Pause, merge_pauses
from batcher.core.publications import Candidate, model_of, publication_queue
from batcher.core.snapshot import NO_SNAPSHOT, Snapshot
from batcher.errors import MillraceError, NoWorker
from batcher.gc_tuning import collect_dropped
from batcher.lookup.backend import Cache, Hub, Queue
from batcher.lookup.queue import Lookup
from batcher.publishing.publications import SEEN_S

log = logging.getLogger(__name__)

# What a sweep says of a model holds for so long: moves do not wait for a process that is silent for longer.
KNOWN_S = SEEN_S - 1
# How long a request waits for the sweep of a process that has stood still.
LATE_S = 2.0
CLOSED = NoWorker(
    "the queue of the revision that was asked was closed; a retry asks the one that answers now",
    retry_after_s=1.0,
)

Handle = Callable[[str, Lookup], ASGIApp]
Answering = dict[str, "ServedModel"]
Divide = Callable[[Answering, Mapping[str, tuple["ServedModel", Candidate]]], Answering]


@dataclass(frozen=True, slots=True)
class Served:
    """What answers for a name: a publication of a model, or a cascade. `queue` is the name of its queue."""

    queue: str
    hub: Queue
    lookup: Lookup
    handler: ASGIApp

    @property
    def name(self) -> str:
        """The name that clients use, remembered while workers are down; "" before the first worker."""
        return model_of(self.queue) or self.lookup.models.name


@dataclass(frozen=True, slots=True)
class ServedModel(Served):
    """One publication of a model. The queue of the first model is ""."""

    hub: Hub
    cache: Cache


@dataclass(eq=False)
class ServedModels:
    """All models. `open_queue` connects to another queue than that of the first model.

    What answers for a model is one of its publications. It changes in all places at once, between two
    requests. `divide` makes it of the publication and, if there is one, its candidate. `make_cascades` makes
    further names, of which each asks several models. `on_sweep` is called after each sweep with the count of
    moves.
    """

    first: ServedModel
    open_queue: Callable[[str], ServedModel]
    divide: Divide
    make_cascades: Callable[[ServedModels], Mapping[str, Served]]
    on_sweep: Callable[[int], None]

    def __post_init__(self) -> None:
        self._followers: list[Callable[[ASGIApp], None]] = []
        # The publications beside those that answer, by the names of models (decision 0017).
        self.candidates: Mapping[str, ServedModel] = {}
        # Until when what the last sweeps said holds, by the monotonic clock: not before the first worker.
        self.known_until = math.inf if self.first.hub.snapshot.workers else -math.inf
        self._swept_at: dict[str, float] = {}
        self._heard = asyncio.Event()
        self._others: dict[str, ServedModel] = {}
        self._answering = {"": self.first}
        self._ambiguous = frozenset[str]()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cascades = self.make_cascades(self)

    def __iter__(self) -> Iterator[ServedModel]:
        """What answers for each model, the first one first."""
        yield from self._answering.values()

    @property
    def queues(self) -> Sequence[ServedModel]:
        """What answers for each model, and their candidates."""
        return [*self._answering.values(), *self.candidates.values()]

    @property
    def every(self) -> Sequence[ServedModel]:
        """All publications of all models that workers serve, the first one first."""
        return [self.first, *self._others.values()]

    @property
    def current(self) -> ServedModel:
        """What answers for the first model."""
        return self._answering[""]

    @property
    def ids(self) -> Sequence[str]:
        """The names of all models, "" for the first."""
        return list(self._answering)

    @property
    def names(self) -> Sequence[str]:
        """The names that clients can use."""
        return [name for name in map(self.name, self.ids) if name]

    def name(self, model: str) -> str:
        """The name that clients use for a model."""
        return model or self.first.name

    def model(self, name: str) -> str:
        """The model of a name that clients use. Raises Problem 404, or 409 if two models have the name."""
        if name and (self.ambiguous(name) or name not in self.names):
            raise self.unknown(name)
        return "" if name == self.first.name else name

    def publications(self, model: str) -> Sequence[ServedModel]:
        """All publications of a model that workers serve, first the one that answers."""
        others = [one for one in self.every if model_of(one.queue) == model]
        answering = self._answering[model]
        return [answering, *(one for one in others if one.queue != answering.queue)]

    def ambiguous(self, name: str) -> bool:
        """Whether workers serve a model by the name of a cascade, or another one by that of the first."""
        if name in self.cascades:
            served = self.current if name == self.first.name else self._answering.get(name)
            return served is not None and served.hub.snapshot.workers > 0
        other = self._answering.get(name) if name and name == self.first.name else None
        if other is None or not other.hub.snapshot.workers:
            return False
        first = self.current.hub.snapshot.model
        second = other.hub.snapshot.model
        return first is not None and second is not None and first.revision != second.revision

    def get(self, name: str) -> Served | None:
        """What answers for the cascade, or the model, of this name. None also if two models have it."""
        if self.ambiguous(name):
            return None
        if name in self.cascades:
            return self.cascades[name]
        return self.current if name == self.first.name else self._answering.get(name)

    def snapshot(self, queue: str) -> Snapshot:
        """The state of a queue, as of the last second."""
        served = self._others.get(queue) if queue else self.first
        return NO_SNAPSHOT if served is None else served.hub.snapshot

    def find(self, name: str) -> Served:
        """The model of this name. Raises `unknown`."""
        if not name or (served := self.get(name)) is None:
            raise self.unknown(name)
        return served

    def unknown(self, name: str, advice: str = "") -> Problem:
        """The problem of a request for a model that is not served, or for one of two of the same name.

        404 `model_not_found` lists those that are served.
        """
        if self.ambiguous(name):
            advice = "give one of them another name in MILLRACE_MODEL"
            if name in self.cascades:
                detail = f"a cascade and a model are called {name}: {advice} or MILLRACE_CASCADES"
            else:
                both = f"workers serve two models called {name}"
                detail = f"{both}: {advice}; POST /predict still asks the first one"
            return Problem(409, detail, code="ambiguous_model")
        if not self.names:
            return Problem(503, "no worker is running", code="no_worker")
        names = list(dict.fromkeys([*self.names, *self.cascades]))
        quoted = ", ".join(f'"{name}"' for name in names)
        served = f"models {quoted}" if len(names) > 1 else f"model {quoted}"
        detail = f"this service serves the {served} and not the one in the request{advice}"
        return Problem(404, detail, code="model_not_found", models=names)

    def follow(self) -> None:
        """Adds the models that workers have begun to serve, and removes those that are gone.

        One whose queue has lost a loop is opened again.
        """
        snapshot = self.first.hub.snapshot
        publications = snapshot.publications
        models = ["", *(name for name in snapshot.models if name == model_of(name))]
        answering = {model: publications.queue(model) for model in models}
        beside = {model: one for model, one in publications.candidates.items() if model in answering}
        tried = {model: publication_queue(model, one.number) for model, one in beside.items()}
        listed = {*snapshot.models, *answering.values(), *tried.values()} - {""}
        gone = [one.queue for one in self._others.values() if one.queue not in listed or not one.hub.alive]
        for name in gone:
            self._swept_at.pop(name, None)
            self._later(_drop(self._others.pop(name)))
        for name in sorted(listed - self._others.keys()):
            self._others[name] = self._open(name)
        before = self.current
        self.candidates = {model: self._others[queue] for model, queue in tried.items()}
        self._answering = self.divide(
            {model: self._others[queue] if queue else self.first for model, queue in answering.items()},
            {model: (self._others[queue], beside[model]) for model, queue in tried.items()},
        )
        self._note_ambiguous()
        if self.current is not before:
            for follow in self._followers:
                follow(self.current.handler)
        self.on_sweep(publications.moves)

    def _note_ambiguous(self) -> None:
        """Logs each name that has become ambiguous, before a request is refused for it."""
        before = self._ambiguous
        self._ambiguous = frozenset(filter(self.ambiguous, [self.first.name, *self.cascades]))
        for name in self._ambiguous - before:
            facts = {"action": "model.ambiguous", "model": name}
            log.warning("two models have the same name, which finds neither of them", extra=facts)

    def on_move(self, follow: Callable[[ASGIApp], None]) -> None:
        """Calls `follow` with the new handler of the first model each time another revision answers."""
        self._followers.append(follow)

    async def refresh(self) -> None:
        """Waits for late sweeps unless Redis is unavailable: names may have moved meanwhile.

        Before the first worker, looks for one: another process may have found it already, and be ready.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE_S):
                if self.known_until == -math.inf:
                    await asyncio.gather(*(served.hub.look() for served in self.every))
                while any(map(self._is_late, self.every)):
                    self._heard.clear()
                    await self._heard.wait()
                if self._tasks:
                    await asyncio.wait(self._tasks)

    def _is_late(self, served: ServedModel) -> bool:
        silent = self._swept_at.get(served.queue, math.inf) < monotonic() - KNOWN_S
        return silent and served.hub.alive and served.hub.reachable

    def _note_sweep(self, name: str, hub: Hub) -> None:
        """A process that stood still may read a reply of long ago, so the time of the question counts."""
        hub.pause(self._decided(name))
        self._swept_at[name] = hub.asked_at
        self._heard.set()
        if self.known_until > -math.inf or any(served.hub.snapshot.workers for served in self.every):
            self.known_until = min(self._swept_at.values()) + KNOWN_S

    def _decided(self, queue: str) -> Mapping[str, Pause]:
        """What was decided last about the lanes of a queue: it or a shard may be new, or have been away."""
        alike = (one for one in self.every if model_of(one.queue) == model_of(queue))
        of_all = self.first.hub.snapshot.pauses
        every = {lane: of_all[name] for lane, name in OF_ALL.items() if name in of_all}
        return merge_pauses([every, *(one.hub.snapshot.pauses for one in alike)])

    def _other_swept(self, name: str, hub: Hub) -> None:
        self._note_sweep(name, hub)
        self._note_ambiguous()

    def _swept(self) -> None:
        self._note_sweep("", self.first.hub)
        try:
            self.follow()
        except Exception:  # the hub would stop sweeping, and this process count as not ready
            log.exception("could not follow the models of the workers", extra={"action": "model.lost"})

    def _open(self, name: str) -> ServedModel:
        served = self.open_queue(name)
        hub = served.hub
        hub.on_sweep = partial(self._other_swept, name, hub)
        self._later(hub.start())
        log.info("serving the model %s", name, extra={"action": "model.served", "model": name})
        return served

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self) -> None:
        """Follows the workers from now on. Returns once the queues of the known models are open."""
        self.first.hub.on_sweep = self._swept
        self.follow()
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """Closes the queues of all models but the first."""
        self.first.hub.on_sweep = lambda: None
        await asyncio.gather(*self._tasks, *map(_close, self._others.values()))
        self._others.clear()


async def _close(served: ServedModel, *why: MillraceError) -> None:
    await served.hub.stop(*why)
    await served.cache.close()


async def _drop(served: ServedModel) -> None:
    await _close(served, CLOSED)
    del served
    collect_dropped()
