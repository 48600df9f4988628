"""The answering end of the queue: wait, claim, complete, extend leases, give entries back."""

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
    """What one claim brought. `left` entries still wait in all lanes; `bell` is the last ring before it."""

    entries: list[Entry]
    left: int
    skipped: int
    expired: int
    bell: bytes


class WorkerQueue:
    """The answering end, synchronous: one instance may be shared by the threads of a worker.

    Results are remembered in this Redis for about `cache_ms`, as those of `revision`; not at all if it is 0.
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
        self._remembered = cache_key(name, revision, "")
        self._cache_ms = cache_ms

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Runs scripts in one round trip; raises the first error among the answers."""
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

    def _listen(self, client: Any, bell: bytes, block_s: float) -> Any:
        return client.xread({f"{self.prefix}:bell": bell}, count=1, block=max(1, int(block_s * 1000)))

    def wait(self, bell: bytes, block_s: float) -> bool:
        """Blocks until something is queued after `bell`, at most `block_s`. Takes nothing."""
        return bool(self._listen(self._client, bell, block_s))

    def wait_and_claim(self, bell: bytes, block_s: float, command: Command) -> Sequence[Any]:
        """Blocks like `wait`; then Redis runs the claim `command` at once. Its answer, in one round trip.

        A claim whose process ends while it waits does not run: its connection is gone.
        """
        pipe = self._client.pipeline(transaction=False)
        self._listen(pipe, bell, block_s)
        self._add(pipe, command)
        heard, answer = pipe.execute(raise_on_error=False)
        if isinstance(answer, redis.exceptions.NoScriptError):
            (answer,) = self._send([command], known=False)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(heard, Exception) and len(answer) == _CLAIM_HEAD:
            raise heard  # it did not wait; nor is there work
        taken: Sequence[Any] = answer
        return taken

    def claim_command(
        self, entries: int, cost: int, bulk_cost: int, free: bool = True, waits: bool = False
    ) -> Command:
        """`free` says that the worker has nothing else in hand: only then it gets one that runs alone.

        `waits`: for `wait_and_claim`. A worker that has not beaten for a lease by then gets nothing.
        """
        limits = [entries, cost, bulk_cost]
        lease = [self._lease_ms, self._max_attempts]
        return Command("claim", [self.worker, *limits, *lease, int(free), int(waits)])

    def complete_command(self, results: Iterable[tuple[str, bytes]]) -> Command:
        results = list(results)
        remembered = [self._remembered, spread(self._cache_ms)]
        flat = [value for pair in results for value in pair]
        args = [self._result_ms, FAILURE_MS, *remembered, *flat]
        return Command("complete", args, [entry for entry, _ in results])

    @property
    def remembers(self) -> bool:
        """Whether what is completed is remembered as well."""
        return self._cache_ms > 0

    def read_completed(self, answer: Sequence[Any]) -> int:
        """The answer of complete.lua: how many entries still waited for their results.

        Nothing is remembered any more once Redis has refused it for another reason than its memory.
        """
        answered, refusal = answer
        if refusal and b"OOM" not in refusal:
            self._cache_ms = 0
            said = refusal.decode("utf-8", "replace")
            log.warning("the cache is written apart: %s", said, extra={"action": "cache.apart"})
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
        """Extends the leases of `ids`, renews the worker's record. How many leases it still had."""
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
        """The worker has ended. So have the leases of `suspects`: who runs them next does so alone."""
        self.run([Command("retire", [self.worker, *suspects], suspects)])


def read_claim(answer: Sequence[Any]) -> Claim:
    """The answer of claim.lua. An unreadable entry is counted as skipped."""
    left, skipped, expired, bell, now_ms = answer[:_CLAIM_HEAD]
    entries = []
    for at in range(_CLAIM_HEAD, len(answer), _FIELDS):
        try:
            entries.append(_entry(answer[at : at + _FIELDS], int(now_ms)))
        except ValueError:
            skipped += 1
    return Claim(entries, int(left), int(skipped), int(expired), bell)


def _entry(fields: Sequence[Any], now_ms: int) -> Entry:
    entry, asked, attempts, solo = fields
    head, text = asked.split(b"\n", 1)
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
