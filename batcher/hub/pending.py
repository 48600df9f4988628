"""What requests of this process wait for: entries without an outcome, and the way to their outcomes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

from batcher.errors import BudgetExceeded, EntryFailed, EntryPoisoned, MillraceError
from batcher.hub.counts import HubCounts
from batcher.messages import Lane, Outcome


@dataclass(slots=True, eq=False)
class PendingEntry:
    """One entry that `waiting` requests of this process wait for.

    Its result is polled at `look_at`, in case the hint was lost. The queue accepted it at `asked_at`. With
    `revision`, the queue reads the cached result of that revision first, and with `only`, no stored result of
    another one. `enqueue` is the number of the last command that enqueued it.
    """

    id: str
    text: str
    lane: Lane
    trace: str
    future: asyncio.Future[Outcome]
    deadline: float
    first: bool = False
    revision: str = ""
    only: str = ""
    waiting: int = 0
    asked_at: float = math.inf
    look_at: float = math.inf
    enqueue: int = 0


def resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    """Sets the outcome of an entry: an exception if it ends all requests that wait for it."""
    if not isinstance(outcome, MillraceError) or isinstance(outcome, (EntryFailed, EntryPoisoned)):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)
        future.exception()  # not logged if no request waits any more


async def outcomes(
    held: Mapping[str, PendingEntry], ids: Sequence[str], budget_s: float, counts: HubCounts
) -> list[Outcome]:
    """Waits for the outcomes of these ids, in order, for at most `budget_s`.

    EntryFailed and EntryPoisoned are returned in place of the text's prediction. Any other error is raised
    at once.
    """
    futures = [entry.future for entry in held.values()]
    done, pending = await asyncio.wait(futures, timeout=budget_s, return_when=asyncio.FIRST_EXCEPTION)
    for future in done:
        if error := future.exception():
            # Raise a copy: raising the shared instance would attach this frame to its traceback and
            # create a reference cycle, which only the garbage collector can free.
            raise copy(error)
    if pending:
        counts.expired += len(pending)
        raise BudgetExceeded(f"no result within the budget of {budget_s:g} s; allow more time")
    return [held[entry_id].future.result() for entry_id in ids]
