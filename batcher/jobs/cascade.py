"""A cascade as jobs ask it: two queues and their caches in the place of one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from batcher.cascades import Cascade
from batcher.core.cascade import combined, in_order
from batcher.core.commands import Command
from batcher.core.snapshot import NO_SNAPSHOT, ModelRecord, Snapshot
from batcher.errors import EntryFailed
from batcher.jobs.runner import Cache, Commands, Hub
from batcher.messages import Lane, Outcome, Prediction


class Member:
    """The queue of a model, and its cache."""

    def __init__(self, hub: Hub, cache: Cache) -> None:
        self.hub = hub
        self.cache = cache

    async def classify(
        self, texts: dict[str, str], *, budget_s: float, lane: Lane, trace: str
    ) -> dict[str, Outcome]:
        """The outcome of each text, by the ids. Raises what the hub raises."""
        model = self.hub.snapshot.model
        ids = list(texts)
        known = await self.cache.get(model.revision, ids) if model is not None else [None] * len(ids)
        found: dict[str, Outcome] = {one: hit for one, hit in zip(ids, known, strict=True) if hit is not None}
        if missing := [one for one in ids if one not in found]:
            wanted = [texts[one] for one in missing]
            outcomes = await self.hub.classify(missing, wanted, budget_s=budget_s, lane=lane, trace=trace)
            found.update(zip(missing, outcomes, strict=True))
        return found


class CascadeHub:
    """Asks `fast`, and `sure` for the texts that it is not sure of. `get` finds nothing: members do that.

    If `sure` refuses texts, a caller tries all of them again; those that `fast` has answered are then cached.
    """

    def __init__(self, cascade: Cascade, fast: Member, sure: Member) -> None:
        self._cascade = cascade
        self._members = fast, sure

    @property
    def _models(self) -> tuple[ModelRecord | None, ModelRecord | None]:
        fast, sure = self._members
        return fast.hub.snapshot.model, sure.hub.snapshot.model

    @property
    def snapshot(self) -> Snapshot:
        """Only its model is set, once both members have one."""
        fast, sure = self._models
        model = combined(self._cascade, fast, sure) if fast is not None and sure is not None else None
        return replace(NO_SNAPSHOT, model=model)

    @property
    def console(self) -> Commands:
        return self

    def send(self, command: Command[Any]) -> None:
        """Sends a command to both queues: each knows what its own workers refused."""
        for member in self._members:
            member.hub.console.send(command)

    async def start(self, patience_s: float = 0.0) -> None:
        await asyncio.gather(*(member.hub.start(patience_s) for member in self._members))

    async def stop(self) -> None:
        await asyncio.gather(*(member.hub.stop() for member in self._members))

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]:
        return [None] * len(ids)

    async def close(self) -> None:
        await asyncio.gather(*(member.cache.close() for member in self._members))

    async def classify(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        budget_s: float,
        lane: Lane = "bulk",
        trace: str = "",
    ) -> list[Outcome]:
        """Raises what the hub of either member raises."""
        fast, sure = self._members
        wanted = dict(zip(ids, texts, strict=True))
        found = await fast.classify(wanted, budget_s=budget_s, lane=lane, trace=trace)
        rest = {one: wanted[one] for one, outcome in found.items() if self._passes_on(outcome)}
        if rest:
            found |= await sure.classify(rest, budget_s=budget_s, lane=lane, trace=trace)
        return [self._own(found[one]) for one in ids]

    def _passes_on(self, outcome: Outcome) -> bool:
        return isinstance(outcome, Prediction) and not self._cascade.trusts(outcome)

    def _own(self, outcome: Outcome) -> Outcome:
        """As an answer of the cascade: with its order of labels, and stamped with its revision."""
        model = self.snapshot.model
        if model is None or not isinstance(outcome, Prediction):
            return outcome
        try:
            return in_order(outcome, model.labels)._replace(revision=model.revision)
        except ValueError as error:
            return EntryFailed(str(error))
