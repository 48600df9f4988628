"""Every Redis key and command of the queue, both ends of it.

P is `{millrace:<name>}`: one hash tag, so one slot of a cluster. Moments are those of the queue's clock: that
of Redis, but it advances by 1.2 s at most from one beat or sweep to the next (decision 0010).

| key           | type   | what                                       | lifetime      | written by     |
|---------------|--------|--------------------------------------------|---------------|----------------|
| P:q, P:bulk   | list   | ids waiting, one list a lane, FIFO         | -             | enqueue, claim |
| P:first       | list   | ids of q that go before the others of it   | 2 min, renewed| enqueue, claim |
| P:solo        | list   | ids recovered from dead workers, run alone | -             | claim, sweep   |
| P:inflight    | zset   | id -> end of its lease                     | -             | claim, beat    |
| P:entry:<id>  | string | what was asked, who waits, the text        | budget + 60 s | enqueue        |
| P:claims      | hash   | id -> attempts, last worker, its lease     | 2 h, renewed  | claim          |
| P:res:<id>    | string | the result: what the API waits on          | 60 s          | complete       |
| P:reply:<api> | list   | hints to one API process: ids and results  | 60 s, renewed | complete       |
| P:waiting     | hash   | lane -> waiting cost                       | 1 h, renewed  | enqueue, claim |
| P:bell        | stream | rings for idle workers when work came      | 60 s, renewed | enqueue        |
| P:workers     | zset   | worker -> when it counts as ended          | 1 h, renewed  | beat           |
| P:worker:<id> | hash   | what a live worker says; its last batches  | 1 h, renewed  | beat           |
| P:alone:<id>  | string | what a worker has taken from solo last     | 2 h           | claim          |
| P:model       | hash   | the current model                          | -             | beat           |
| P:clock       | string | the queue's clock                          | -             | beat, sweep    |
| P:full        | string | memory is short: nothing is remembered     | 2 s, renewed  | sweep          |
| P:dead        | list   | last 1000 ids that ended workers           | trimmed       | claim, sweep   |

P:q, P:bulk, P:solo and P:inflight exist only while they hold something. Every script is idempotent by id, so
a client library may send it twice.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import redis
import redis.asyncio

from batcher.errors import QueueFull
from batcher.lines import Lines
from batcher.memory import Memory, read_memory
from batcher.messages import (
    Entry,
    Failure,
    Lane,
    LaneDepth,
    ModelRecord,
    Prediction,
    Snapshot,
    WorkerRecord,
    decode_notes,
)

log = logging.getLogger(__name__)

KEEP_MS = 60_000
FAILURE_MS = 2_000
SWEEP_LIMIT = 200
Result = Prediction | Failure
Script = Literal["enqueue", "cancel", "outcomes", "sweep", "claim", "complete", "beat", "release", "retire"]
_NO_TRACE = b"-"


@dataclass(frozen=True, slots=True)
class Command:
    """One call of a script. `args` are what the script reads; `ids` are the entries the call is about."""

    script: Script
    args: Sequence[Any]
    ids: Sequence[str] = ()


def prefix(name: str) -> str:
    """P: what every key of the service `name` starts with."""
    return f"{{millrace:{name}}}"


def cache_prefix(name: str) -> str:
    """What every long-lived result of a service starts with. No hash tag: it may live in another Redis."""
    return f"millrace:cache:{name}:"


def cache_key(name: str, revision: str, entry: str) -> str:
    """The long-lived result of one text under one revision."""
    return f"{cache_prefix(name)}{revision}:{entry}"


def full_key(name: str) -> str:
    """Exists while the queue's Redis is so full that nothing is to be remembered there."""
    return f"{prefix(name)}:full"


def spread(lifetime_ms: float) -> int:
    """A lifetime within 10 % of this one: what is remembered together must not end together."""
    return int(lifetime_ms * random.uniform(0.9, 1.1))


def refused_cache(answer: Any) -> bool:
    """Whether an enqueue failed, maybe for a key of the cache: forbidden, or on another server.

    It reads these keys before it writes anything.
    """
    passing = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
    return isinstance(answer, redis.exceptions.ResponseError) and not isinstance(answer, passing)


@cache
def script_source(name: str) -> str:
    """The Lua text of `scripts/<name>.lua`, common part included."""
    folder = resources.files("batcher") / "scripts"
    return (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()


@cache
def script_sha(name: str) -> str:
    """What EVALSHA calls it by."""
    return hashlib.sha1(script_source(name).encode(), usedforsecurity=False).hexdigest()


def _script(name: str, known: bool) -> tuple[str, str]:
    """The beginning of its call; by its text where the server lacks it: loaded, it might be flushed again."""
    return ("EVALSHA", script_sha(name)) if known else ("EVAL", script_source(name))


def _raise_first(answers: Iterable[Any]) -> None:
    """Raises the first exception among answers."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def _unknown(answers: Sequence[Any]) -> list[int]:
    """Places of scripts that the server does not know (yet, or since a flush). Only these run again: a claim
    that did run must not be claimed over."""
    return [at for at, answer in enumerate(answers) if isinstance(answer, redis.exceptions.NoScriptError)]


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought. `left` entries still wait in all lanes; `bell` is the last ring before it."""

    entries: list[Entry]
    left: int
    skipped: int
    expired: int
    bell: bytes


class ApiQueue:
    """The asking end, for an event loop. Call it from tasks that are not cancelled."""

    def __init__(self, client: redis.asyncio.Redis, name: str, api: str, max_attempts: int) -> None:
        self.prefix = prefix(name)
        self.api = api
        self._name = name
        self._lines = Lines(client, retries=1)
        self._max_attempts = max_attempts
        self._cursor = b"0"

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Runs scripts in one round trip. An answer that is an exception stands in its place."""
        answers = await self._send(commands)
        if unknown := _unknown(answers):
            again = await self._send([commands[at] for at in unknown], known=False)
            for at, answer in zip(unknown, again, strict=True):
                answers[at] = answer
        return answers

    async def _send(self, commands: Sequence[Command], *, known: bool = True) -> list[Any]:
        return await self._lines.ask(
            [(*_script(command.script, known), 1, self.prefix, *command.args) for command in commands]
        )

    async def close(self) -> None:
        """Ends the connections; nothing may be under way."""
        await self._lines.close()

    def enqueue(
        self,
        items: Iterable[tuple[str, str, int]],
        lane: Lane,
        budget_ms: int,
        cap: int,
        trace: str,
        *,
        first: bool = False,
        revision: str = "",
    ) -> Command:
        """Asks for the results of `items` (id, text, cost); see enqueue.lua for the answer.

        Of `revision`, if given, long-lived results are looked for as well: they must lie in this Redis.
        """
        items = list(items)
        flat = [value for item in items for value in item]
        remembered = cache_key(self._name, revision, "") if revision else ""
        head = [self.api, lane, budget_ms, KEEP_MS, cap, trace or _NO_TRACE, int(first), remembered]
        return Command("enqueue", [*head, *flat], [entry for entry, _, _ in items])

    def cancel(self, ids: Iterable[str]) -> Command:
        ids = list(ids)
        return Command("cancel", [self.api, *ids], ids)

    def outcomes(self, ids: Iterable[str]) -> Command:
        ids = list(ids)
        return Command("outcomes", ids, ids)

    async def sweep(self, *, evicts: bool = False) -> Snapshot:
        """`evicts`: the cache lies in this Redis, and gives way where memory is short."""
        (info,) = await self._lines.ask([("INFO", "memory")])
        memory = read_memory(info)
        surplus = memory.surplus if evicts else 0
        cache = [cache_prefix(self._name), surplus, self._cursor, int(memory.full)]
        answers = await self.run([sweep_command(self._max_attempts, cache)])
        _raise_first(answers)
        self._cursor = answers[0].pop()
        return _snapshot(answers[0], memory)

    async def hints(self, lines: Lines, block_s: float, most: int) -> list[bytes]:
        """Hints for this process, waiting up to `block_s` for the first, over lines that bear the wait.

        One round trip waits and takes what else is there; `most` bounds what many workers left meanwhile.
        """
        key = f"{self.prefix}:reply:{self.api}"
        answers = await lines.ask([("BLPOP", key, block_s), ("LPOP", key, most)])
        _raise_first(answers)
        first, others = answers
        pieces = [*(first or [])[1:], *(others or [])]
        return [hint for piece in pieces for hint in piece.split(b"\0")]


def sweep_command(
    max_attempts: int, cache: Sequence[Any] = ("", 0, 0, 0), limit: int = SWEEP_LIMIT
) -> Command:
    """Recovers what dead workers held; see sweep.lua for the answer, and for what is said of the cache."""
    return Command("sweep", [limit, max_attempts, *cache])


def queue_states(answer: Sequence[Any], retry_after_s: Callable[[int], float]) -> list[bytes | list[bytes]]:
    """The answer of enqueue.lua: a state for each id, a long-lived result in a list of its own.

    Raises QueueFull when the lane sheds.

    `retry_after_s` gives the seconds until a waiting cost will have drained.
    """
    if answer and answer[0] == b"full":
        waiting = int(answer[1])
        wait_s = retry_after_s(waiting)
        raise QueueFull(f"{waiting} tokens of text wait already", retry_after_s=wait_s)
    return list(answer)


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
        if unknown := _unknown(answers):
            again = self._send([commands[at] for at in unknown], known=False)
            for at, answer in zip(unknown, again, strict=True):
                answers[at] = answer
        _raise_first(answers)
        return answers

    def _send(self, commands: Sequence[Command], *, known: bool = True) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            self._add(pipe, command, known)
        answers: list[Any] = pipe.execute(raise_on_error=False)
        return answers

    def _add(self, pipe: Any, command: Command, known: bool = True) -> None:
        pipe.execute_command(*_script(command.script, known), 1, self.prefix, *command.args)

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


_CLAIM_HEAD = 5
_FIELDS = 4


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
        trace="" if trace == _NO_TRACE else trace.decode("ascii", "replace"),
        solo=bool(solo),
    )


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    text = [value.decode("utf-8", "replace") for value in flat]
    return dict(zip(text[::2], text[1::2], strict=False))


def _snapshot(answer: Sequence[Any], memory: Memory) -> Snapshot:
    recovered, _expired, interactive, bulk, solo, in_flight, model, workers = answer
    records = (_worker_record(name.decode("utf-8", "replace"), _pairs(fields)) for name, fields in workers)
    return Snapshot(
        model=_model_record(_pairs(model)),
        workers=tuple(record for record in records if record is not None),
        interactive=LaneDepth(*map(int, interactive)),
        bulk=LaneDepth(*map(int, bulk)),
        solo=int(solo),
        in_flight=int(in_flight),
        recovered=int(recovered),
        memory=memory,
    )


def _model_record(fields: Mapping[str, str]) -> ModelRecord | None:
    try:
        return ModelRecord(
            name=fields["name"],
            revision=fields["revision"],
            labels=tuple(fields["labels"].split("\n")),
            max_tokens=int(fields["max_tokens"]),
            engine=fields["engine"],
            precision=fields["precision"],
        )
    except (KeyError, ValueError):
        return None


def _worker_record(name: str, fields: Mapping[str, str]) -> WorkerRecord | None:
    try:
        return WorkerRecord(
            id=name,
            revision=fields["revision"],
            engine=fields["engine"],
            precision=fields["precision"],
            state=fields["state"],
            rate=float(fields["rate"]),
            batches=int(fields["batches"]),
            texts=int(fields["texts"]),
            last_batch=int(fields["last_batch"]),
            started_ms=int(fields["started_ms"]),
            recent=decode_notes(fields.get("recent", "")),
            arithmetic=fields.get("arithmetic", ""),
            fallback=fields.get("fallback", ""),
        )
    except (KeyError, ValueError):
        return None
