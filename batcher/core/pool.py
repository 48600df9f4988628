"""Lines to Redis for an event loop: connections that are kept, each for one exchange at a time.

redis-py connects, logs in, packs commands and knows the errors. Its pool, its pipelines and its streams are
left out: what they do for each command takes longer than Redis does (decision 0008).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
import redis
import redis.asyncio

from batcher.core.outage import elsewhere, lost_to

_NOTHING = object()


class ConnectionPool:
    """Sends commands over connections such as `client` makes, over a new one only while all others are busy.

    A cancelled exchange costs its connection.
    """

    def __init__(self, client: redis.asyncio.Redis, retries: int = 0) -> None:
        self._pool: Any = client.connection_pool
        self._retries = retries
        self._free: list[PooledConnection] = []

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers to `commands`, sent together. An answer that is an exception stands in its place.

        Raises ConnectionError, TimeoutError. A lost connection is worth `retries` more tries, over new ones:
        commands must bear to be run twice.
        """
        tries = self._retries
        while True:
            line = self._free.pop() if self._free else PooledConnection(self._pool.make_connection())
            try:
                answers = await line.ask(commands)
            except BaseException as error:
                await line.close()
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
            await line.close()


class PooledConnection(asyncio.Protocol):
    """One connection, made by redis-py. Then its bytes come here, instead of into a stream."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._transport: Any = None
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse,
            replyError=connection._parser.parse_error,
            notEnoughData=_NOTHING,
        )
        self._answers: list[Any] = []
        self._missing = 0
        self._answered: asyncio.Future[None] | None = None

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """One exchange. Whatever it raises, this line must be closed then."""
        connection = self._connection
        if not connection.is_connected:
            await connection.connect()
            # What pretends to be a connection, for tests without a server, has no transport.
            self._transport = getattr(connection._writer, "transport", None)
            if self._transport is not None:
                self._transport.set_protocol(self)
        packed = b"".join(connection.pack_commands(commands))
        if self._transport is None:
            return await self._ask_by_stream(packed, len(commands))
        if self._transport.is_closing():
            raise _closed(None)
        loop = asyncio.get_running_loop()
        self._answers, self._missing, self._answered = [], len(commands), loop.create_future()
        timer = loop.call_later(connection.socket_timeout, self._late)
        self._transport.write(packed)
        try:
            await self._answered
        finally:
            timer.cancel()
        return self._answers

    async def _ask_by_stream(self, packed: bytes, count: int) -> list[Any]:
        await self._connection.send_packed_command(packed, check_health=False)
        answers: list[Any] = []
        while len(answers) < count:
            try:
                answers.append(await self._connection.read_response())
            except redis.exceptions.ResponseError as error:
                # Its traceback would hold this frame, and so the answers that hold it.
                answers.append(error.with_traceback(None))
        return answers

    def data_received(self, data: bytes) -> None:
        """Answers come in the order of the commands."""
        self._reader.feed(data)
        try:
            while self._missing and (answer := self._reader.gets()) is not _NOTHING:
                if isinstance(answer, redis.exceptions.ConnectionError):
                    raise answer
                if isinstance(answer, redis.exceptions.ResponseError) and elsewhere(answer):
                    raise lost_to(answer) from answer
                self._answers.append(answer)
                self._missing -= 1
        except redis.exceptions.RedisError as error:
            self._fail(error)
        else:
            if not self._missing and self._answered is not None and not self._answered.done():
                self._answered.set_result(None)
            if not self._missing and self._reader.has_data():
                self._transport.abort()  # nobody has asked for more: the next answer would be another's

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed, or the network has failed."""
        self._fail(_closed(exc))

    def _late(self) -> None:
        self._fail(redis.exceptions.TimeoutError("Redis did not answer in time"))

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    async def close(self) -> None:
        """Ends the connection, whatever it is doing."""
        await self._connection.disconnect(nowait=True)


def _closed(reason: Exception | None) -> redis.exceptions.ConnectionError:
    return redis.exceptions.ConnectionError(f"the connection was closed: {reason or 'by the server'}")
