"""Cascades of two models: what the first is not sure of is asked of the second (decision 0018)."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal, cast

from api.asgi.http import Answer
from api.backend import Hub
from api.errors import Problem
from api.metrics import Metrics
from api.models.served import Handle, Served, ServedModels
from api.predict.lookup import CachedPrediction, LookupRequest, LookupResult, Models, PredictionLookup
from batcher.cascades import Cascade
from batcher.core.cascade import Mismatch, combined, in_order, labels_of, mismatch
from batcher.core.snapshot import NO_SNAPSHOT, ModelRecord, Snapshot
from batcher.messages import Prediction

log = logging.getLogger(__name__)

LookUp = Callable[[Served, LookupRequest, Sequence[str], LookupResult], Awaitable[None]]
State = Literal["ready", "no_worker", "redis_unavailable", "labels_differ", "several_labels"]


class Members:
    """The two models of a cascade, as they are served at the moment. Stands in the place of their hubs."""

    def __init__(self, cascade: Cascade, models: ServedModels) -> None:
        self.cascade = cascade
        self._models = models
        self._logged: Mismatch | None = None

    def find(self) -> tuple[Served, Served]:
        """The fast and the sure one. Raises Problem 503 if one is missing, and 409 if labels do not fit."""
        found = self._found()
        if found is None or None in self._records():
            detail = f"a model of the cascade {self.cascade.name} has no worker; try again shortly"
            raise Problem(503, detail, code="no_worker")
        if why := self.mismatch():
            raise Problem(409, why.detail, code=why.code)
        return found

    def queue(self) -> str:
        """The cascade as jobs keep it, with the names of queues. Raises what `find` raises."""
        fast, sure = self.find()
        base = self._models.base
        return str(replace(self.cascade, fast=base(fast.title), sure=base(sure.title)))

    def mismatch(self) -> Mismatch | None:
        """Why the members cannot answer in place of each other; None if they can, or are unknown."""
        fast, sure = self._records()
        return mismatch(self.cascade, fast, sure) if fast is not None and sure is not None else None

    def follow(self) -> None:
        """Logs once that the labels of the members do not fit."""
        why = self.mismatch()
        if why is not None and why != self._logged:
            log.error("%s", why.detail, extra={"action": "cascade.refused", "cascade": self.cascade.name})
        self._logged = why

    @property
    def state(self) -> State:
        if not self.reachable:
            return "redis_unavailable"
        if (why := self.mismatch()) is not None:
            return why.code
        return "ready" if self.snapshot.workers and self.snapshot.model else "no_worker"

    @property
    def reachable(self) -> bool:
        return all(served.hub.reachable for served in self._found() or ())

    @property
    def snapshot(self) -> Snapshot:
        """The cascade as one model. Only this and the number of workers that both members have are set."""
        fast, sure = self._records()
        if fast is None or sure is None:
            return NO_SNAPSHOT
        usable = () if self.mismatch() else self._found() or ()
        workers = min((served.hub.snapshot.workers for served in usable), default=0)
        return replace(NO_SNAPSHOT, model=combined(self.cascade, fast, sure), workers=workers)

    def _found(self) -> tuple[Served, Served] | None:
        fast = self._models.get(self.cascade.fast)
        sure = self._models.get(self.cascade.sure)
        return (fast, sure) if fast is not None and sure is not None else None

    def _records(self) -> tuple[ModelRecord | None, ModelRecord | None]:
        found = self._found()
        return (found[0].hub.snapshot.model, found[1].hub.snapshot.model) if found else (None, None)


class CascadeLookup(PredictionLookup):
    """Asks the fast model, and the sure one for what is left, each with its own caches and queue.

    Nothing is cached under the revision of the cascade, so a new one of a member, or a new threshold, applies
    to the next request. Limits of clients are those of all models together.
    """

    def __init__(self, members: Members, first: PredictionLookup, metrics: Metrics) -> None:
        self.replace(first)
        self.members = members
        self._metrics = metrics
        self.models = Models(cast("Hub", members))

    async def find(self, request: LookupRequest, found: LookupResult) -> None:
        """As of one model. If the sure one fails, so does the request."""
        await self._find(_look_up, request, found)

    async def find_one(self, request: LookupRequest, found: LookupResult) -> LookupRequest:
        """The same with the results of one revision of each member."""
        await self._find(_look_up_one, request, found)
        return request

    async def _find(self, look_up: LookUp, request: LookupRequest, found: LookupResult) -> None:
        fast, sure = self.members.find()
        cascade = self.members.cascade
        texts = list(dict.fromkeys(request.texts))
        await look_up(fast, request, texts, found)
        labels = labels_of(found.by_text[texts[0]])
        rest = {text for text in texts if not cascade.trusts(found.by_text[text])}
        if rest:
            second = LookupResult()
            try:
                await look_up(sure, request, [text for text in texts if text in rest], second)
            finally:
                found.add(second, found.cache_s + second.cache_s)
            for text in rest:
                found.by_text[text] = _ordered(found.by_text[text], labels)
        passed = sum(text in rest for text in request.texts)
        self._metrics.cascade(cascade.name, fast.title, len(request.texts) - passed)
        self._metrics.cascade(cascade.name, sure.title, passed)

    def answer(self, request: LookupRequest, found: LookupResult, total_s: float) -> Answer:
        """As of one model, and with the model that spoke for each text."""
        answer = super().answer(request, found, total_s)
        spoke = [(one.revision, one.model) for one in (found.by_text[text] for text in request.texts)]
        names = {one: json.dumps(self.models.header(*one).decode("ascii")).encode() for one in set(spoke)}
        models = b",".join([names[one] for one in spoke])
        return replace(answer, body=b'%b,"models":[%b]}' % (answer.body[:-1], models))


def cascades(
    every: Sequence[Cascade], models: ServedModels, handle: Handle, metrics: Metrics
) -> dict[str, Served]:
    """Those of the settings by name, each in the form of a model."""
    found = {}
    for cascade in every:
        members = Members(cascade, models)
        lookup = CascadeLookup(members, models.first.lookup, metrics)
        hub = cast("Hub", members)
        handler = handle(cascade.name, lookup)
        found[cascade.name] = Served(cascade.name, hub, models.first.cache, lookup, handler)
    return found


def members_of(served: Served) -> Members | None:
    """The members of a cascade; None for a model."""
    return served.lookup.members if isinstance(served.lookup, CascadeLookup) else None


def job_queue(models: ServedModels, name: str) -> str:
    """What a job keeps of a name that a client uses. Raises Problem 404, 409 or 503."""
    served = models.get(name)
    members = members_of(served) if served is not None else None
    return models.base(name) if members is None else members.queue()


async def _look_up(served: Served, request: LookupRequest, texts: Sequence[str], found: LookupResult) -> None:
    """Finds what a member says of some texts of a request."""
    lookup = served.lookup_for(request.client)
    revision = lookup.models.revision
    cached = lookup.local.find(revision, texts, request.tenant)
    missing = [text for text, known in zip(texts, cached, strict=True) if known is None]
    found.count("hit_local", len(texts) - len(missing))
    if missing:
        nothing = [None] * len(missing)
        part = replace(request, texts=missing, cached=nothing, revision=revision, whole=request.texts)
        await lookup.find(part, found)
    for text, known in zip(texts, cached, strict=True):
        if known is not None:
            found.by_text[text] = known.prediction()


async def _look_up_one(
    served: Served, request: LookupRequest, texts: Sequence[str], found: LookupResult
) -> None:
    """The same, with the results of one revision."""
    lookup = served.lookup_for(request.client).for_one(texts)
    revision = lookup.models.revision
    cached: Sequence[CachedPrediction | None] = lookup.local.find(revision, texts, request.tenant)
    if None in cached:
        part = replace(request, texts=texts, cached=cached, revision=revision, whole=request.texts)
        cached = (await lookup.find_one(part, found)).cached
    else:
        found.count("hit_local", len(texts))
    for text, known in zip(texts, cached, strict=True):
        if known is not None:
            found.by_text[text] = known.prediction()


def _ordered(answer: Prediction, labels: Sequence[str]) -> Prediction:
    try:
        return in_order(answer, labels)
    except ValueError as error:
        raise Problem(409, str(error), code="labels_differ") from None
