"""Which server a connection is to: the node of a cluster that has a key, or another after a failover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from batcher.connection import cluster
from batcher.connection.clients import connect, connect_async
from batcher.connection.cluster import MAX_ASKED

KEY = "{millrace:2:t}"


class Node:
    """A node that answers whether the key exists with `exists`, and everything else with PONG."""

    def __init__(self) -> None:
        self.accepted = 0
        self.asked: list[str] = []
        self.exists = b":0\r\n"
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2].decode())
            if words[0] != "CLIENT":
                self.asked.append(" ".join(words))
            writer.write(self.exists if words[0] == "EXISTS" else b"+PONG\r\n")
        writer.close()


@pytest.fixture
async def nodes() -> AsyncIterator[tuple[Node, Node]]:
    """The second one has the slot of the key, and the first one says so."""
    first, second = Node(), Node()
    async with AsyncExitStack() as stack:
        for node in (first, second):
            server = await stack.enter_async_context(await asyncio.start_server(node.serve, "127.0.0.1", 0))
            node.port = server.sockets[0].getsockname()[1]
        first.exists = b"-MOVED 1 127.0.0.1:%d\r\n" % second.port
        yield first, second
        await asyncio.sleep(0.02)  # so that they see their connections end


class Client:
    """A client of either kind, which knows the first node."""

    def __init__(self, make: Any, *nodes: Node, key: str = KEY, retries: int = 0) -> None:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        url = f"redis+cluster://{hosts}"
        self._client = make(url, timeout_s=5.0, retries=retries, key=key)
        self._waits = make is connect_async

    async def ping(self) -> None:
        """Over a new connection."""
        assert await (self._client.ping() if self._waits else asyncio.to_thread(self._client.ping))
        await self.close()

    async def close(self) -> None:
        closing = self._client.connection_pool.disconnect()
        if self._waits:
            await closing


KINDS = pytest.mark.parametrize("make", [connect, connect_async])


@KINDS
async def test_a_client_is_sent_on_to_the_node_of_its_key_and_begins_there_the_next_time(
    nodes: tuple[Node, Node], make: Any
) -> None:
    first, second = nodes
    client = Client(make, first)
    await client.ping()
    assert (first.asked, second.asked) == ([f"EXISTS {KEY}"], [f"EXISTS {KEY}", "PING"])
    await client.ping()
    assert (len(first.asked), second.asked) == (1, [f"EXISTS {KEY}", "PING"] * 2)


@KINDS
async def test_a_client_without_a_key_uses_any_node(nodes: tuple[Node, Node], make: Any) -> None:
    await Client(make, nodes[0], key="").ping()
    assert nodes[0].asked == ["PING"]


@KINDS
async def test_a_node_that_is_gone_is_passed_over(nodes: tuple[Node, Node], make: Any) -> None:
    """At once, because it may stay away: retries concern commands."""
    gone = Node()  # nothing listens on port 0
    client = Client(make, gone, nodes[1], retries=60)
    async with asyncio.timeout(5):
        await client.ping()
    assert nodes[1].asked == [f"EXISTS {KEY}", "PING"]


@KINDS
async def test_a_key_that_no_node_has_is_an_outage(
    nodes: tuple[Node, Node], make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search also ends after a second, which may pass on a busy machine before it has asked so many."""
    monkeypatch.setattr(cluster, "time", SimpleNamespace(monotonic=lambda: 0.0))
    first, second = nodes
    second.exists = b"-MOVED 1 127.0.0.1:%d\r\n" % first.port
    client = Client(make, first)
    with pytest.raises(redis.exceptions.ConnectionError):
        await client.ping()
    assert len(first.asked) == len(second.asked) == MAX_ASKED // 2


async def test_connections_are_opened_again_once_a_server_has_become_a_replica(
    nodes: tuple[Node, Node],
) -> None:
    """It refuses writes, and answers reads for ever: those of other connections too."""
    first, second = nodes
    second.exists = b"-READONLY You can't write against a read only replica.\r\n"
    client, other = (connect(f"redis://127.0.0.1:{node.port}", timeout_s=5.0, retries=0) for node in nodes)
    for _ in range(3):
        await asyncio.to_thread(client.ping)
    assert first.accepted == 1
    with pytest.raises(redis.exceptions.ConnectionError):
        await asyncio.to_thread(other.exists, "key")
    for _ in range(3):
        await asyncio.to_thread(client.ping)
    assert first.accepted == 2
    for one in (client, other):
        await asyncio.to_thread(one.close)


async def test_a_search_for_a_node_may_take_as_long_as_a_connection() -> None:
    allowed = []

    class NoNodes:
        key = ""

        def search(self, within_s: float) -> list[Any]:
            allowed.append(within_s)
            return []

    options: Any = {"route": NoNodes(), "socket_connect_timeout": 0.3}
    cluster._Node(**options).connect()
    await cluster._AsyncNode(**options).connect()
    assert allowed == [0.3, 0.3]
