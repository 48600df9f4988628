"""Connections to the node of a Redis Cluster that has the slot of one key: the master of a shard.

A shard uses the keys of one slot only, so its clients talk to one node, as to a plain Redis. A connection
finds that node when it is opened, and is closed as lost when the node refuses a command because the slot is
elsewhere (`outage.moved`). While a slot is moving, commands are refused with ASK, which is not followed:
neither node runs scripts for a slot of which it has only some of the keys (decision 0014).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio

from batcher.connection.redis_url import Address, cluster_parts

_ERRORS = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
# The most nodes that one attempt to connect tries.
MAX_ASKED = 16


class Route:
    """How to find the node with the slot of `key`. Shared by the connections of one client.

    Without a key, any node will do.
    """

    def __init__(self, nodes: list[Address], key: str) -> None:
        self.key = key
        self._nodes = deque(nodes)
        self._found: Address | None = None

    def search(self, timeout_s: float) -> Search:
        """One attempt to connect, which begins where the node was found last."""
        known = [self._found] if self._found else []
        return Search(self, [*known, *(node for node in self._nodes if node != self._found)], timeout_s)

    def found(self, address: Address) -> None:
        self._found = address

    def lost(self) -> None:
        """Begins with another node the next time, because the first may accept connections and not answer."""
        self._found = None
        self._nodes.rotate(-1)


class Search:
    """The nodes that one attempt to connect tries, until one is right or none is left."""

    def __init__(self, route: Route, addresses: list[Address], timeout_s: float) -> None:
        self._route = route
        self._left = addresses
        self._asked: list[Address] = []
        self._until = time.monotonic() + timeout_s
        self._error: Exception | None = None
        self._right = False

    def __iter__(self) -> Iterator[Address]:
        """Yields the addresses to `attempt`. Raises the last error if no other is left, or no time."""
        while not self._right:
            if self._error and (
                not self._left or len(self._asked) >= MAX_ASKED or time.monotonic() > self._until
            ):
                self._route.lost()
                raise self._error
            self._asked.append(self._left.pop(0))
            yield self._asked[-1]

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Within, the node is asked. It is right unless it does not answer, or does not have the slot.

        If it says which one does, that one is next.
        """
        try:
            yield
        except _ERRORS as error:
            self._error = error
            moved = error.__cause__
            if isinstance(moved, redis.exceptions.MovedError):
                address = moved.host or self._asked[-1][0], moved.port
                self._left = [address, *(one for one in self._left if one != address)]
        else:
            self._right = True
            self._route.found(self._asked[-1])


class _Routed:
    """A connection to the node of a `route`."""

    def __init__(self, *, route: Route, **options: Any) -> None:
        self._route = route
        super().__init__(**options)


class _Node(_Routed, redis.Connection):
    def connect(self) -> None:
        if self.is_connected:
            return
        search = self._route.search(self.socket_connect_timeout or 1.0)
        for self.host, self.port in search:
            with search.attempt():
                self.connect_check_health(retry_socket_connect=False)

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        if self._route.key:
            self.send_command("EXISTS", self._route.key, check_health=False)  # type: ignore[no-untyped-call]
            self.read_response()


class _TlsNode(_Node, redis.SSLConnection):
    pass


class _AsyncNode(_Routed, redis.asyncio.Connection):
    async def connect(self) -> None:
        if self.is_connected:
            return
        search = self._route.search(self.socket_connect_timeout or 1.0)
        for self.host, self.port in search:
            with search.attempt():
                await self.connect_check_health(retry_socket_connect=False)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        if self._route.key:
            await self.send_command("EXISTS", self._route.key, check_health=False)
            await self.read_response()


class _AsyncTlsNode(_AsyncNode, redis.asyncio.SSLConnection):
    pass


def options(url: str, key: str, *, asynchronous: bool) -> dict[str, Any]:
    """The class and the options of the connections of a pool. Raises ValueError if the URL is wrong."""
    nodes, more = cluster_parts(url)
    tls = more.pop("ssl", False)
    classes = (_AsyncNode, _AsyncTlsNode) if asynchronous else (_Node, _TlsNode)
    return {"connection_class": classes[bool(tls)], "route": Route(nodes, key), **more}
