"""What answers for a model that has a candidate beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from api.metrics import Metrics
from api.models.served import Answering, Handle, ServedModel
from batcher.core.publications import Candidate, number_of
from batcher.lookup.queue import Lookup
from batcher.lookup.share import Choices, ShadowedLookup, ShareLookup
from batcher.publishing.shadow import Shadow, Store


@dataclass(slots=True)
class _Made:
    """What was made of a publication, its candidate and the setting."""

    current: ServedModel
    candidate: ServedModel
    setting: Candidate
    served: ServedModel
    # Which texts are the candidate's, if it has a share.
    choices: Choices | None = None
    # The shadow, and what offers texts to it.
    shadow: Shadow | None = None
    shadowed: ShadowedLookup | None = None

    def change(self, setting: Candidate) -> None:
        """The shadow takes another share from now on."""
        self.setting = setting
        if self.shadowed is not None:
            self.shadowed.change(setting.takes)


class Candidates:
    """Divides the texts of a model between the publication that answers and its candidate.

    `store` keeps the counts of comparisons; `handle` makes the handler of POST /predict for a lookup.
    """

    def __init__(self, store: Store, handle: Handle, metrics: Metrics) -> None:
        self._store = store
        self._handle = handle
        self._metrics = metrics
        self._made: dict[str, _Made] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._stopped = False

    def divide(
        self, answering: Answering, candidates: Mapping[str, tuple[ServedModel, Candidate]]
    ) -> Answering:
        """What answers for each model: the same object until something changes."""
        for model in self._made.keys() - candidates.keys():
            self._end(model)
        if self._stopped:
            return answering
        divided = {model: self._divided(model, answering[model], *both) for model, both in candidates.items()}
        return answering | divided

    def _divided(
        self, model: str, current: ServedModel, candidate: ServedModel, setting: Candidate
    ) -> ServedModel:
        made = self._made.get(model)
        if made is not None and made.current is current and made.candidate is candidate:
            if made.setting == setting:
                return made.served
            if made.shadowed is not None and setting.shadow:
                made.change(setting)
                return made.served
        self._end(model)
        self._made[model] = made = self._make(model, current, candidate, setting)
        return made.served

    def forget(self) -> None:
        """Forgets all texts that have been divided."""
        for made in self._made.values():
            if made.choices is not None:
                made.choices.forget()

    def held(self, entry: str) -> int:
        """How many shadows have yet to compare the text with this id."""
        shadows = [made.shadow for made in self._made.values() if made.shadow is not None]
        return sum(shadow.holds(entry) for shadow in shadows)

    async def stop(self) -> None:
        """Ends all shadows. Their counts are stored."""
        self._stopped = True
        for model in list(self._made):
            self._end(model)
        await asyncio.gather(*self._ending)

    def _make(self, model: str, current: ServedModel, candidate: ServedModel, setting: Candidate) -> _Made:
        if setting.shadow:
            pair = model, number_of(current.queue), setting.number
            counted = partial(self._metrics.shadow, candidate.name)
            shadow = Shadow(candidate.hub, self._store, pair, counted)
            shadowed = ShadowedLookup(current.lookup, shadow.offer, setting.takes)
            served = self._with(current, shadowed)
            return _Made(current, candidate, setting, served, shadow=shadow, shadowed=shadowed)
        choices = Choices(setting)
        served = self._with(current, ShareLookup(current.lookup, candidate.lookup, choices))
        return _Made(current, candidate, setting, served, choices)

    def _with(self, current: ServedModel, lookup: Lookup) -> ServedModel:
        return replace(current, lookup=lookup, handler=self._handle(current.queue, lookup))

    def _end(self, model: str) -> None:
        made = self._made.pop(model, None)
        if made is not None and made.shadow is not None:
            task = asyncio.create_task(made.shadow.stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
