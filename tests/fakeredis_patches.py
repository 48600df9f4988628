"""What fakeredis lacks: a transport for asyncio connections, one database for all threads, full memory.

And scripts that are compiled once: it would compile each again for each run, and then look for garbage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from threading import RLock
from types import SimpleNamespace
from typing import Any

import redis
from fakeredis import FakeServer
from fakeredis._helpers import SimpleError
from fakeredis.aioredis import AsyncFakeSocket, FakeWriter
from fakeredis.commands_mixins import scripting_mixin
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


# As in Redis: fakeredis compares the names of all variables at each call of a script instead.
_NO_GLOBALS = """
setmetatable(_G, {__newindex = function(_, name)
    error('Script attempted to create global variable ' .. tostring(name))
end})
"""
_make_runtime: Callable[..., Any] = ScriptingCommandsMixin._get_server_runtime
_running = RLock()


@cache
def _interpreter(server_type: str) -> SimpleNamespace:
    """What fakeredis makes for a server, for all servers of a type."""
    made = SimpleNamespace(server_type=server_type)
    _make_runtime(SimpleNamespace(load_lua_modules=set()), made)
    made._lua_runtime.execute(_NO_GLOBALS)
    return made


@cache
def _compiled(server_type: str, source: bytes) -> Any:
    return _interpreter(server_type)._lua_runtime.eval(b"function(KEYS, ARGV)\n" + source + b"\nend")


class _ScriptRun:
    """One run of a script, in the place of the interpreter that each server would have."""

    def __init__(self, server: Any) -> None:
        self._made = _interpreter(server.server_type)
        self._type = server.server_type
        self._socket: list[Any] = [None]
        self._given = list[Any]()
        self.table_from = self._made._lua_runtime.table_from
        server._lua_expected_globals = self._made._lua_expected_globals
        server._lua_current_socket = self._socket
        server._lua_set_keys_argv = lambda *given, kept=self._given: kept.extend(given)

    def execute(self, source: bytes | str) -> Any:
        """The result of a script. Those of several servers run one after the other, or within each other."""
        if isinstance(source, str):  # to collect garbage
            return None
        with _running:
            current = self._made._lua_current_socket
            outer, current[0] = current[0], self._socket[0]
            try:
                return _compiled(self._type, source)(*self._given)
            finally:
                current[0] = outer


def install() -> None:
    """Gives every asyncio connection of fakeredis a transport, and every server its first database.

    All servers have one interpreter of scripts.
    """
    ScriptingCommandsMixin._get_server_runtime = lambda _, server: _ScriptRun(server)  # type: ignore[method-assign]
    vars(scripting_mixin)["_check_for_lua_globals"] = lambda *_: None
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
