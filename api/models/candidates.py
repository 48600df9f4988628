"""What answers for a model that has a candidate beside it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from secrets import token_hex

from api.asgi.http import ASGIApp
from api.auth import Authenticator
from api.errors import Problem
from api.metrics import Metrics
from api.models.served import Answering, Served
from api.models.shadowed import ShadowedLookup
from api.models.share import ByClient, ByText, ClientHandler
from api.predict.lookup import PredictionLookup
from batcher.core.revisions import Candidate, number_of
from batcher.errors import MillraceError
from batcher.publishing.shadow import Shadow

# Adds the counts of one report: which model, current and candidate; by which shadow; its number; the counts.
Store = Callable[[tuple[str, int, int], str, int, Counter[str]], Awaitable[object]]


@dataclass(slots=True)
class _Made:
    """What was made of a revision, its candidate and the setting."""

    current: Served
    candidate: Served
    setting: Candidate
    served: Served
    shadowed: ShadowedLookup | None = None

    def change(self, setting: Candidate) -> None:
        """The shadow takes another share from now on."""
        self.setting = setting
        if self.shadowed is not None:
            self.shadowed.change(setting)


class Candidates:
    """Divides the texts of a model between the revision that answers and its candidate.

    `store` keeps the counts of comparisons; `handle` makes the handler of POST /predict for a lookup.
    """

    def __init__(
        self,
        store: Store,
        auth: Authenticator,
        handle: Callable[[str, PredictionLookup], ASGIApp],
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._auth = auth
        self._handle = handle
        self._metrics = metrics
        self._made: dict[str, _Made] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._stopped = False

    def divide(self, answering: Answering, candidates: Mapping[str, tuple[Served, Candidate]]) -> Answering:
        """What answers for each model: the same object until something changes."""
        for base in self._made.keys() - candidates.keys():
            self._end(base)
        if self._stopped:
            return answering
        divided = {base: self._divided(base, answering[base], *both) for base, both in candidates.items()}
        return answering | divided

    def _divided(self, base: str, current: Served, candidate: Served, setting: Candidate) -> Served:
        made = self._made.get(base)
        if made is not None and made.current is current and made.candidate is candidate:
            if made.setting == setting:
                return made.served
            if made.shadowed is not None and setting.shadow:
                made.change(setting)
                return made.served
        self._end(base)
        self._made[base] = made = self._make(base, current, candidate, setting)
        return made.served

    def forget(self) -> None:
        """Forgets all texts that have been divided."""
        for made in self._made.values():
            if isinstance(made.served.lookup, ByText):
                made.served.lookup.forget()

    async def stop(self) -> None:
        """Ends all shadows. Their counts are stored."""
        self._stopped = True
        for base in list(self._made):
            self._end(base)
        await asyncio.gather(*self._ending)

    def _make(self, base: str, current: Served, candidate: Served, setting: Candidate) -> _Made:
        if setting.shadow:
            pair = base, number_of(current.name), setting.number
            report = partial(self._report, pair, token_hex(8))
            shadow = Shadow(
                candidate.hub, report, lambda counts: self._metrics.shadow(candidate.title, counts)
            )
            shadowed = ShadowedLookup(current.lookup, shadow, setting)
            return _Made(current, candidate, setting, self._with(current, shadowed), shadowed)
        if setting.by == "text":
            served = self._with(current, ByText(current.lookup, candidate.lookup, setting))
            return _Made(current, candidate, setting, served)
        handler = ClientHandler(current.handler, candidate.handler, setting, self._auth)
        facts = current.name, current.hub, current.cache, current.lookup, handler
        return _Made(current, candidate, setting, ByClient(*facts, candidate, setting))

    def _with(self, current: Served, lookup: PredictionLookup) -> Served:
        return replace(current, lookup=lookup, handler=self._handle(current.name, lookup))

    async def _report(
        self, pair: tuple[str, int, int], shadow: str, number: int, counts: Counter[str]
    ) -> bool:
        try:
            await self._store(pair, shadow, number, counts)
        except (MillraceError, Problem):
            return False
        return True

    def _end(self, base: str) -> None:
        made = self._made.pop(base, None)
        if made is not None and made.shadowed is not None:
            task = asyncio.create_task(made.shadowed.shadow.stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
