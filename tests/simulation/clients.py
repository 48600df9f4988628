"""What stands behind the Redis clients of a hub and of a worker: a connection of the simulated network."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import hiredis
import redis

from batcher.connection.clients import connect, round_trip
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
    """What `WorkerQueue` uses of a client of redis-py, in the threads of one process, and its pool."""

    def __init__(self, network: Network, process: Process, timeout_s: float, retries: int) -> None:
        self._make = lambda: WorkerConnection(network, process, timeout_s, retries)
        self._free: list[WorkerConnection] = []
        self.connection_pool = self

    def execute_command(self, *words: Any) -> Any:
        (reply,) = round_trip(self, [words])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def blpop(self, keys: Sequence[str], timeout: float) -> Any:
        return self.execute_command("BLPOP", *keys, timeout)

    def get_connection(self) -> WorkerConnection:
        return self._free.pop() if self._free else self._make()

    def release(self, connection: WorkerConnection) -> None:
        self._free.append(connection)

    def close(self) -> None:
        for connection in self._free:
            connection.disconnect()


class WorkerConnection:
    """What `round_trip` uses of a connection: commands are sent again up to `retries` times."""

    def __init__(self, network: Network, process: Process, timeout_s: float, retries: int) -> None:
        self._network, self._process = network, process
        self._timeout_s, self._retries = timeout_s, retries
        self._left = 0
        self._link: Link | None = None
        self._arrived: deque[Any] = deque()
        self.retry = self

    def call_with_retry(self, do: Callable[[], Any], fail: Callable[[Exception], None]) -> Any:
        for left in range(self._retries, -1, -1):
            self._left = left
            try:
                return do()
            except redis.exceptions.ConnectionError as error:
                fail(error)
                if not left:
                    raise
                self._process.sleep(AGAIN_S)
        raise AssertionError("never reached")

    def send_packed_command(self, packed: Sequence[bytes]) -> None:
        reader = hiredis.Reader()
        for part in packed:
            reader.feed(part)
        commands = [*iter(reader.gets, False)]
        if self._link is None or not self._link.open:
            self._link = self._connected()
        self._arrived.clear()
        self._link.on_reply = self._arrived.append
        self._link.on_lost = lambda: None
        self._link.send(commands)

    def read_response(self) -> Any:
        if not self._arrived:
            self._await()
        reply = self._arrived.popleft()
        if isinstance(reply, Exception):
            raise _parser.parse_error(str(reply))
        return reply

    def disconnect(self) -> None:
        if self._link is not None:
            self._link.close()

    def _connected(self) -> Link:
        for left in range(self._left, -1, -1):
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

    def _await(self) -> None:
        """Waits until something arrives. Raises TimeoutError, or ConnectionError once the link is lost."""
        link, arrived = self._link, self._arrived
        assert link is not None

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
