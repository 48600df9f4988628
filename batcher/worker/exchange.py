"""A worker's exchange with its queue, through outages of Redis.

A queue has one or more shards. One is the worker's home, and it helps others while that is empty or down; a
claim at home says which other shard needs help (decision 0014). Every result goes to the shard that its entry
was claimed from.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from batcher.connection.outage import REDIS_ERRORS, Outage
from batcher.core.commands import Claim, Claimed, Completed
from batcher.messages import Result
from batcher.settings import WorkerSettings
from batcher.worker.batching import Arrivals, ClaimedTexts, CostModel, InteractiveTraffic
from batcher.worker.host import Host
from batcher.worker.queue import Queues
from model_store import Layout

log = logging.getLogger(__name__)
WAIT_S = 2.0
# How long to retry while Redis does not answer. After that, the leases expire and the entries are run again.
PATIENCE_S = 30.0
NOTHING = Claimed()
# A worker that has left its home tries to return after this long.
AWAY_S = 1.0
# A pause before it moves, so that it does not go back and forth between shards that are down.
PAUSE_S = 0.02

T = TypeVar("T")


class ShardExchange:
    """Claims entries from one shard and sends results to it.

    `left` is the number of entries still waiting after the last claim; `skipped` and `expired` are totals.
    `leases` are the ids that the heartbeat renews: claimed, and neither completed nor given up. Each change
    is one operation on a set, which is atomic. With several shards, what one does not take is sent again by
    its thread `late`, so that its outages do not delay the others.
    """

    def __init__(
        self,
        queues: Queues[Any],
        settings: WorkerSettings,
        layout: Layout,
        leases: set[str],
        stopping: threading.Event,
        host: Host,
    ) -> None:
        self.left = self.skipped = self.expired = 0
        self.leases = leases
        self.outage = Outage(now=host.now)
        self.arrivals = Arrivals()
        # Whether Redis knows that this worker is idle. If not, the worker must claim before it waits.
        self.idle = False
        # Whether Redis knows the script that sends results: a claim behind them would run without them.
        self.knows_script = False
        # Set if there are other shards.
        self.late: Executor | None = None
        self._traffic = InteractiveTraffic()
        self._busy_at = host.now()
        self.queue = queues.commands
        self._waiting_queue = queues.waiting
        self._texts = settings.batch_texts
        self._bulk_wait_s = settings.bulk_wait_ms / 1000
        self._layout = layout
        self._stopping = stopping
        self._now = host.now

    def claim_command(
        self, pool: ClaimedTexts, cost: CostModel, budget: int, *, ahead: bool = False, waits: bool = False
    ) -> Claim:
        """Builds the next claim of a worker that holds these texts, `ahead` while a batch runs.

        Pass `waits=True` for `wait`.
        """
        now = self._now()
        limits = pool.limits(budget, self.bulk_budget(cost, budget))
        free = not ahead and not pool.texts
        idle_ms = int((now - self._busy_at) * 1000) if free else -1
        return self.queue.claim_command(self._texts, *limits, free, waits, idle_ms)

    def bulk_budget(self, cost: CostModel, budget: int) -> int:
        """Tokens of a batch that holds only bulk entries."""
        return self._traffic.bulk_tokens(cost, budget, self._now(), self._bulk_wait_s)

    def claim(self, command: Claim) -> Claimed:
        """Claims once. If Redis does not answer, returns an empty claim."""
        try:
            (claimed,) = self.queue.run([command])
        except REDIS_ERRORS as error:
            return self._failed(error)
        return self._taken(claimed, command)

    def wait(self, window_s: float, command: Claim) -> Claimed:
        """Waits up to WAIT_S for entries, then claims at once, or after `window_s` to let more arrive."""
        try:
            if window_s <= 0.0:
                return self._taken(self._waiting_queue.wait_and_claim(WAIT_S, command), command)
            if not self._waiting_queue.wait(WAIT_S):
                self.idle = False
                return NOTHING
        except REDIS_ERRORS as error:
            return self._failed(error)
        self._stopping.wait(window_s)
        return self.claim(command)

    def send_and_wait(
        self, results: Sequence[Result], command: Claim, sent: Callable[[bool], None]
    ) -> Claimed:
        """Sends results and waits as `wait` does, in one write.

        Calls `sent` with whether Redis accepted the results, before the wait.
        """
        complete = self.queue.complete_command(((entry, result.encode()) for entry, result in results), True)
        accepted = False

        def completed(answer: Completed) -> None:
            nonlocal accepted
            accepted = True
            self.queue.read_completed(answer)
            self._sent(results)
            sent(True)

        try:
            claimed = self._waiting_queue.complete_and_wait(complete, WAIT_S, command, completed)
        except REDIS_ERRORS as error:
            if accepted:
                return self._failed(error)
            self.knows_script = False
            sent(self.send(results, idle=True))
            return NOTHING
        return self._taken(claimed, command)

    def swap(self, results: Sequence[Result], command: Claim) -> tuple[bool, Claimed]:
        """Sends results and claims in one round trip. Returns whether Redis accepted the results."""
        if not results:
            return False, self.claim(command)
        try:
            complete = self.queue.complete_command((entry, result.encode()) for entry, result in results)
            completed, claimed = self.queue.run([complete, command])
        except REDIS_ERRORS:
            return self.send(results), NOTHING
        self.queue.read_completed(completed)
        self._sent(results)
        return True, self._taken(claimed, command)

    def send(self, results: Sequence[Result], *, idle: bool = False) -> bool:
        """Sends results. Returns whether Redis has accepted them by now. `idle`: the worker waits next."""
        if self.late is None or not results:
            return self._send_patiently(results, idle=idle)
        if self.outage.over and self._attempt(results, idle=idle):
            return True
        self.late.submit(self._send_patiently, results)
        return False

    def _send_patiently(self, results: Sequence[Result], *, idle: bool = False) -> bool:
        """Retries while Redis does not answer, but not once the worker is to stop.

        Returns whether Redis accepted them; their leases are no longer renewed either way.
        """
        deadline = self._now() + PATIENCE_S
        try:
            while results:
                if self._attempt(results, idle=idle):
                    return True
                if self._now() > deadline or self._stopping.is_set():
                    break
                self._stopping.wait(self.outage.pause_s)
            return False
        finally:
            self.leases.difference_update([entry for entry, _ in results])

    def _attempt(self, results: Sequence[Result], *, idle: bool) -> bool:
        """Sends results once. Returns whether Redis accepted them; if not, their leases are still renewed."""
        try:
            self.queue.complete(((entry, result.encode()) for entry, result in results), idle)
        except REDIS_ERRORS as error:
            self.outage.lost(error)
            return False
        self._sent(results)
        self.idle = self.idle or idle
        return True

    def finish(self) -> None:
        """Returns once nothing is sent any more, after which the clients may be closed."""
        if self.late is not None:
            self.late.shutdown()

    def release(self, ids: Sequence[str]) -> None:
        """Returns claimed entries to the queue. Raises Redis errors; the leases then expire."""
        self.leases.difference_update(ids)
        self.queue.release(ids)

    def _failed(self, error: Exception) -> Claimed:
        self.outage.lost(error)
        self.idle = self.knows_script = False
        return NOTHING

    def _sent(self, results: Sequence[Result]) -> None:
        self.knows_script = True
        if not self.outage.over:
            self.outage.found()
        self.leases.difference_update([entry for entry, _ in results])

    def _taken(self, claim: Claimed, command: Claim) -> Claimed:
        """Starts renewing the leases of claimed entries. If there are none, this worker may be idle."""
        if not self.outage.over:
            self.outage.found()
        self.leases.update([entry.id for entry in claim.entries])
        now = self._now()
        interactive = [entry.cost for entry in claim.entries if entry.lane == "interactive"]
        self.arrivals = self.arrivals.seen(len(claim.entries), now)
        self._traffic = self._traffic.seen(interactive, now)
        self.left = claim.left
        self.idle = command.idle_ms >= 0 and not (claim.entries or claim.note)
        if claim.entries:
            self._busy_at = now
        self.skipped += claim.skipped
        self.expired += claim.expired
        return claim


class Presence(Protocol):
    """The heartbeats of a worker. `leases` are the ids that they renew at each shard.

    `visit` makes the worker known at a shard and raises Redis errors; a worker that has moved there (True)
    counts there until `leave`.
    """

    @property
    def leases(self) -> Mapping[int, set[str]]: ...
    @property
    def home_reachable(self) -> bool: ...
    def visit(self, number: int, moved: bool) -> None: ...
    def leave(self, number: int) -> None: ...


class Exchange:
    """Claims entries and sends results for one worker, through outages of Redis.

    `parts`: the exchange with each shard, by number. `here` is the one at which the worker waits.
    """

    def __init__(
        self,
        queues: Queues[Any],
        settings: WorkerSettings,
        layout: Layout,
        presence: Presence,
        stopping: threading.Event,
        host: Host,
    ) -> None:
        self.parts = {
            one.number: ShardExchange(one, settings, layout, presence.leases[one.number], stopping, host)
            for one in (queues, *queues.others)
        }
        if queues.others:
            for number, part in self.parts.items():
                part.late = host.thread(f"late-{number}")
        self.here = self.parts[queues.number]
        # How many entries wait at the shard of the next claim, as far as is known.
        self.left = 0
        self._home = self._here = queues.number
        self._presence = presence
        self._stopping = stopping
        self._now = host.now
        self._home_again_at = 0.0
        # Where each claimed entry came from.
        self._origin: dict[str, int] = {}
        # Notes of shards: to serve before this one; helped last, with entries left; helped last, with none.
        self._urgent = self._unfinished = ""
        # A worker without other shards does not ask for one that needs help.
        self._empty = self._none = "-" if queues.others else ""

    def claim_command(
        self, pool: ClaimedTexts, cost: CostModel, budget: int, *, ahead: bool = False, waits: bool = False
    ) -> Claim:
        command = self.here.claim_command(pool, cost, budget, ahead=ahead, waits=waits)
        if not self._none:
            return command
        # A worker that leaves for another shard cannot be woken at this one.
        return replace(command, helped=self._empty, idle_ms=-1 if self._unfinished else command.idle_ms)

    def claim(self, command: Claim) -> Claimed:
        self._return_home()
        urgent = self._urgent
        self._urgent = ""
        if urgent and command.free and (claimed := self._help(urgent, command)).entries:
            self._count()
            return claimed
        return self._claimed(self.here.claim(command), command)

    def wait(self, window_s: float, command: Claim) -> Claimed:
        if self._return_home():
            return NOTHING
        if self._here != self._home:
            self._known_at(self._here, moved=True)
        return self._claimed(self.here.wait(window_s, command), command)

    def send_and_wait(
        self, results: Sequence[Result], command: Claim, sent: Callable[[bool], None]
    ) -> Claimed:
        """Sends results, then waits: in one write if there are no other shards and Redis knows the script."""
        if self._none or not self.here.knows_script:
            sent(self.send(results, idle=True))
            return self.wait(0.0, command) if self.here.idle else NOTHING
        self._by_origin(results)
        return self._claimed(self.here.send_and_wait(results, command, sent), command)

    def swap(self, results: Sequence[Result], command: Claim) -> tuple[bool, Claimed]:
        parts = self._by_origin(results)
        together = parts.pop(self._here, []) if not self._urgent else []
        sent = [self.parts[number].send(part) for number, part in parts.items()]
        if not together:
            return bool(sent) and all(sent), self.claim(command)
        done, claimed = self.here.swap(together, command)
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

    @property
    def remembers(self) -> bool:
        """Whether sending results also caches them."""
        return all(part.queue.remembers for part in self.parts.values())

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
        # What was claimed belongs to this shard, also if another thread has lost it since.
        if not (claimed.entries or self.here.outage.over):
            self._move()
            return claimed
        self._empty = self._none
        if claimed.entries:
            for entry in claimed.entries:
                self._origin[entry.id] = self._here
            self._urgent = claimed.note
        elif (note := claimed.note or self._unfinished) and command.free:
            claimed = self._help(note, command)
        self._count()
        return claimed

    def _count(self) -> None:
        self.left = self.here.left + bool(self._urgent or self._unfinished)

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
            self._presence.visit(number, moved)
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
        self._stopping.wait(self.here.outage.pause_s)
        self._wait_at(self._home)

    def _return_home(self) -> bool:
        """Waits at home again once it answers. Returns whether the worker has moved."""
        if self._here == self._home or self._now() < self._home_again_at or not self._presence.home_reachable:
            return False
        self._wait_at(self._home)
        return True

    def _wait_at(self, number: int) -> None:
        self._presence.leave(self._here)
        self._here = number
        self.here = self.parts[number]
        self.here.idle = False
        self._count()
