"""The entries that requests of an API process wait for. Requests for the same text share one entry."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from batcher.messages import Lane, Outcome

# Results are polled after this time in case a hint was lost, then at growing intervals up to LOOK_MOST_S.
LOOK_S = 0.3
LOOK_MOST_S = 1.0


@dataclass(slots=True, eq=False)
class PendingEntry:
    """One entry that `waiting` requests of this process wait for. Errors are results of its future, too.

    Its result is polled at `look_at`, in case the hint was lost, but never before the queue has accepted the
    entry, which was at `asked_at`. With `revision`, the queue reads the cached result of that revision first.
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
        """Marks the entry as accepted by the queue, which from now on has the entry or its result."""
        if self.asked_at == math.inf:
            self.asked_at, self.look_at = now, now + LOOK_S


class PendingEntries:
    """The pending entries of one process, by id. Times are those of the event loop's clock."""

    def __init__(self) -> None:
        self._by_id: dict[str, PendingEntry] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._by_id

    def __iter__(self) -> Iterator[PendingEntry]:
        return iter(self._by_id.values())

    def get(self, entry_id: str) -> PendingEntry | None:
        return self._by_id.get(entry_id)

    def hold(
        self,
        items: Iterable[tuple[str, str]],
        deadline: float,
        lane: Lane,
        trace: str,
        first: bool,
        revision: str,
    ) -> tuple[dict[str, PendingEntry], list[PendingEntry]]:
        """Adds a request that waits for these (id, text). Returns its entries by id, and those to enqueue.

        An entry is to be enqueued if it is new, or if this request has a later deadline or a higher priority.
        """
        loop = asyncio.get_running_loop()
        held: dict[str, PendingEntry] = {}
        to_enqueue: list[PendingEntry] = []
        for entry_id, text in items:
            if entry_id in held:
                continue
            entry = self._by_id.get(entry_id)
            if entry is None or entry.future.done():
                future: asyncio.Future[Outcome] = loop.create_future()
                entry = PendingEntry(entry_id, text, lane, trace, future, deadline, first, revision)
                self._by_id[entry_id] = entry
                to_enqueue.append(entry)
            elif (
                deadline > entry.deadline + 0.001
                or (first and not entry.first)
                or (lane == "interactive" and entry.lane == "bulk")
            ):
                entry.deadline = max(deadline, entry.deadline)
                entry.lane = lane
                entry.first |= first
                to_enqueue.append(entry)
            entry.waiting += 1
            held[entry_id] = entry
        return held, to_enqueue

    def let_go(self, held: Iterable[PendingEntry]) -> list[str]:
        """Removes a request. Returns the ids without an outcome that no other request waits for."""
        unwanted: list[str] = []
        for entry in held:
            entry.waiting -= 1
            if entry.waiting:
                continue
            self._forget(entry)
            if not entry.future.done():
                entry.future.cancel()
                unwanted.append(entry.id)
        return unwanted

    def late(self, now: float, *, every_entry: bool) -> list[PendingEntry]:
        """The entries to poll now: those that are due, or with `every_entry` all that have waited LOOK_S."""
        late = []
        for entry in self:
            waited = now - entry.asked_at
            if entry.look_at <= now or (every_entry and waited > LOOK_S):
                entry.look_at = now + min(max(waited, LOOK_S), LOOK_MOST_S)
                late.append(entry)
        return late

    def resolve(self, entry: PendingEntry, outcome: Outcome) -> None:
        """Passes the outcome to the requests that wait. A later request enqueues the text again."""
        if not entry.future.done():
            entry.future.set_result(outcome)
        self._forget(entry)

    def resolve_all(self, outcome: Outcome) -> None:
        for entry in list(self):
            self.resolve(entry, outcome)

    def _forget(self, entry: PendingEntry) -> None:
        if self._by_id.get(entry.id) is entry:
            del self._by_id[entry.id]
