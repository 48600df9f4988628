"""Cascades of two models: what the first is not sure of is asked of the second (decision 0018)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from api.errors import Problem
from api.jobs.schemas import WaitsFor
from api.metrics import Metrics
from api.models.served import Handle, Served, ServedModels
from batcher.cascades import Cascade, read_cascade
from batcher.connection.outage import NO_ANSWER
from batcher.core.publications import model_of
from batcher.core.snapshot import NO_SNAPSHOT, ModelRecord, Snapshot
from batcher.errors import LabelsDiffer, SeveralLabels
from batcher.lookup.backend import Queue
from batcher.lookup.cascade import CascadeLookup, combined, mismatch
from batcher.lookup.queue import Lookup, Models

log = logging.getLogger(__name__)

State = Literal["ready", "no_worker", "redis_unavailable"]
CascadeState = Literal[State, "labels_differ", "several_labels"]


class Members:
    """The two models of a cascade, as they are served at the moment, and the state of both as one queue."""

    def __init__(self, cascade: Cascade, models: ServedModels, metrics: Metrics) -> None:
        self.cascade = cascade
        self._models = models
        self._metrics = metrics
        self._logged = ""

    def find(self) -> tuple[Served, Served]:
        """The fast and the sure one. Raises Problem 503 if one is missing, and what `mismatch` returns."""
        found = self._found()
        if found is None or None in self._records():
            detail = f"a model of the cascade {self.cascade.name} has no worker; try again shortly"
            raise Problem(503, detail, code="no_worker")
        if why := self.mismatch():
            raise why
        return found

    def lookups(self) -> tuple[Lookup, Lookup]:
        """Those of both. Raises what `find` raises."""
        fast, sure = self.find()
        return fast.lookup, sure.lookup

    def count(self, kept: int, passed: int) -> None:
        """Counts texts of which the fast model has spoken, and the sure one."""
        self._metrics.cascade(self.cascade.name, self.cascade.fast, kept)
        self._metrics.cascade(self.cascade.name, self.cascade.sure, passed)

    def queue(self) -> str:
        """The cascade as jobs keep it, with the names of queues. Raises what `find` raises."""
        fast, sure = self.find()
        model = self._models.model
        return str(replace(self.cascade, fast=model(fast.name), sure=model(sure.name)))

    def mismatch(self) -> LabelsDiffer | SeveralLabels | None:
        """Why the members cannot answer in place of each other; None if they can, or are unknown."""
        return mismatch(self.cascade, *self._records())

    def follow(self) -> None:
        """Logs once that the labels of the members do not fit."""
        why = str(self.mismatch() or "")
        if why and why != self._logged:
            log.error("%s", why, extra={"action": "cascade.refused", "cascade": self.cascade.name})
        self._logged = why

    @property
    def state(self) -> CascadeState:
        why = self.mismatch() if self.reachable else None
        return state_of(self) if why is None else why.code

    @property
    def reachable(self) -> bool:
        return all(served.hub.reachable for served in self._found() or ())

    @property
    def trouble(self) -> str:
        return next(
            (served.hub.trouble for served in self._found() or () if not served.hub.reachable), NO_ANSWER
        )

    @property
    def snapshot(self) -> Snapshot:
        """The cascade as one model. Only this, the number of workers that both members have and the pauses
        that end last are set.
        """
        fast, sure = self._records()
        if fast is None or sure is None:
            return NO_SNAPSHOT
        members = [served.hub.snapshot for served in self._found() or ()]
        workers = 0 if self.mismatch() else min((member.workers for member in members), default=0)
        pauses = [pause for member in members for pause in member.pauses.items()]
        pauses.sort(key=lambda pause: pause[1].until)
        model = combined(self.cascade, fast, sure)
        return replace(NO_SNAPSHOT, model=model, workers=workers, pauses=dict(pauses))

    def _found(self) -> tuple[Served, Served] | None:
        fast = self._models.get(self.cascade.fast)
        sure = self._models.get(self.cascade.sure)
        return (fast, sure) if fast is not None and sure is not None else None

    def _records(self) -> tuple[ModelRecord | None, ModelRecord | None]:
        found = self._found()
        return (found[0].hub.snapshot.model, found[1].hub.snapshot.model) if found else (None, None)


def state_of(queue: Queue) -> State:
    """Whether a model can answer requests now."""
    if not queue.reachable:
        return "redis_unavailable"
    return "ready" if queue.snapshot.workers and queue.snapshot.model else "no_worker"


def cascades(
    every: Sequence[Cascade], models: ServedModels, handle: Handle, metrics: Metrics
) -> dict[str, Served]:
    """Those of the settings by name, each in the form of a model."""
    found = {}
    for cascade in every:
        members = Members(cascade, models, metrics)
        lookup = CascadeLookup(cascade, members.lookups, Models(members), members.count)
        found[cascade.name] = Served(cascade.name, members, lookup, handle(cascade.name, lookup))
    return found


def members_of(served: Served) -> Members | None:
    """The members of a cascade; None for a model."""
    return served.hub if isinstance(served.hub, Members) else None


def job_queue(models: ServedModels, name: str) -> str:
    """What a job keeps of a name that a client uses. Raises Problem 404, 409 or 503, or as `Members.find`."""
    served = models.get(name)
    members = members_of(served) if served is not None else None
    return models.model(name) if members is None else members.queue()


def _of_queue(models: ServedModels, queue: str) -> Served | None:
    cascade = read_cascade(queue)
    if cascade is not None:
        return models.cascades.get(cascade.name)
    return next((served for served in models if model_of(served.queue) == queue), None)


def job_waits_for(models: ServedModels, queue: str) -> WaitsFor | None:
    """Why a job whose model has this queue, as `job_queue` returns it, cannot go on now; None if it can."""
    served = _of_queue(models, queue)
    if served is None:
        return "no_worker"
    members = members_of(served)
    if members is not None and (why := members.mismatch()) is not None:
        return why.code
    pause = served.hub.snapshot.pauses.get("bulk")
    if pause is not None and pause.left_s:
        return "paused"
    return "no_worker" if served.hub.reachable and not served.hub.snapshot.workers else None


def job_labels(models: ServedModels, queue: str) -> Sequence[str]:
    """The labels of the model of a job, or of its candidate if that has more; none while they are not known.

    `queue` is what the job keeps, as `job_queue` returns it.
    """
    served = _of_queue(models, queue)
    several = [served, models.candidates.get(queue)] if served is not None else []
    records = [one.hub.snapshot.model for one in several if one is not None]
    return max((record.labels for record in records if record is not None), key=len, default=())
