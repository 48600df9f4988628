"""Lines to Redis for an event loop: connections that are kept, each for one exchange at a time.

redis-py connects, writes, reads and knows the errors. Its pool and its pipelines are left out: what they do
for each command takes longer than Redis does, and nothing of it is wanted here (decision 0008).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio


class Lines:
    """Sends commands over connections such as `client` makes, over a new one only while all others are busy.

    A cancelled exchange costs its connection.
    """

    def __init__(self, client: redis.asyncio.Redis, retries: int = 0) -> None:
        self._pool: Any = client.connection_pool
        self._retries = retries
        self._free: list[Any] = []

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers to `commands`, sent together. An answer that is an exception stands in its place.

        Raises ConnectionError, TimeoutError. A lost connection is worth `retries` more tries, over new ones:
        commands must bear to be run twice.
        """
        tries = self._retries
        while True:
            line = self._free.pop() if self._free else self._pool.make_connection()
            try:
                answers = await _exchange(line, commands)
            except BaseException as error:
                await line.disconnect(nowait=True)
                if not isinstance(error, redis.exceptions.ConnectionError):
                    raise
                await self.close()  # what ended one has ended all that were idle
                if not tries:
                    raise
                tries -= 1
            else:
                self._free.append(line)
                return answers

    async def close(self) -> None:
        """Ends the connections that are not in use."""
        idle, self._free = self._free, []
        for line in idle:
            await line.disconnect(nowait=True)


async def _exchange(line: Any, commands: Sequence[Sequence[Any]]) -> list[Any]:
    if not line.is_connected:
        await line.connect()
    await line.send_packed_command(line.pack_commands(commands), check_health=False)
    answers = []
    for _ in commands:
        try:
            answers.append(await line.read_response())
        except redis.exceptions.ResponseError as error:
            answers.append(error)
    return answers
