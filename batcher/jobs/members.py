"""Several queues and their caches in place of one, as an attempt at a job uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from batcher.core.commands import Command
from batcher.core.snapshot import Snapshot
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


class Joined:
    """The first member stands for all; a subclass decides which of them classify.

    `get` finds nothing: each member looks into its own cache. If a member refuses texts, a caller tries all
    of them again; those that another one has answered are then cached.
    """

    def __init__(self, *members: Member) -> None:
        self._members = members

    @property
    def snapshot(self) -> Snapshot:
        return self._members[0].hub.snapshot

    @property
    def console(self) -> Commands:
        return self

    def send(self, command: Command[Any]) -> None:
        """Sends a command to all queues: each knows what its own workers refused."""
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
        """Raises what the hub of any member raises."""
        wanted = dict(zip(ids, texts, strict=True))
        found = await self._find(wanted, budget_s=budget_s, lane=lane, trace=trace)
        return [found[one] for one in ids]

    async def _find(
        self, texts: dict[str, str], *, budget_s: float, lane: Lane, trace: str
    ) -> dict[str, Outcome]:
        """The outcome of each text, by the ids."""
        return await self._members[0].classify(texts, budget_s=budget_s, lane=lane, trace=trace)
