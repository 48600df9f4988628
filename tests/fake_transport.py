"""A transport for fakeredis, which has none: what is written is a command, and replies are bytes again."""

from __future__ import annotations

import asyncio
from typing import Any

import redis
from fakeredis.aioredis import AsyncFakeSocket, FakeWriter


class FakeTransport(asyncio.Transport):
    """Writes to a fake socket, and passes its replies to the protocol."""

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


def encoded(message: Any) -> bytes:
    """A reply as Redis encodes it."""
    if isinstance(message, redis.exceptions.NoScriptError):
        return b"-NOSCRIPT %b\r\n" % str(message).encode()
    if isinstance(message, Exception):
        return b"-ERR %b\r\n" % str(message).encode()
    if isinstance(message, list):
        return b"*%d\r\n%b" % (len(message), b"".join(map(encoded, message)))
    if isinstance(message, int):
        return b":%d\r\n" % message
    return b"$-1\r\n" if message is None else b"$%d\r\n%b\r\n" % (len(message), message)


def install() -> None:
    """Gives every asyncio connection of fakeredis a transport."""
    FakeWriter.transport = property(lambda writer: FakeTransport(writer._socket))  # type: ignore[attr-defined]
