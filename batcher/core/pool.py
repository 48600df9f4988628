"""A connection pool for asyncio. Connections stay open, and each handles one exchange at a time.

redis-py connects, authenticates, packs commands and defines the errors. Its pool, pipelines and streams are
not used, because their overhead per command is larger than the time Redis takes (decision 0008).
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
    """Sends commands over connections that `client` configures. Opens a new one only if all others are busy.

    Cancelling an exchange closes its connection.
    """

    def __init__(self, client: redis.asyncio.Redis, retries: int = 0) -> None:
        self._pool: Any = client.connection_pool
        self._retries = retries
        self._free: list[PooledConnection] = []

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Sends `commands` together and returns their replies, with error replies as exceptions.

        Raises ConnectionError and TimeoutError. After a lost connection, the commands are sent again up to
        `retries` times over new connections, so they must be idempotent.
        """
        tries = self._retries
        while True:
            connection = self._free.pop() if self._free else PooledConnection(self._pool.make_connection())
            try:
                answers = await connection.ask(commands)
            except BaseException as error:
                await connection.close()
                if not isinstance(error, redis.exceptions.ConnectionError):
                    raise
                await self.close()  # the idle connections are most likely lost, too
                if not tries:
                    raise
                tries -= 1
            else:
                self._free.append(connection)
                return answers

    async def close(self) -> None:
        """Closes the connections that are not in use."""
        idle, self._free = self._free, []
        for connection in idle:
            await connection.close()


class PooledConnection(asyncio.Protocol):
    """One connection, opened by redis-py. From then on its data arrives here instead of in a stream."""

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
        """Performs one exchange. If it raises, this connection must be closed."""
        connection = self._connection
        if not connection.is_connected:
            await connection.connect()
            # The fake connections of tests without a server have no transport.
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
        timer = loop.call_later(connection.socket_timeout, self._time_out)
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
                # Its traceback would refer to this frame, and so form a reference cycle with the answers.
                answers.append(error.with_traceback(None))
        return answers

    def data_received(self, data: bytes) -> None:
        """Collects replies, which arrive in the order of the commands."""
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
                self._transport.abort()  # the next exchange would take the surplus reply for its own

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails the exchange: the server closed the connection, or the network failed."""
        self._fail(_closed(exc))

    def _time_out(self) -> None:
        self._fail(redis.exceptions.TimeoutError("Redis did not answer in time"))

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    async def close(self) -> None:
        """Closes the connection, even during an exchange."""
        await self._connection.disconnect(nowait=True)


def _closed(reason: Exception | None) -> redis.exceptions.ConnectionError:
    return redis.exceptions.ConnectionError(f"the connection was closed: {reason or 'by the server'}")
