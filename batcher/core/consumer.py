"""The worker side of the queue: wait, claim, complete, extend leases, release entries."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from batcher.core.keys import cache_key, prefix, spread
from batcher.core.producer import NO_TRACE
from batcher.core.scripts import Command, call, raise_first, unknown
from batcher.messages import Entry

log = logging.getLogger(__name__)

FAILURE_MS = 2_000
_CLAIM_HEAD = 5
_FIELDS = 4


@dataclass(frozen=True, slots=True)
class Claim:
    """The result of one claim. `left` entries still wait in all lanes; `bell` is the last wake-up's id."""

    entries: list[Entry]
    left: int
    skipped: int
    expired: int
    bell: bytes


class WorkerQueue:
    """The worker side, synchronous. The threads of a worker may share one instance.

    Results are cached in this Redis under `revision` for about `cache_ms`, or not at all if that is 0.
    """

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        worker: str,
        *,
        lease_ms: int,
        max_attempts: int,
        result_ms: int,
        revision: str = "",
        cache_ms: int = 0,
    ) -> None:
        self.prefix = prefix(name)
        self.worker = worker
        self._client = client
        self._lease_ms = lease_ms
        self._max_attempts = max_attempts
        self._result_ms = result_ms
        self._cache_prefix = cache_key(name, revision, "")
        self._cache_ms = cache_ms

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Runs scripts in one round trip. Raises the first error among the replies."""
        answers = self._send(commands)
        if missing := unknown(answers):
            again = self._send([commands[at] for at in missing], known=False)
            for at, answer in zip(missing, again, strict=True):
                answers[at] = answer
        raise_first(answers)
        return answers

    def _send(self, commands: Sequence[Command], *, known: bool = True) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            self._add(pipe, command, known)
        answers: list[Any] = pipe.execute(raise_on_error=False)
        return answers

    def _add(self, pipe: Any, command: Command, known: bool = True) -> None:
        pipe.execute_command(*call(command.script, known), 1, self.prefix, *command.args)

    def _listen(self, client: Any, last: bytes, block_s: float) -> Any:
        return client.xread({f"{self.prefix}:bell": last}, count=1, block=max(1, int(block_s * 1000)))

    def wait(self, last: bytes, block_s: float) -> bool:
        """Blocks until there is a wake-up after `last`, for at most `block_s`. Claims nothing."""
        return bool(self._listen(self._client, last, block_s))

    def wait_and_claim(self, last: bytes, block_s: float, command: Command) -> Sequence[Any]:
        """Blocks like `wait`, then runs the claim `command`. Returns its reply, all in one round trip.

        If the process ends while it waits, its connection is closed and the claim does not run.
        """
        pipe = self._client.pipeline(transaction=False)
        self._listen(pipe, last, block_s)
        self._add(pipe, command)
        woken, answer = pipe.execute(raise_on_error=False)
        if isinstance(answer, redis.exceptions.NoScriptError):
            (answer,) = self._send([command], known=False)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(woken, Exception) and len(answer) == _CLAIM_HEAD:
            raise woken  # waiting failed and nothing was claimed
        claimed: Sequence[Any] = answer
        return claimed

    def claim_command(
        self, entries: int, cost: int, bulk_cost: int, free: bool = True, waits: bool = False
    ) -> Command:
        """The command for a claim. `free`: the worker holds nothing else, so it may get a quarantined entry.

        `waits`: for `wait_and_claim`. A worker without a heartbeat for the time of a lease then gets nothing.
        """
        limits = [entries, cost, bulk_cost]
        lease = [self._lease_ms, self._max_attempts]
        return Command("claim", [self.worker, *limits, *lease, int(free), int(waits)])

    def complete_command(self, results: Iterable[tuple[str, bytes]]) -> Command:
        """Sends results. Failures may be returned to the queue instead: see complete.lua."""
        results = list(results)
        cache = [self._cache_prefix, spread(self._cache_ms)]
        flat = [value for pair in results for value in pair]
        args = [self.worker, self._result_ms, FAILURE_MS, *cache, *flat]
        return Command("complete", args, [entry for entry, _ in results])

    @property
    def remembers(self) -> bool:
        """Whether completing an entry also caches its result."""
        return self._cache_ms > 0

    def read_completed(self, answer: Sequence[Any]) -> int:
        """Reads the reply of complete.lua: how many entries were still waiting for their results.

        If Redis refuses to cache results for a reason other than its memory, this queue caches no more.
        """
        answered, refusal = answer
        if refusal and b"OOM" not in refusal:
            self._cache_ms = 0
            why = refusal.decode("utf-8", "replace")
            log.warning("writing the cache separately from now on: %s", why, extra={"action": "cache.apart"})
        return int(answered)

    def claim(self, entries: int, cost: int, bulk_cost: int, free: bool = True) -> Claim:
        (answer,) = self.run([self.claim_command(entries, cost, bulk_cost, free)])
        return read_claim(answer)

    def complete(self, results: Iterable[tuple[str, bytes]]) -> int:
        (answer,) = self.run([self.complete_command(results)])
        return self.read_completed(answer)

    def beat(
        self,
        ids: Iterable[str],
        record: Mapping[str, Any],
        model: Mapping[str, Any],
        ttl_ms: int,
        takeover: bool = False,
    ) -> int:
        """Extends the leases of `ids` and renews the worker's record. Returns how many leases it held."""
        args: list[Any] = [self.worker, self._lease_ms, ttl_ms, int(takeover)]
        for fields in (record, model):
            args += [len(fields), *(value for pair in fields.items() for value in pair)]
        held = list(ids)
        (extended,) = self.run([Command("beat", [*args, *held], held)])
        return int(extended)

    def release(self, ids: Sequence[str]) -> int:
        (released,) = self.run([Command("release", ids, ids)])
        return int(released)

    def retire(self, suspects: Sequence[str] = ()) -> None:
        """Removes the worker and ends the leases of `suspects`, which then run alone on another worker."""
        self.run([Command("retire", [self.worker, *suspects], suspects)])


def read_claim(answer: Sequence[Any]) -> Claim:
    """Reads the reply of claim.lua. An unreadable entry counts as skipped."""
    left, skipped, expired, bell, now_ms = answer[:_CLAIM_HEAD]
    entries = []
    for at in range(_CLAIM_HEAD, len(answer), _FIELDS):
        try:
            entries.append(_entry(answer[at : at + _FIELDS], int(now_ms)))
        except ValueError:
            skipped += 1
    return Claim(entries, int(left), int(skipped), int(expired), bell)


def _entry(fields: Sequence[Any], now_ms: int) -> Entry:
    entry, content, attempts, solo = fields
    head, text = content.split(b"\n", 1)
    deadline, lane, cost, enqueued, trace, _waiters = head.split(b" ", 5)
    return Entry(
        id=entry.decode("ascii"),
        text=text.decode(),
        lane="bulk" if lane == b"bulk" else "interactive",
        cost=int(cost),
        waited_ms=now_ms - int(enqueued),
        remaining_ms=int(deadline) - now_ms,
        attempts=int(attempts),
        trace="" if trace == NO_TRACE else trace.decode("ascii", "replace"),
        solo=bool(solo),
    )
