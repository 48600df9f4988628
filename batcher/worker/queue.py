"""The worker's side of the queue: wait, claim, complete, extend leases, release entries."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from batcher.core.commands import Claim, Claimed, Command, Complete, Completed
from batcher.core.connection import Redis
from batcher.core.keys import cache_prefix, prefix
from batcher.core.membership import HeartbeatReply, Release, Retire, SendHeartbeat
from batcher.core.outage import NoScriptError
from batcher.core.questions import TEXTS, Answer, Question
from batcher.core.waking import EndWait

log = logging.getLogger(__name__)

# How long the last keys of a queue that is no longer served are kept.
RETIRED_S = 300


class WorkerQueue:
    """The worker's side, synchronous. The threads of a worker may share one instance.

    Results are cached in this Redis under `cache_name` and `revision` for about `cache_ms`, or not at all if
    that is 0. `helps`: this is one of several shards, whose workers help each other.
    """

    def __init__(
        self,
        client: Redis,
        name: str,
        worker: str,
        *,
        lease_ms: int,
        max_attempts: int,
        result_ms: int,
        revision: str = "",
        cache_ms: int = 0,
        cache_name: str = "",
        helps: bool = False,
    ) -> None:
        self.prefix = prefix(name)
        self.worker = worker
        self._client: Any = client  # redis-py does not annotate execute_command
        self._lease_ms = lease_ms
        self._max_attempts = max_attempts
        self._result_ms = result_ms
        self._cache = cache_prefix(cache_name or name, revision)
        self._helps = helps
        self._cache_ms = cache_ms
        self._wake_list = f"{self.prefix}:wake:{worker}"
        self._published: tuple[Mapping[str, Any], Mapping[str, Any]] = {}, {}
        # Finds what this worker remembers of the texts with these ids, for the console.
        self.recall: Callable[[Sequence[str]], Sequence[Mapping[str, Any]]] = lambda ids: ()
        self._question, self._told = "", set[tuple[int, str]]()

    def expire_keys(self) -> None:
        """Lets the last keys of the queue expire, unless others use it. Raises Redis errors."""
        pipe = self._client.pipeline(transaction=False)
        for key in ("model", "clock", "waiting", "snapshot"):
            pipe.expire(f"{self.prefix}:{key}", RETIRED_S)
        pipe.execute()

    def close(self) -> None:
        """Closes the client."""
        self._client.close()

    def run(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Runs scripts in one round trip and reads their replies. Raises the first error among them."""
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command.words(self.prefix, known=True))
        return [self._read(*pair) for pair in zip(commands, pipe.execute(raise_on_error=False), strict=True)]

    def _read(self, command: Command[Any], reply: Any) -> Any:
        """Reads a reply. Only a script that the server does not know is sent again.

        A claim that has run must not run twice: the first one's entries would wait for their leases to end.
        """
        if isinstance(reply, NoScriptError):
            reply = self._client.execute_command(*command.words(self.prefix, known=False))
        if isinstance(reply, Exception):
            raise reply
        return command.read(reply)

    def wait(self, block_s: float) -> bool:
        """Blocks until this worker is woken, for at most `block_s`. Claims nothing."""
        return bool(self._listen(self._client, block_s))

    def wait_and_claim(self, block_s: float, command: Claim) -> Claimed:
        """Blocks like `wait`, then runs the claim `command`, all in one round trip.

        If the process ends while it waits, its connection is closed and the claim does not run.
        """
        pipe = self._client.pipeline(transaction=False)
        self._listen(pipe, block_s)
        pipe.execute_command(*command.words(self.prefix, known=True))
        woken, reply = pipe.execute(raise_on_error=False)
        claimed: Claimed = self._read(command, reply)
        if isinstance(woken, Exception) and not claimed.entries:
            raise woken
        return claimed

    def _listen(self, client: Any, block_s: float) -> Any:
        return client.blpop([self._wake_list], block_s)

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
        ids, encoded = [entry for entry, _ in pairs], [result for _, result in pairs]
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
        held, published = list(ids), (record, model)
        reply = HeartbeatReply(-1)
        if published == self._published and not takeover:
            (reply,) = self.run([SendHeartbeat(self.worker, self._lease_ms, ttl_ms, held, {}, {})])
        if reply.extended < 0:
            (reply,) = self.run(
                [SendHeartbeat(self.worker, self._lease_ms, ttl_ms, held, record, model, takeover)]
            )
            self._published = published
        if reply.question is not None:
            self._answer(reply.question)
        return reply.extended

    def _answer(self, question: Question) -> None:
        """Answers a question of the console about texts, with each batch once, if this worker remembers any.

        A batch is remembered after its results are sent, so the next heartbeat may know more.
        """
        if question.kind != TEXTS:
            return
        if question.token != self._question:
            self._question, self._told = question.token, set()
        known = self.recall(question.ids)
        if batches := [batch for batch in known if (batch["batch"], batch["id"]) not in self._told]:
            body = json.dumps({"worker": self.worker, "batches": batches})
            self.run([Answer(question.token, body)])
            self._told |= {(batch["batch"], batch["id"]) for batch in batches}

    def wake(self) -> None:
        """Ends the wait of this worker."""
        self.run([EndWait(self.worker)])

    def release(self, ids: Sequence[str]) -> int:
        (released,) = self.run([Release(ids)])
        return int(released)

    def retire(self, suspects: Sequence[str] = ()) -> None:
        """Removes the worker and ends the leases of `suspects`, which then run alone on another worker."""
        self.run([Retire(self.worker, suspects)])
