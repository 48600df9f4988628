"""The API side of the queue: enqueue, cancel, poll for outcomes, sweep, and receive hints."""

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
    """The API side, for asyncio. Call it from tasks that are not cancelled."""

    def __init__(self, client: redis.asyncio.Redis, name: str, api: str, max_attempts: int) -> None:
        self.prefix = prefix(name)
        self.api = api
        self._name = name
        self._connections = ConnectionPool(client, retries=1)
        self._max_attempts = max_attempts
        self._cursor = b"0"

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Runs scripts in one round trip. An error reply is returned as an exception, not raised."""
        answers = await self._send(commands)
        if missing := unknown(answers):
            again = await self._send([commands[at] for at in missing], known=False)
            for at, answer in zip(missing, again, strict=True):
                answers[at] = answer
        return answers

    async def _send(self, commands: Sequence[Command], *, known: bool = True) -> list[Any]:
        return await self._connections.ask(
            [(*call(command.script, known), 1, self.prefix, *command.args) for command in commands]
        )

    async def close(self) -> None:
        """Closes the connections. Nothing may be under way."""
        await self._connections.close()

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
        """The command that requests results of `items` (id, text, cost); see enqueue.lua for its reply.

        With `revision`, cached results of that revision are looked up too; the cache must be in this Redis.
        """
        items = list(items)
        flat = [value for item in items for value in item]
        cache = cache_key(self._name, revision, "") if revision else ""
        head = [self.api, lane, budget_ms, KEEP_MS, cap, trace or NO_TRACE, int(first), cache]
        return Command("enqueue", [*head, *flat], [entry for entry, _, _ in items])

    def cancel(self, ids: Iterable[str]) -> Command:
        ids = list(ids)
        return Command("cancel", [self.api, *ids], ids)

    def outcomes(self, ids: Iterable[str]) -> Command:
        ids = list(ids)
        return Command("outcomes", ids, ids)

    async def sweep(self, *, evicts: bool = False) -> Snapshot:
        """Sweeps the queue. `evicts`: the cache is in this Redis, and is evicted when memory is short."""
        (info,) = await self._connections.ask([("INFO", "memory")])
        memory = read_memory(info)
        surplus = memory.surplus if evicts else 0
        cache = [cache_prefix(self._name), surplus, self._cursor, int(memory.full)]
        answers = await self.run([sweep_command(self._max_attempts, cache)])
        raise_first(answers)
        self._cursor = answers[0].pop()
        return read_snapshot(answers[0], memory)

    async def hints(self, connections: ConnectionPool, block_s: float, most: int) -> list[bytes]:
        """Hints for this process, waiting up to `block_s` for the first. `connections` must allow that wait.

        One round trip waits for the first hint and takes up to `most` others that are there by then.
        """
        key = f"{self.prefix}:reply:{self.api}"
        answers = await connections.ask([("BLPOP", key, block_s), ("LPOP", key, most)])
        raise_first(answers)
        first, others = answers
        pieces = [*(first or [])[1:], *(others or [])]
        return [hint for piece in pieces for hint in piece.split(b"\0")]


def sweep_command(
    max_attempts: int, cache: Sequence[Any] = ("", 0, 0, 0), limit: int = SWEEP_LIMIT
) -> Command:
    """The command that recovers entries of dead workers; see sweep.lua for its arguments and its reply."""
    return Command("sweep", [limit, max_attempts, *cache])


def queue_states(answer: Sequence[Any], retry_after_s: Callable[[int], float]) -> list[bytes | list[bytes]]:
    """Reads the reply of enqueue.lua: a state for each id. A cached result is in a list with one item.

    Raises QueueFull when the lane sheds; `retry_after_s` computes how long a waiting cost takes to drain.
    """
    if answer and answer[0] == b"full":
        waiting = int(answer[1])
        wait_s = retry_after_s(waiting)
        raise QueueFull(f"the queue is full: {waiting} tokens of text are waiting", retry_after_s=wait_s)
    return list(answer)


def refused_cache(answer: Any) -> bool:
    """Whether an enqueue may have failed because of a cache key that is forbidden or on another server.

    The script reads cache keys before it writes anything, so it is safe to run again without them.
    """
    temporary = (redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
    return isinstance(answer, redis.exceptions.ResponseError) and not isinstance(answer, temporary)
