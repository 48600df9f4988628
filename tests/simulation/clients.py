"""What stands behind the Redis clients of a hub and of a worker: a connection of the simulated network."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import hiredis
import redis

from batcher.connection.clients import connect
from tests.fakeredis_patches import encoded
from tests.simulation.network import Link, Network
from tests.simulation.threads import Process

_parser: Any = connect("redis://simulated", timeout_s=1, retries=0).connection_pool.connection_kwargs[
    "parser_class"
]
# redis-py's pause before it tries again, about.
AGAIN_S = 0.02
CONNECT_S = 1.0


class Transport(asyncio.Transport):
    """The hub's end of a connection."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._commands = hiredis.Reader()
        self._protocol: Any = None
        link.on_reply = lambda reply: self._protocol.data_received(encoded(reply, error_line=str))
        link.on_lost = lambda: self._protocol.connection_lost(None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return not self._link.open

    def write(self, data: Any) -> None:
        self._commands.feed(data)
        commands = []
        while (words := self._commands.gets()) is not False:
            commands.append(words)
        self._link.send(commands)

    def abort(self) -> None:
        self._link.close()


class HubConnection:
    """What `Pipeline` uses of a connection of redis-py."""

    _parser = _parser

    def __init__(self, network: Network, owner: str, timeout_s: float, retries: int) -> None:
        self.socket_timeout = timeout_s
        self._network, self._owner, self._retries = network, owner, retries
        self._writer: Any = None

    async def connect(self) -> None:
        for left in range(self._retries, -1, -1):
            weather = self._network.weather(self._owner)
            silent_s = weather.silent_until - self._network.loop.time()
            await asyncio.sleep(min(max(silent_s, 0.0), CONNECT_S) + self._network.delay_s(self._owner))
            if silent_s > CONNECT_S:
                raise redis.exceptions.TimeoutError("no answer")
            if self._network.loop.time() >= weather.refused_until:
                self._writer = SimpleNamespace(transport=Transport(Link(self._network, self._owner)))
                return
            if left:
                await asyncio.sleep(AGAIN_S)
        raise redis.exceptions.ConnectionError("refused")

    async def disconnect(self, nowait: bool = False) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class HubClient:
    """What `Pipeline` uses of a client of redis-py."""

    def __init__(self, network: Network, owner: str, timeout_s: float, retries: int) -> None:
        self.connection_pool = self
        self.make_connection = lambda: HubConnection(network, owner, timeout_s, retries)

    async def aclose(self) -> None:
        pass


class WorkerClient:
    """What `WorkerQueue` uses of a client of redis-py, in the threads of one process.

    After a lost connection, commands are sent again, up to `retries` times.
    """

    def __init__(self, network: Network, process: Process, timeout_s: float, retries: int) -> None:
        self._network, self._process = network, process
        self._timeout_s, self._retries = timeout_s, retries
        self._free: list[Link] = []

    def pipeline(self, transaction: bool) -> Commands:
        return Commands(self)

    def execute_command(self, *words: Any) -> Any:
        (reply,) = self.send([words])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def blpop(self, keys: Sequence[str], timeout: float) -> Any:
        return self.execute_command("BLPOP", *keys, timeout)

    def close(self) -> None:
        for link in self._free:
            link.close()

    def send(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        encoded = [[_encoded(word) for word in words] for words in commands]
        for left in range(self._retries, -1, -1):
            link = self._connected(left)
            try:
                replies = self._exchange(link, encoded)
            except redis.exceptions.RedisError as error:
                link.close()
                if not left or not isinstance(error, redis.exceptions.ConnectionError):
                    raise
                self._process.sleep(AGAIN_S)
            else:
                self._free.append(link)
                return replies
        raise AssertionError("never reached")

    def _connected(self, retries: int) -> Link:
        while self._free:
            if (link := self._free.pop()).open:
                return link
        for left in range(retries, -1, -1):
            weather = self._network.weather(self._process.name)
            silent_s = weather.silent_until - self._network.loop.time()
            self._process.sleep(
                min(max(silent_s, 0.0), CONNECT_S) + self._network.delay_s(self._process.name)
            )
            if silent_s > CONNECT_S:
                raise redis.exceptions.TimeoutError("no answer")
            if self._network.loop.time() >= weather.refused_until:
                link = Link(self._network, self._process.name)
                self._process.on_death.append(link.close)
                return link
            if left:
                self._process.sleep(AGAIN_S)
        raise redis.exceptions.ConnectionError("refused")

    def _exchange(self, link: Link, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        arrived: deque[Any] = deque()
        replies: list[Any] = []
        link.on_reply = arrived.append
        link.on_lost = lambda: None
        link.send(commands)
        while len(replies) < len(commands):
            if not arrived:
                self._await(link, arrived)
            reply = arrived.popleft()
            if isinstance(reply, Exception):
                reply = _parser.parse_error(str(reply))
                if isinstance(reply, redis.exceptions.ConnectionError):
                    raise reply
            replies.append(reply)
        return replies

    def _await(self, link: Link, arrived: deque[Any]) -> None:
        """Waits until something arrives. Raises TimeoutError, or ConnectionError once the link is lost."""

        def begin(resume: Any) -> None:
            def take(reply: Any) -> None:
                arrived.append(reply)
                resume(True)

            link.on_reply, link.on_lost = take, lambda: resume(True)

        if link.open:
            self._process.wait(begin, self._timeout_s)
            link.on_reply = arrived.append
        if not arrived:
            if link.open:
                raise redis.exceptions.TimeoutError("no reply in time")
            raise redis.exceptions.ConnectionError("the connection was closed")


class Commands:
    """Commands that leave together."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._commands: list[Sequence[Any]] = []

    def execute_command(self, *words: Any) -> None:
        self._commands.append(words)

    def blpop(self, keys: Sequence[str], timeout: float) -> None:
        self.execute_command("BLPOP", *keys, timeout)

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        replies = self._client.send(self._commands)
        for error in replies:
            if raise_on_error and isinstance(error, Exception):
                raise error
        return replies


def _encoded(word: Any) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()
