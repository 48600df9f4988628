"""What fakeredis lacks: a transport for asyncio connections, one database for all threads, full memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis
from fakeredis import FakeServer
from fakeredis._helpers import SimpleError
from fakeredis.aioredis import AsyncFakeSocket, FakeWriter
from fakeredis.commands_mixins.scripting_mixin import ScriptingCommandsMixin

# Commands of the scripts that write, and may use memory or not.
USE_MEMORY = {b"SET", b"HSET", b"HINCRBY", b"RPUSH", b"LPUSH", b"ZADD"}
USE_NONE = {
    b"DEL",
    b"UNLINK",
    b"HDEL",
    b"LPOP",
    b"LTRIM",
    b"PEXPIRE",
    b"ZREM",
    b"ZREMRANGEBYSCORE",
    b"ZPOPMAX",
}


class FakeTransport(asyncio.Transport):
    """Writes commands to a fake socket, and passes its replies to the protocol, as bytes again."""

    def __init__(self, socket: AsyncFakeSocket) -> None:
        super().__init__()
        self._socket: Any = socket
        self._protocol: Any = None
        self._loop = asyncio.get_running_loop()
        socket.put_response = self._reply  # type: ignore[method-assign]

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._socket is None

    def write(self, data: Any) -> None:
        try:
            self._socket.sendall(data)
        except redis.exceptions.ConnectionError as error:
            self._loop.call_soon(self._protocol.connection_lost, error)

    def abort(self) -> None:
        self._socket = None

    def _reply(self, message: Any) -> None:
        if self._socket is not None:
            self._loop.call_soon(self._protocol.data_received, encoded(message))


def _error_line(error: Exception) -> str:
    """The code and words of an error of fakeredis, which has no code."""
    return f"{'NOSCRIPT' if isinstance(error, redis.exceptions.NoScriptError) else 'ERR'} {error}"


def encoded(message: Any, error_line: Callable[[Exception], str] = _error_line) -> bytes:
    """A reply as Redis encodes it. `error_line` gives the code and words of an error."""
    if isinstance(message, Exception):
        return b"-%b\r\n" % error_line(message).encode()
    if isinstance(message, list):
        return b"*%d\r\n%b" % (len(message), b"".join(encoded(part, error_line) for part in message))
    if isinstance(message, int):
        return b":%d\r\n" % message
    return b"$-1\r\n" if message is None else b"$%d\r\n%b\r\n" % (len(message), message)


def install() -> None:
    """Gives every asyncio connection of fakeredis a transport, and every server its first database."""
    FakeWriter.transport = property(lambda writer: FakeTransport(writer._socket))  # type: ignore[attr-defined]
    start = FakeServer.__init__

    def with_database(server: FakeServer, *args: Any, **kwargs: Any) -> None:
        # fakeredis creates it with the first connection. Two threads that connected at once each created one,
        # kept it, and did not see what the other wrote.
        start(server, *args, **kwargs)
        server.dbs[0]

    FakeServer.__init__ = with_database  # type: ignore[method-assign]


class FullMemory:
    """While `full`, fake servers refuse scripts whose first write may use memory, as Redis does."""

    def __init__(self) -> None:
        self.full = False
        # Connections whose script has written: threads that an earlier test has left may run scripts, too.
        self._written = set[Any]()
        self._run: Callable[..., Any] = ScriptingCommandsMixin.eval
        self._call: Callable[..., Any] = ScriptingCommandsMixin._lua_redis_call

    def patches(self) -> dict[str, Callable[..., Any]]:
        """Replacements of methods of `ScriptingCommandsMixin`."""

        def run(socket: Any, *words: Any) -> Any:
            self._written.discard(socket)
            return self._run(socket, *words)

        def call(socket: Any, lua: Any, names: Any, command: bytes, *words: Any) -> Any:
            if self.full and socket not in self._written and command in USE_MEMORY:
                raise SimpleError("OOM command not allowed when used memory > 'maxmemory'.")
            if command in USE_MEMORY | USE_NONE:
                self._written.add(socket)
            return self._call(socket, lua, names, command, *words)

        return {"eval": run, "_lua_redis_call": call}
