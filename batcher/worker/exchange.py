"""A worker's exchange with Redis: claims as much as its next batch can use, and sends results."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from batcher.connection.clients import Redis
from batcher.connection.outage import REDIS_ERRORS, NoScriptError, Outage
from batcher.connection.pipeline import Command
from batcher.core.commands import (
    TEXTS,
    Answer,
    Claim,
    Claimed,
    Complete,
    Completed,
    EndWait,
    HeartbeatReply,
    Question,
    Release,
    Retire,
    SendHeartbeat,
)
from batcher.core.keys import cache_prefix, prefix
from batcher.messages import Prediction, Result
from batcher.settings import WorkerSettings
from batcher.worker.batching import ClaimedTexts
from batcher.worker.inference import CostModel
from model_store import Layout

log = logging.getLogger(__name__)
# How long the last keys of a queue that is no longer served are kept.
RETIRED_S = 300
WAIT_S = 2.0
# How long to retry while Redis does not answer. After that, the leases expire and the entries are run again.
PATIENCE_S = 30.0
NOTHING = Claimed()
# After this many seconds without interactive traffic, bulk batches may use the full budget.
_INTERACTIVE_RECENT_S = 60.0
# A delay that a caller does not notice, and the time to handle a text besides its forward pass.
_UNNOTICED_S = 0.002
_HANDLING_S = 0.0003
Remember = Callable[[Iterable[tuple[str, Prediction]]], None]


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
        self._question = ""
        self._told = set[tuple[int, str]]()

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
        held = list(ids)
        published = (record, model)
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
            self._question = question.token
            self._told = set()
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


class Queues(NamedTuple):
    """The worker side of one queue, with a client each for commands, blocking waits and the heartbeat.

    With several shards, this is shard `number`, at which the worker lives, and `others` are the rest.
    """

    commands: WorkerQueue
    waiting: WorkerQueue
    heartbeat: WorkerQueue
    number: int = 0
    others: tuple[Queues, ...] = ()


class Exchange:
    """Claims entries and sends results for one worker, through outages of Redis.

    `left` is the number of entries still waiting after the last claim; `skipped` and `expired` are totals.
    `leases` are the ids that the heartbeat renews: claimed, and neither completed nor given up. Each change
    is one operation on a set, which is atomic.
    """

    def __init__(
        self,
        queues: Queues,
        settings: WorkerSettings,
        layout: Layout,
        remember: Remember,
        stopping: threading.Event,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.left = self.skipped = self.expired = 0
        self.leases: set[str] = set()
        self.outage = Outage(now=now)
        self.arrivals = Arrivals()
        self._traffic = InteractiveTraffic()
        # Whether Redis knows that this worker is idle. If not, the worker must claim before it waits.
        self.idle = False
        self._busy_at = now()
        self._queue = queues.commands
        self._waiting_queue = queues.waiting
        self._texts = settings.batch_texts
        self._layout = layout
        self._remember = remember
        self._stopping = stopping
        self._now = now

    def claim_command(
        self, held: ClaimedTexts, cost: CostModel, budget: int, *, ahead: bool = False, waits: bool = False
    ) -> Claim:
        """Builds the next claim of a worker that holds these texts. Pass `waits=True` for `wait`.

        `ahead`, while a batch runs, it claims only interactive entries if there were any recently.
        """
        tokens = held.tokens
        wanted = claim_cost(tokens, budget, self._layout)
        bulk = self.bulk_budget(cost, budget)
        if ahead and bulk < budget:
            bulk = 0
        limits = held.claimable(wanted, min(wanted, bulk), budget)
        free = not ahead and not tokens
        idle_ms = int((self._now() - self._busy_at) * 1000) if free else -1
        return self._queue.claim_command(self._texts, *limits, free, waits, idle_ms)

    def bulk_budget(self, cost: CostModel, budget: int) -> int:
        """Tokens of a batch that holds only bulk entries."""
        return self._traffic.bulk_tokens(cost, budget, self._now())

    def claim(self, command: Claim) -> Claimed:
        """Claims once. If Redis does not answer, pauses briefly and returns an empty claim."""
        try:
            (claimed,) = self._queue.run([command])
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

    def swap(self, results: Sequence[Result], command: Claim) -> tuple[bool, Claimed]:
        """Sends results and claims in one round trip. Returns whether Redis accepted the results."""
        if not results:
            return False, self.claim(command)
        try:
            complete = self._queue.complete_command((entry, result.encode()) for entry, result in results)
            completed, claimed = self._queue.run([complete, command])
        except REDIS_ERRORS:
            return self.send(results), NOTHING
        self._queue.read_completed(completed)
        self._sent(results)
        return True, self._taken(claimed, command)

    def send(self, results: Sequence[Result], *, idle: bool = False) -> bool:
        """Sends results. Returns whether Redis accepted them; their leases are no longer renewed either way.

        Retries while Redis does not answer, but not once the worker is to stop. `idle`: it waits next.
        """
        deadline = self._now() + PATIENCE_S
        try:
            while results:
                if self.attempt(results, idle=idle):
                    return True
                if self._now() > deadline or self._stopping.is_set():
                    break
                self._stopping.wait(self.outage.pause_s)
            return False
        finally:
            self.leases.difference_update([entry for entry, _ in results])

    def attempt(self, results: Sequence[Result], *, idle: bool) -> bool:
        """Sends results once. Returns whether Redis accepted them; if not, their leases are still renewed."""
        try:
            self._queue.complete(((entry, result.encode()) for entry, result in results), idle)
        except REDIS_ERRORS as error:
            self.outage.lost(error)
            return False
        self._sent(results)
        self.idle = self.idle or idle
        return True

    def finish(self) -> None:
        """Returns once nothing is sent any more, after which the clients may be closed."""

    def remember(self, results: Sequence[Result]) -> None:
        """Caches the predictions among `results`, unless sending them did."""
        if not self._queue.remembers:
            self._remember((entry, result) for entry, result in results if isinstance(result, Prediction))

    def release(self, ids: Sequence[str]) -> None:
        """Returns claimed entries to the queue. Raises Redis errors; the leases then expire."""
        self.leases.difference_update(ids)
        self._queue.release(ids)

    def _failed(self, error: Exception) -> Claimed:
        self.outage.lost(error)
        self.idle = False
        self._stopping.wait(self.outage.pause_s)
        return NOTHING

    def _sent(self, results: Sequence[Result]) -> None:
        if not self.outage.over:
            self.outage.found()
        self.leases.difference_update([entry for entry, _ in results])

    def _taken(self, claim: Claimed, command: Claim) -> Claimed:
        """Starts renewing the leases of claimed entries. If there are none, this worker may be idle."""
        if not self.outage.over:
            self.outage.found()
        self.leases.update([entry.id for entry in claim.entries])
        now = self._now()
        self.arrivals = self.arrivals.seen(len(claim.entries), now)
        interactive = [entry.cost for entry in claim.entries if entry.lane == "interactive"]
        self._traffic = self._traffic.seen(interactive, now)
        self.left = claim.left
        self.idle = command.idle_ms >= 0 and not (claim.entries or claim.note)
        if claim.entries:
            self._busy_at = now
        self.skipped += claim.skipped
        self.expired += claim.expired
        return claim


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The arrival rate of entries per second, smoothed over about one second."""

    rate: float = 0.0
    at: float = 0.0

    def seen(self, entries: int, now: float) -> Arrivals:
        """Returns the rate updated with a claim of `entries` at `now` (seconds, any monotonic clock)."""
        if self.at == 0.0:
            return replace(self, at=now)
        share = min(gap := max(now - self.at, 1e-6), 1.0)
        return Arrivals(self.rate * (1.0 - share) + share * entries / gap, now)


@dataclass(frozen=True, slots=True)
class InteractiveTraffic:
    """Tracks when interactive traffic was last seen, and its typical text length in tokens."""

    typical: float = 32.0
    at: float = float("-inf")

    def seen(self, lengths: Sequence[int], now: float) -> InteractiveTraffic:
        """Returns the state updated with interactive texts of these lengths, claimed at `now` (monotonic)."""
        typical = self.typical
        for length in lengths:
            typical += 0.05 * (length - typical)
        return InteractiveTraffic(typical, now) if lengths else self

    def bulk_tokens(self, cost: CostModel, budget: int, now: float) -> int:
        """Tokens of a batch that holds only bulk entries: the full budget without recent interactive traffic.

        An interactive text waits for the end of such a batch. Its size is therefore that of a typical
        interactive text, or what can be done in a time that goes unnoticed.
        """
        if now - self.at > _INTERACTIVE_RECENT_S:
            return budget
        handled = int(_UNNOTICED_S / _HANDLING_S * self.typical)
        return min(max(int(self.typical), min(cost.tokens_in(_UNNOTICED_S), handled)), budget)


def keep_window_s(arrivals: Arrivals, cost: CostModel, typical_tokens: float, window_s: float) -> float:
    """Seconds to wait for more entries after the first one reaches an idle worker; 0 to start at once.

    Waiting delays the first entry, but each that joins the batch need not wait for the next one. It pays off
    if more than one is expected during a forward pass of typical size; the wait is at most half of it.
    """
    batch_s = cost.batch_s(int(typical_tokens))
    if arrivals.rate * batch_s <= 1.0:
        return 0.0
    return min(window_s, batch_s / 2)


def claim_cost(held_tokens: int, budget: int, layout: Layout) -> int:
    """Cost to claim: the room of a batch beyond what is held; more if padding needs texts to choose from."""
    wanted = budget if layout == "packed" else 4 * budget
    return max(wanted + budget // 4 - held_tokens, 0)
