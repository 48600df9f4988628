"""A model with a candidate as jobs use it: the candidate answers a share of the texts, or shadows them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from batcher.core.revisions import Candidate
from batcher.jobs.members import Joined, Member
from batcher.messages import Lane, Outcome, Prediction
from batcher.publishing.shadow import Report, Shadow
from batcher.side_by_side import gather

# How long the end of a job waits for texts that a shadow has yet to compare.
DRAIN_S = 5.0
DRAIN_EVERY_S = 0.05
Takes = Callable[[str], bool]


def takes(setting: Candidate, account: str) -> Takes:
    """Whether a text is in the share, for jobs of a client by its account."""
    if setting.by == "text":
        return lambda text: setting.takes(text, "")
    # A job without an account was submitted by no client that a request could have.
    taken = setting.chooses(int(account, 16)) if account else False
    return lambda text: taken


class DividedHub(Joined):
    """Asks the candidate for its share of the texts, and the revision that answers for the rest."""

    def __init__(self, current: Member, candidate: Member, takes: Takes) -> None:
        super().__init__(current, candidate)
        self._takes = takes

    async def _find(
        self, texts: dict[str, str], *, budget_s: float, lane: Lane, trace: str
    ) -> dict[str, Outcome]:
        parts: tuple[dict[str, str], dict[str, str]] = ({}, {})
        for entry, text in texts.items():
            parts[self._takes(text)][entry] = text
        found = await gather(
            member.classify(part, budget_s=budget_s, lane=lane, trace=trace)
            for member, part in zip(self._members, parts, strict=True)
            if part
        )
        return {entry: outcome for part in found for entry, outcome in part.items()}


class ShadowedHub(Joined):
    """Asks the revision that answers, and offers the share of what it has computed to a shadow.

    The end of a job waits for the shadow unless `hurries` returns true.
    """

    def __init__(
        self, current: Member, candidate: Member, takes: Takes, report: Report, hurries: Callable[[], bool]
    ) -> None:
        super().__init__(current, candidate)
        self._takes = takes
        self._report = report
        self._hurries = hurries
        self._shadow: Shadow | None = None

    async def start(self, patience_s: float = 0.0) -> None:
        await super().start(patience_s)
        self._shadow = Shadow(self._members[1].hub, self._report)

    async def stop(self) -> None:
        if self._shadow is not None:
            await self._drain(self._shadow)
            await self._shadow.stop()
        await super().stop()

    async def _find(
        self, texts: dict[str, str], *, budget_s: float, lane: Lane, trace: str
    ) -> dict[str, Outcome]:
        found = await super()._find(texts, budget_s=budget_s, lane=lane, trace=trace)
        assert self._shadow is not None, "the hub has been started"
        for entry, outcome in found.items():
            if isinstance(outcome, Prediction) and not outcome.cached and self._takes(texts[entry]):
                self._shadow.offer(entry, texts[entry], outcome)
        return found

    async def _drain(self, shadow: Shadow) -> None:
        until = monotonic() + DRAIN_S
        while not (shadow.idle or monotonic() > until):
            if await asyncio.to_thread(self._hurries):
                return
            await asyncio.sleep(DRAIN_EVERY_S)
