"""The worker's commands to its queue, each a round trip that may fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from batcher.connection.clients import Redis, round_trip
from batcher.connection.outage import NoScriptError
from batcher.core.commands import Claim, Claimed, Command, Complete, Completed, Release
from batcher.core.keys import cache_prefix
from batcher.settings import WorkerSettings
from batcher.shards import Shard

log = logging.getLogger(__name__)
Q = TypeVar("Q", bound="WorkerQueue")
OnRoundTrip = Callable[[Sequence[Command[Any]], float, Sequence[Any]], None]


class WorkerQueue:
    """The worker's side, synchronous. The threads of a worker may share one instance.

    Results are cached in this Redis under the name of the shard and `revision`, if the settings say so.
    `on_round_trip` is called with the seconds of each that succeeds: a failed one counts as an outage.
    """

    def __init__(
        self,
        client: Redis,
        settings: WorkerSettings,
        shard: Shard,
        worker: str,
        *,
        revision: str = "",
        on_round_trip: OnRoundTrip | None = None,
    ) -> None:
        self.prefix = shard.prefix
        self.worker = worker
        self._client: Any = client  # redis-py does not annotate execute_command
        self._lease_ms = settings.lease_ms
        self._max_attempts = settings.max_attempts
        self._result_ms = int(settings.result_ttl_s * 1000)
        self._cache = cache_prefix(shard.cache_name, revision)
        self._cache_ms = int(settings.cache_ttl_s * 1000) if settings.cache_here else 0
        # Whether this is one of several shards, whose workers help each other.
        self._helps = len(settings.queue_shards) > 1
        self._on_round_trip = on_round_trip
        self._wake_list = f"{self.prefix}:wake:{worker}"

    def close(self) -> None:
        """Closes the client."""
        self._client.close()

    def run(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Runs scripts in one round trip and reads their replies. Raises the first error among them."""
        began = time.perf_counter()
        replies = round_trip(self._client, [command.words(self.prefix, known=True) for command in commands])
        answers = [self._read(command, replies.pop(0)) for command in commands]
        if self._on_round_trip is not None:
            self._on_round_trip(commands, time.perf_counter() - began, answers)
        return answers

    def _read(self, command: Command[Any], reply: Any) -> Any:
        """Reads a reply. Only a script that the server does not know is sent again.

        A claim that has run must not run twice: the first one's entries would wait for their leases to end.
        """
        if isinstance(reply, NoScriptError):
            reply = self._client.execute_command(*command.words(self.prefix, known=False))
        if isinstance(reply, Exception):
            try:
                raise reply
            finally:
                del reply  # it refers to this frame
        return command.read(reply)

    def wait(self, block_s: float) -> bool:
        """Blocks until this worker is woken, for at most `block_s`. Claims nothing."""
        return bool(self._client.blpop([self._wake_list], block_s))

    def wait_and_claim(self, block_s: float, command: Claim) -> Claimed:
        """Blocks like `wait`, then runs the claim `command`, all in one round trip.

        If the process ends while it waits, its connection is closed and the claim does not run.
        """
        return self._woken(round_trip(self._client, self._waiting(block_s, command)), command)

    def complete_and_wait(
        self, complete: Complete, block_s: float, command: Claim, completed: Callable[[Completed], None]
    ) -> Claimed:
        """As `run` of the one and `wait_and_claim` of the other, in one write.

        `completed` is called before the wait. Raises an error of the first command without having waited.
        """
        began = time.perf_counter()
        replies = list[Any]()

        def answered(reply: Any) -> None:
            replies.append(reply)
            if len(replies) > 1:
                return
            if isinstance(reply, Exception):
                raise reply
            answer = complete.read(reply)
            if self._on_round_trip is not None:
                self._on_round_trip([complete], time.perf_counter() - began, [answer])
            completed(answer)

        words = complete.words(self.prefix, known=True)
        round_trip(self._client, [words, *self._waiting(block_s, command)], answered)
        return self._woken(replies[1:], command)

    def _waiting(self, block_s: float, command: Claim) -> list[Sequence[Any]]:
        return [("BLPOP", self._wake_list, block_s), command.words(self.prefix, known=True)]

    def _woken(self, replies: Sequence[Any], command: Claim) -> Claimed:
        woken, reply = replies
        claimed: Claimed = self._read(command, reply)
        if isinstance(woken, Exception) and not claimed.entries:
            raise woken
        return claimed

    def claim_command(
        self,
        entries: int,
        cost: int,
        bulk_cost: int,
        free: bool = True,
        waits: bool = False,
        idle_ms: int = -1,
    ) -> Claim:
        """The command for a claim. Pass `waits` for `wait_and_claim`."""
        limits = entries, cost, bulk_cost
        return Claim(self.worker, *limits, self._lease_ms, self._max_attempts, free, waits, idle_ms)

    def complete_command(self, results: Iterable[tuple[str, bytes]], idle: bool = False) -> Complete:
        """The command that sends results: (id, encoded result) of each."""
        pairs = list(results)
        ids = [entry for entry, _ in pairs]
        encoded = [result for _, result in pairs]
        cache = self._cache, self._cache_ms
        return Complete(self.worker, ids, encoded, self._result_ms, *cache, idle, self._helps)

    @property
    def remembers(self) -> bool:
        """Whether completing an entry also caches its result."""
        return self._cache_ms > 0

    def read_completed(self, completed: Completed) -> int:
        """How many entries were still waiting for their results.

        If Redis refuses to cache results for a reason other than its memory, this queue caches no more.
        """
        if completed.refusal and "OOM" not in completed.refusal:
            self._cache_ms = 0
            message = "writing the cache separately from now on: %s"
            log.warning(message, completed.refusal, extra={"action": "cache.apart"})
        return completed.answered

    def claim(self, entries: int, cost: int, bulk_cost: int, free: bool = True, idle_ms: int = -1) -> Claimed:
        claimed: Claimed
        (claimed,) = self.run([self.claim_command(entries, cost, bulk_cost, free, idle_ms=idle_ms)])
        return claimed

    def complete(self, results: Iterable[tuple[str, bytes]], idle: bool = False) -> int:
        (completed,) = self.run([self.complete_command(results, idle)])
        return self.read_completed(completed)

    def release(self, ids: Sequence[str]) -> int:
        (released,) = self.run([Release(ids)])
        return int(released)


class Queues(NamedTuple, Generic[Q]):
    """The worker side of one queue, with a client each for commands, blocking waits and the heartbeat.

    With several shards, this is shard `number`, at which the worker lives, and `others` are the rest.
    """

    commands: WorkerQueue
    waiting: WorkerQueue
    heartbeat: Q
    number: int = 0
    others: tuple[Queues[Q], ...] = ()
