"""The heartbeat of a worker: a thread with its own Redis client.

It renews leases while a batch runs and publishes the worker's record. It ends the process if the model takes
longer than any batch should, or if the heartbeat itself fails.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from batcher.connection.outage import REDIS_ERRORS, Outage, reason
from batcher.core.commands import TEXTS, Answer, EndWait, HeartbeatReply, Question, Retire, SendHeartbeat
from batcher.settings import WorkerSettings
from batcher.worker.host import Host
from batcher.worker.queue import Queues, WorkerQueue

log = logging.getLogger(__name__)
# Heartbeats per lease: of a worker that holds leases, and of an idle one.
BEATS_PER_LEASE = 4
IDLE_BEATS_PER_LEASE = 2
# The record of a worker expires after this many leases without a heartbeat.
RECORD_LEASES = 2.5
EXIT_HUNG = 70
# How long the last keys of a queue that is no longer served are kept.
RETIRED_S = 300
# The worker's record and that of its model.
Records = tuple[Mapping[str, Any], Mapping[str, Any]]


class HeartbeatQueue(WorkerQueue):
    """The worker's side of a shard, for its heartbeats too.

    `recall` finds what this worker remembers of the texts with these ids, for the console.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.recall: Callable[[Sequence[str]], Sequence[Mapping[str, Any]]] = lambda ids: ()
        self._published: tuple[Mapping[str, Any], Mapping[str, Any]] = {}, {}
        self._question = ""
        self._told = set[tuple[int, str]]()

    def expire_keys(self) -> None:
        """Lets the last keys of the queue expire, unless others use it. Raises Redis errors."""
        pipe = self._client.pipeline(transaction=False)
        for key in ("model", "clock", "waiting", "snapshot"):
            pipe.expire(f"{self.prefix}:{key}", RETIRED_S)
        pipe.execute()

    def heartbeat(
        self,
        ids: Iterable[str],
        record: Mapping[str, Any],
        model: Mapping[str, Any],
        ttl_ms: int,
        takeover: bool = False,
    ) -> int:
        """Extends the leases of `ids` and renews the worker's record. Returns how many leases it held.

        Records that have not changed since the last heartbeat are only sent if Redis does not know them.
        """
        leases = list(ids)
        published = (record, model)
        reply = HeartbeatReply(-1)
        if published == self._published and not takeover:
            (reply,) = self.run([SendHeartbeat(self.worker, self._lease_ms, ttl_ms, leases, {}, {})])
        if reply.extended < 0:
            (reply,) = self.run(
                [SendHeartbeat(self.worker, self._lease_ms, ttl_ms, leases, record, model, takeover)]
            )
            self._published = published
        if reply.question is not None:
            self._answer(reply.question, record["revision"])
        return reply.extended

    def _answer(self, question: Question, revision: str) -> None:
        """Answers a question of the console about texts, with each batch once, if this worker remembers any.

        A batch is remembered after its results are sent, so the next heartbeat may know more.
        """
        if question.kind != TEXTS:
            return
        if question.token != self._question:
            self._question = question.token
            self._told = set()
        known = self.recall(question.ids)
        if batches := [batch for batch in known if (batch["batch"], batch["id"]) not in self._told]:
            body = json.dumps({"worker": self.worker, "revision": revision, "batches": batches})
            self.run([Answer(question.token, body)])
            self._told |= {(batch["batch"], batch["id"]) for batch in batches}

    def wake(self) -> None:
        """Ends the wait of this worker."""
        self.run([EndWait(self.worker)])

    def retire(self, suspects: Sequence[str] = ()) -> None:
        """Removes the worker and ends the leases of `suspects`, which then run alone on another worker."""
        self.run([Retire(self.worker, suspects)])


class Heartbeats:
    """The heartbeat at home, and one for each other shard. A shard that is down delays no other heartbeat."""

    def __init__(
        self,
        queues: Queues[HeartbeatQueue],
        settings: WorkerSettings,
        running_s: Callable[[], float],
        records: Callable[[], Records],
        host: Host,
    ) -> None:
        # Those that each heartbeat renews, by shard.
        self.leases = leases = {one.number: set[str]() for one in (queues, *queues.others)}
        self._home = Heartbeat(queues.heartbeat, settings, leases[queues.number], running_s, records, host)
        self._guests = {
            other.number: GuestHeartbeat(
                other.heartbeat, settings, leases[other.number], running_s, records, host
            )
            for other in queues.others
        }

    def start(self) -> None:
        """Publishes the model at all shards that answer. Raises Redis errors if none does."""
        lost: list[Exception] = []
        announced: list[Heartbeat] = []
        for heartbeat in (self._home, *self._guests.values()):
            try:
                heartbeat.announce()
                announced.append(heartbeat)
            except REDIS_ERRORS as error:
                lost.append(error)
        if not announced:
            raise lost[0]
        for heartbeat in {self._home, *announced}:
            heartbeat.begin()

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

    @property
    def home_reachable(self) -> bool:
        """Whether the shard that the worker lives at has answered the last heartbeat."""
        return self._home.reachable

    def visit(self, number: int, moved: bool) -> None:
        """Makes the worker known at a shard, where it counts if it has `moved` there. Raises Redis errors."""
        if number in self._guests:
            self._guests[number].visit(moved)

    def leave(self, number: int) -> None:
        """The worker no longer counts at this shard."""
        if number in self._guests:
            self._guests[number].leave()


class Heartbeat:
    """Sends a heartbeat every quarter of a lease, and renews `leases`, a set that other threads change.

    While there are none, every half of a lease. `running_s` says for how long the model has been tokenising
    or computing, 0 if it is not. Calls to Redis have their own timeouts.
    """

    def __init__(
        self,
        queue: HeartbeatQueue,
        settings: WorkerSettings,
        leases: set[str],
        running_s: Callable[[], float],
        records: Callable[[], Records],
        host: Host = Host(),  # noqa: B008  # immutable
    ) -> None:
        self._queue = queue
        self._lease_s = settings.lease_ms / 1000
        self._ttl_ms = int(settings.lease_ms * RECORD_LEASES)
        self._batch_timeout_s = settings.batch_timeout_s
        self._leases = leases
        self._running_s = running_s
        self._read_records = records
        self._now = host.now
        self._exit_process = host.exit
        self._stopping = host.event()
        self._stopped = host.event()
        self._outage = Outage(now=host.now)
        self._thread = host.daemon("heartbeat", self._run)

    def announce(self) -> None:
        """Publishes the records of this worker, whose model becomes the current one. Raises Redis errors."""
        self._queue.heartbeat((), *self._records(), self._ttl_ms, takeover=True)

    def begin(self) -> None:
        """Starts the thread, unless it is running."""
        if not self._thread.is_alive():
            self._thread.start()

    def end_wait(self) -> None:
        """Ends the worker's wait for entries, because it is to stop. Safe to call from a signal handler."""
        self._stopping.set()

    def stop(self, suspects: Sequence[str] = ()) -> None:
        """Stops the heartbeat, removes the worker's record, and ends the leases of `suspects` at once."""
        self._stopping.set()
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._queue.retire(suspects)
        except REDIS_ERRORS as error:
            log.warning(
                "could not remove the record of this worker: %s",
                reason(error),
                extra={"action": "worker.retire"},
            )

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def reachable(self) -> bool:
        """Whether Redis has answered the last heartbeat."""
        return self._outage.over

    def send(self) -> bool:
        """Sends one heartbeat. False if the process is to end instead, which it does at once."""
        if self._running_s() > self._batch_timeout_s:
            self._give_up()
            return False
        try:
            self._queue.heartbeat(self._leases.copy(), *self._records(), self._ttl_ms)
            self._outage.found()
        except REDIS_ERRORS as error:
            self._outage.lost(error)
        except Exception as error:
            self._broken(error)
            return False
        return True

    @property
    def pause_s(self) -> float:
        """How long to wait before the next heartbeat."""
        return self._lease_s / (BEATS_PER_LEASE if self._leases else IDLE_BEATS_PER_LEASE)

    def _records(self) -> Records:
        return self._read_records()

    def _run(self) -> None:
        while not self._stopping.wait(self.pause_s):
            if not self.send():
                return
        with contextlib.suppress(*REDIS_ERRORS):
            self._queue.wake()
        while not self._stopped.wait(self.pause_s) and self.send():
            pass

    def _broken(self, error: Exception) -> None:
        """Ends the process: without a heartbeat it would keep claiming entries whose leases then expire."""
        log.critical(
            "the heartbeat failed: ending this process",
            exc_info=error,
            extra={"action": "worker.heartbeat", "held": len(self._leases)},
        )
        self._exit_process(EXIT_HUNG)

    def _give_up(self) -> None:
        """Ends the process and lets its leases expire: other workers then retry each entry alone."""
        log.critical(
            "tokenising or a forward pass has run for over %g s: ending this process",
            self._batch_timeout_s,
            extra={"action": "worker.hung", "held": len(self._leases)},
        )
        with contextlib.suppress(*REDIS_ERRORS):
            self._queue.retire()
        self._exit_process(EXIT_HUNG)


class GuestHeartbeat(Heartbeat):
    """The heartbeat at a shard that the worker does not live at: while it works there, and shortly after.

    A worker that has `moved` here because its home is down counts here meanwhile.
    """

    _visited_at = float("-inf")
    _moved = False

    def _records(self) -> Records:
        """Without a rate, the worker does not count among those that live at this shard."""
        worker, model = super()._records()
        return {"revision": worker["revision"], "guest_rate": worker["rate"] if self._moved else ""}, model

    def visit(self, moved: bool) -> None:
        """Makes the worker known at this shard. Raises Redis errors."""
        known = self._fresh and moved == self._moved
        self._visited_at = self._now()
        self._moved = moved
        if not known:
            self._queue.heartbeat(self._leases.copy(), *self._records(), self._ttl_ms)
        self.begin()

    def leave(self) -> None:
        """Reports with the next heartbeat that the worker no longer counts at this shard."""
        self._visited_at = self._now()
        self._moved = False

    def send(self) -> bool:
        """As `Heartbeat.send`, unless the worker has left this shard."""
        return not (self._leases or self._moved or self._fresh) or super().send()

    @property
    def _fresh(self) -> bool:
        return self._now() - self._visited_at < self._lease_s
