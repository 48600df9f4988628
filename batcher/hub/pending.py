"""What requests of an API process wait for: entries without an outcome, which equal texts share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

from batcher.errors import BudgetExceeded, EntryFailed, EntryPoisoned, MillraceError
from batcher.messages import Lane, Outcome


@dataclass(slots=True)
class HubCounts:
    """All count entries, except `round_trips`."""

    queued: int = 0
    joined: int = 0
    shed: int = 0
    expired: int = 0
    cancelled: int = 0
    hinted: int = 0
    polled: int = 0
    asked_again: int = 0
    malformed: int = 0
    recovered: int = 0
    round_trips: int = 0


@dataclass(slots=True, eq=False)
class Waiter:
    """A request, which waits until `left` of its entries have an outcome, or for an error that ends it.

    `deadline` is a time of the event loop. Results are read from the shared cache if they are of `revision`;
    with `only`, stored results of other revisions do not answer. `first`: its entries go before others.
    """

    deadline: float
    lane: Lane
    trace: str
    first: bool = False
    revision: str = ""
    only: str = ""
    left: int = 0
    error: MillraceError | None = None
    _ended: asyncio.Future[None] | None = None

    def note(self, outcome: Outcome) -> None:
        """One of its entries has this outcome."""
        self.left -= 1
        if isinstance(outcome, MillraceError) and not isinstance(outcome, (EntryFailed, EntryPoisoned)):
            self.error = outcome
        if not self.left or self.error is not None:
            self._end()

    async def wait(self, budget_s: float) -> None:
        """Returns once it has ended, or after `budget_s`."""
        if self.left and self.error is None:
            loop = asyncio.get_running_loop()
            self._ended = loop.create_future()
            timer = loop.call_later(budget_s, self._end)
            try:
                await self._ended
            finally:
                timer.cancel()

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)


@dataclass(slots=True, eq=False)
class PendingEntry:
    """One entry that requests of this process wait for: the `waiters`.

    Its result is polled at `look_at`, in case the hint was lost. The queue accepted it at `asked_at`. With
    `revision`, the queue reads the cached result of that revision first, and with `only`, no stored result of
    another one. `enqueue` is the number of the last command that enqueued it.
    """

    id: str
    text: str
    lane: Lane
    trace: str
    deadline: float
    first: bool = False
    revision: str = ""
    only: str = ""
    waiters: list[Waiter] = field(default_factory=list)
    outcome: Outcome | None = None
    asked_at: float = math.inf
    look_at: float = math.inf
    enqueue: int = 0


def outcomes(
    waiter: Waiter,
    entries: Mapping[str, PendingEntry],
    ids: Sequence[str],
    budget_s: float,
    counts: HubCounts,
) -> list[Outcome]:
    """The outcomes of these ids, in order, after `waiter` has waited for `budget_s` or less.

    EntryFailed and EntryPoisoned are returned in place of the text's prediction. Any other error is raised.
    """
    if waiter.error is not None:
        # Raise a copy: raising the shared instance would attach this frame to its traceback and
        # create a reference cycle, which only the garbage collector can free.
        raise copy(waiter.error)
    if waiter.left:
        counts.expired += waiter.left
        raise BudgetExceeded(f"no result within the budget of {budget_s:g} s; allow more time")
    return [outcome for one in ids if (outcome := entries[one].outcome) is not None]
