"""Heartbeats of a worker with several shards: at its home, and at each other one while it works there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batcher.core.outage import REDIS_ERRORS
from batcher.settings import WorkerSettings
from batcher.worker.exchange import Exchange, Queues
from batcher.worker.heartbeat import Heartbeat, Records
from batcher.worker.host import Host
from batcher.worker.queue import WorkerQueue
from batcher.worker.sharded import ShardedExchange


def heartbeat_at(
    queues: Queues,
    settings: WorkerSettings,
    exchange: Exchange | ShardedExchange,
    running_s: Callable[[], float],
    records: Callable[[], Records],
    host: Host,
) -> Heartbeat | Heartbeats:
    """The heartbeat of a worker, for all leases of its exchange."""
    if isinstance(exchange, ShardedExchange):
        return Heartbeats(queues, settings, exchange, running_s, records, host)
    return Heartbeat(queues.heartbeat, settings, exchange.leases, running_s, records, host)


class GuestHeartbeat(Heartbeat):
    """The heartbeat at a shard that the worker does not live at: while it works there, and shortly after.

    A worker that has `moved` here because its home is down counts here meanwhile.
    """

    def __init__(
        self,
        queue: WorkerQueue,
        settings: WorkerSettings,
        leases: set[str],
        running_s: Callable[[], float],
        records: Callable[[], Records],
        host: Host,
    ) -> None:
        super().__init__(queue, settings, leases, running_s, lambda: _guest(records(), self._moved), host)
        self._now = host.now
        self._visited_at = float("-inf")
        self._moved = False

    def visit(self, moved: bool) -> None:
        """Makes the worker known at this shard. Raises Redis errors."""
        known = self._fresh and moved == self._moved
        self._visited_at, self._moved = self._now(), moved
        if not known:
            self._queue.heartbeat(self._leases.copy(), *self._records(), self._ttl_ms)
        self.begin()

    def leave(self) -> None:
        """Reports with the next heartbeat that the worker no longer counts at this shard."""
        self._visited_at, self._moved = self._now(), False

    def send(self) -> bool:
        """As `Heartbeat.send`, unless the worker has left this shard."""
        return not (self._leases or self._moved or self._fresh) or super().send()

    @property
    def _fresh(self) -> bool:
        return self._now() - self._visited_at < self._lease_s


def _guest(records: Records, moved: bool) -> Records:
    """Without a rate, the worker does not count among those that live at this shard."""
    worker, model = records
    return {"revision": worker["revision"], "guest_rate": worker["rate"] if moved else ""}, model


class Heartbeats:
    """The heartbeat at home, and one for each other shard. A shard that is down delays no other heartbeat."""

    def __init__(
        self,
        queues: Queues,
        settings: WorkerSettings,
        exchange: ShardedExchange,
        running_s: Callable[[], float],
        records: Callable[[], Records],
        host: Host,
    ) -> None:
        leases = {number: part.leases for number, part in exchange.parts.items()}
        self._home = Heartbeat(queues.heartbeat, settings, leases[queues.number], running_s, records, host)
        self._guests = {
            other.number: GuestHeartbeat(
                other.heartbeat, settings, leases[other.number], running_s, records, host
            )
            for other in queues.others
        }
        exchange.visit, exchange.leave = self._visit, self._leave
        exchange.home_reachable = lambda: self._home.reachable

    def start(self) -> None:
        """Publishes the model at all shards that answer. Raises Redis errors if none does."""
        lost: list[Exception] = []
        for heartbeat in (self._home, *self._guests.values()):
            try:
                heartbeat.announce()
            except REDIS_ERRORS as error:
                lost.append(error)
        if len(lost) > len(self._guests):
            raise lost[0]
        self._home.begin()

    def end_wait(self) -> None:
        """As `Heartbeat.end_wait`, at whichever shard the worker waits."""
        for heartbeat in (self._home, *self._guests.values()):
            heartbeat.end_wait()

    def stop(self, suspects: Sequence[str] = ()) -> None:
        """Stops all heartbeats. Each shard knows which of the `suspects` are its own."""
        for guest in self._guests.values():
            if guest.alive:
                guest.stop(suspects)
        self._home.stop(suspects)

    @property
    def alive(self) -> bool:
        return self._home.alive

    def _visit(self, number: int, moved: bool) -> None:
        if number in self._guests:
            self._guests[number].visit(moved)

    def _leave(self, number: int) -> None:
        if number in self._guests:
            self._guests[number].leave()
