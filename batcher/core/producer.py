"""The asking end of the queue: enqueue, cancel, look for outcomes, sweep, and receive hints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
import redis.asyncio

from batcher.core.keys import cache_key, cache_prefix, prefix
from batcher.core.pool import ConnectionPool
from batcher.core.scripts import Command, call, raise_first, unknown
from batcher.core.snapshot import read_snapshot
from batcher.errors import QueueFull
from batcher.memory import read_memory
from batcher.messages import Lane, Snapshot

KEEP_MS = 60_000
SWEEP_LIMIT = 200
NO_TRACE = b"-"


class ApiQueue:
    """The asking end, for an event loop. Call it from tasks that are not cancelled."""

    def __init__(self, client: redis.asyncio.Redis, name: str, api: str, max_attempts: int) -> None:
        self.prefix = prefix(name)
        self.api = api
        self._name = name
        self._lines = ConnectionPool(client, retries=1)
        self._max_attempts = max_attempts
        self._cursor = b"0"

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Runs scripts in one round trip. An answer that is an exception stands in its place."""
        answers = await self._send(commands)
        if missing := unknown(answers):
            again = await self._send([commands[at] for at in missing], known=False)
            for at, answer in zip(missing, again, strict=True):
                answers[at] = answer
        return answers

    async def _send(self, commands: Sequence[Command], *, known: bool = True) -> list[Any]:
        return await self._lines.ask(
            [(*call(command.script, known), 1, self.prefix, *command.args) for command in commands]
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
        head = [self.api, lane, budget_ms, KEEP_MS, cap, trace or NO_TRACE, int(first), remembered]
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
        raise_first(answers)
        self._cursor = answers[0].pop()
        return read_snapshot(answers[0], memory)

    async def hints(self, lines: ConnectionPool, block_s: float, most: int) -> list[bytes]:
        """Hints for this process, waiting up to `block_s` for the first, over lines that bear the wait.

        One round trip waits and takes what else is there; `most` bounds what many workers left meanwhile.
        """
        key = f"{self.prefix}:reply:{self.api}"
        answers = await lines.ask([("BLPOP", key, block_s), ("LPOP", key, most)])
        raise_first(answers)
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


def refused_cache(answer: Any) -> bool:
    """Whether an enqueue failed, maybe for a key of the cache: forbidden, or on another server.

    It reads these keys before it writes anything.
    """
    passing = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
    return isinstance(answer, redis.exceptions.ResponseError) and not isinstance(answer, passing)
