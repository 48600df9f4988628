"""Who waits for what in an API process: one waiter for each entry, however many requests share it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from batcher.messages import Lane, Outcome

# A result whose hint was lost is looked for after this, then at growing intervals.
LOOK_S = 0.3
LOOK_MOST_S = 1.0


@dataclass(slots=True, eq=False)
class PendingEntry:
    """One id that `waiting` requests of this process wait for. Its future never holds an exception.

    At `look_at` its result is looked for, in case a hint was lost: never before the queue has taken its ask,
    which was at `asked_at`. The queue looks for a long-lived result of `revision`, if there is one, before it
    takes the text.
    """

    id: str
    text: str
    lane: Lane
    trace: str
    future: asyncio.Future[Outcome]
    deadline: float
    first: bool = False
    revision: str = ""
    waiting: int = 0
    asked_at: float = math.inf
    look_at: float = math.inf

    def asked(self, now: float) -> None:
        """The queue has answered its ask: from now on there is an entry, or a result."""
        if self.asked_at == math.inf:
            self.asked_at, self.look_at = now, now + LOOK_S


class PendingEntries:
    """The waiters of one process, by id. Times are of the event loop's clock."""

    def __init__(self) -> None:
        self._by_id: dict[str, PendingEntry] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, entry: str) -> bool:
        return entry in self._by_id

    def __iter__(self) -> Iterator[PendingEntry]:
        return iter(self._by_id.values())

    def get(self, entry: str) -> PendingEntry | None:
        """The waiter for this id, if anybody waits for it."""
        return self._by_id.get(entry)

    def hold(
        self,
        items: Iterable[tuple[str, str]],
        deadline: float,
        lane: Lane,
        trace: str,
        first: bool,
        revision: str,
    ) -> tuple[dict[str, PendingEntry], list[PendingEntry]]:
        """One more request waits for these (id, text): the waiters by id, and those to ask the queue for.

        To ask for: what is new, and again what is now wanted for longer or sooner.
        """
        loop = asyncio.get_running_loop()
        held: dict[str, PendingEntry] = {}
        ask: list[PendingEntry] = []
        for entry, text in items:
            if entry in held:
                continue
            waiter = self._by_id.get(entry)
            if waiter is None or waiter.future.done():
                future: asyncio.Future[Outcome] = loop.create_future()
                waiter = PendingEntry(entry, text, lane, trace, future, deadline, first, revision)
                self._by_id[entry] = waiter
                ask.append(waiter)
            elif (
                deadline > waiter.deadline + 0.001
                or (first and not waiter.first)
                or (lane == "interactive" and waiter.lane == "bulk")
            ):
                waiter.deadline = max(deadline, waiter.deadline)
                waiter.lane = lane
                waiter.first |= first
                ask.append(waiter)
            waiter.waiting += 1
            held[entry] = waiter
        return held, ask

    def let_go(self, held: Iterable[PendingEntry]) -> list[str]:
        """One request less waits for these. The ids without an outcome that nobody waits for any more."""
        unwanted: list[str] = []
        for waiter in held:
            waiter.waiting -= 1
            if waiter.waiting:
                continue
            self._forget(waiter)
            if not waiter.future.done():
                waiter.future.cancel()
                unwanted.append(waiter.id)
        return unwanted

    def late(self, now: float, *, everybody: bool) -> list[PendingEntry]:
        """Whose results are to be looked for now: those that are due, or all that have waited for a while."""
        late = []
        for waiter in self:
            waited = now - waiter.asked_at
            if waiter.look_at <= now or (everybody and waited > LOOK_S):
                waiter.look_at = now + min(max(waited, LOOK_S), LOOK_MOST_S)
                late.append(waiter)
        return late

    def resolve(self, waiter: PendingEntry, outcome: Outcome) -> None:
        """Whoever waits gets this outcome; the next one who comes asks anew."""
        if not waiter.future.done():
            waiter.future.set_result(outcome)
        self._forget(waiter)

    def resolve_all(self, outcome: Outcome) -> None:
        """Everybody gets this outcome."""
        for waiter in list(self):
            self.resolve(waiter, outcome)

    def _forget(self, waiter: PendingEntry) -> None:
        if self._by_id.get(waiter.id) is waiter:
            del self._by_id[waiter.id]
