"""A worker's exchange with several shards: one is its home, and it helps others while that is empty or down.

A claim at home says which other shard needs help (decision 0014). Every result goes to the shard that its
entry was claimed from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TypeVar

from batcher.connection.outage import REDIS_ERRORS, Outage
from batcher.core.commands import Claim, Claimed
from batcher.messages import Prediction, Result
from batcher.settings import WorkerSettings
from batcher.worker.batching import ClaimedTexts
from batcher.worker.exchange import NOTHING, Arrivals, Exchange, Queues, Remember
from batcher.worker.host import Host
from batcher.worker.inference import CostModel
from model_store import Layout

# A worker that has left its home tries to return after this long.
AWAY_S = 1.0
# A pause before it moves, so that it does not go back and forth between shards that are down.
PAUSE_S = 0.02

T = TypeVar("T")


def exchange_with(
    queues: Queues,
    settings: WorkerSettings,
    layout: Layout,
    remember: Remember,
    stopping: threading.Event,
    host: Host,
) -> Exchange | ShardedExchange:
    """The exchange of a worker with its queue, or with all of its shards."""
    if not queues.others:
        return Exchange(queues, settings, layout, remember, stopping, host.now)
    shared = settings, layout, remember, stopping, host.now
    parts = {one.number: ShardExchange(one, *shared) for one in (queues, *queues.others)}
    for number, exchange in parts.items():
        exchange.late = host.thread(f"late-{number}")
    return ShardedExchange(parts, queues.number, remember, stopping, host.now)


class ShardExchange(Exchange):
    """The exchange with one shard of several, whose outages must not delay the others."""

    late: Executor

    @property
    def remembers(self) -> bool:
        """Whether sending results also caches them."""
        return self._queue.remembers

    def send(self, results: Sequence[Result], *, idle: bool = False) -> bool:
        """Sends results once. If Redis does not answer, another thread repeats it, and this returns False."""
        if not results or (self.outage.over and self.attempt(results, idle=idle)):
            return bool(results)
        self.late.submit(super().send, results)
        return False

    def finish(self) -> None:
        """Returns once the other thread has sent its results, or given them up."""
        self.late.shutdown()

    def _failed(self, error: Exception) -> Claimed:
        self.outage.lost(error)
        self.idle = False
        return NOTHING


class ShardedExchange:
    """Claims entries from several shards, and sends results to them. `parts`: the exchange with each.

    It has the methods of an `Exchange`. `visit` makes the worker known at a shard and raises Redis errors; a
    worker that has moved there (True) counts there until `leave`.
    """

    visit: Callable[[int, bool], None]
    leave: Callable[[int], None]
    home_reachable: Callable[[], bool]

    def __init__(
        self,
        parts: dict[int, ShardExchange],
        home: int,
        remember: Remember,
        stopping: threading.Event,
        now: Callable[[], float],
    ) -> None:
        self.parts = parts
        self._home = self._here = home
        self._remember = remember
        self._stopping = stopping
        self._now = now
        self._home_again_at = 0.0
        # Where each claimed entry came from.
        self._origin: dict[str, int] = {}
        # Notes of shards: to serve before this one; helped last, with entries left; helped last, with none.
        self._urgent = self._unfinished = ""
        self._empty = "-"

    @property
    def _own(self) -> ShardExchange:
        return self.parts[self._here]

    @property
    def left(self) -> int:
        """How many entries wait at the shard of the next claim, as far as is known."""
        return self._own.left + bool(self._urgent or self._unfinished)

    @property
    def idle(self) -> bool:
        return self._own.idle

    @property
    def arrivals(self) -> Arrivals:
        return self._own.arrivals

    @property
    def outage(self) -> Outage:
        """The outage of the shard at which the worker waits."""
        return self._own.outage

    @property
    def skipped(self) -> int:
        return sum(part.skipped for part in self.parts.values())

    @property
    def expired(self) -> int:
        return sum(part.expired for part in self.parts.values())

    def claim_command(
        self, held: ClaimedTexts, cost: CostModel, budget: int, *, ahead: bool = False, waits: bool = False
    ) -> Claim:
        command = self._own.claim_command(held, cost, budget, ahead=ahead, waits=waits)
        # A worker that leaves for another shard cannot be woken at this one.
        return replace(command, helped=self._empty, idle_ms=-1 if self._unfinished else command.idle_ms)

    def bulk_budget(self, cost: CostModel, budget: int) -> int:
        return self._own.bulk_budget(cost, budget)

    def claim(self, command: Claim) -> Claimed:
        self._return_home()
        urgent = self._urgent
        self._urgent = ""
        if urgent and command.free and (claimed := self._help(urgent, command)).entries:
            return claimed
        return self._claimed(self._own.claim(command), command)

    def wait(self, window_s: float, command: Claim) -> Claimed:
        if self._return_home():
            return NOTHING
        if self._here != self._home:
            self._known_at(self._here, moved=True)
        return self._claimed(self._own.wait(window_s, command), command)

    def swap(self, results: Sequence[Result], command: Claim) -> tuple[bool, Claimed]:
        parts = self._by_origin(results)
        together = parts.pop(self._here, []) if not self._urgent else []
        sent = [self.parts[number].send(part) for number, part in parts.items()]
        if not together:
            return bool(sent) and all(sent), self.claim(command)
        done, claimed = self._own.swap(together, command)
        return done and all(sent), self._claimed(claimed, command)

    def send(self, results: Sequence[Result], *, idle: bool = False) -> bool:
        sent = [
            self.parts[number].send(part, idle=idle and number == self._here)
            for number, part in self._by_origin(results).items()
        ]
        return bool(sent) and all(sent)

    def finish(self) -> None:
        for part in self.parts.values():
            part.finish()

    def remember(self, results: Sequence[Result]) -> None:
        if not all(part.remembers for part in self.parts.values()):
            self._remember((entry, result) for entry, result in results if isinstance(result, Prediction))

    def release(self, ids: Sequence[str]) -> None:
        """Returns claimed entries to their shards. Raises the last Redis error; those leases then expire."""
        failed: Exception | None = None
        for number, part in self._by_origin([(entry, entry) for entry in ids]).items():
            try:
                self.parts[number].release([entry for entry, _ in part])
            except REDIS_ERRORS as error:
                failed = error
        if failed is not None:
            raise failed

    def _by_origin(self, pairs: Sequence[tuple[str, T]]) -> dict[int, list[tuple[str, T]]]:
        """Pairs whose first part is an id, by the shard that the entry came from, which is then forgotten."""
        parts: dict[int, list[tuple[str, T]]] = {}
        for pair in pairs:
            parts.setdefault(self._origin.pop(pair[0], self._here), []).append(pair)
        return parts

    def _claimed(self, claimed: Claimed, command: Claim) -> Claimed:
        """Takes the reply to a claim at this shard. If it is empty, helps the one that has waited longest."""
        if not self._own.outage.over:
            self._move()
            return claimed
        self._empty = "-"
        if claimed.entries:
            self._origin.update((entry.id, self._here) for entry in claimed.entries)
            self._urgent = claimed.note
            return claimed
        note = claimed.note or self._unfinished
        return self._help(note, command) if note and command.free else claimed

    def _help(self, note: str, command: Claim) -> Claimed:
        """Claims from the shard of a note, at which this worker never waits."""
        self._unfinished = ""
        number = int(note.split()[0])
        # Another version of the settings may know more shards.
        if number == self._here or number not in self.parts or not self._known_at(number):
            return NOTHING
        claimed = self.parts[number].claim(replace(command, idle_ms=-1, waits=False, helped=""))
        self._origin.update((entry.id, number) for entry in claimed.entries)
        if claimed.left:
            self._unfinished = note
        else:
            self._empty = note
        return claimed

    def _known_at(self, number: int, moved: bool = False) -> bool:
        """Makes this worker known at a shard. Returns whether that shard answers."""
        try:
            self.visit(number, moved)
        except REDIS_ERRORS as error:
            self.parts[number].outage.lost(error)
            return False
        return True

    def _move(self) -> None:
        """Waits at another shard, because this one does not answer. Pauses if none does."""
        self._home_again_at = self._now() + AWAY_S
        self._stopping.wait(PAUSE_S)
        for number in self.parts:
            if number not in (self._here, self._home) and self._known_at(number, moved=True):
                self._wait_at(number)
                return
        self._stopping.wait(self._own.outage.pause_s)
        self._wait_at(self._home)

    def _return_home(self) -> bool:
        """Waits at home again once it answers. Returns whether the worker has moved."""
        if self._here == self._home or self._now() < self._home_again_at or not self.home_reachable():
            return False
        self._wait_at(self._home)
        return True

    def _wait_at(self, number: int) -> None:
        self.leave(self._here)
        self._here = number
        self.parts[number].idle = False
