"""A TCP proxy for tests, in a separate thread: slow, frozen, half-open or cut, on demand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

Direction = Literal["requests", "answers"]


class _Link:
    """One proxied connection. `dead` directions swallow what they read; the sockets stay open."""

    def __init__(self, writers: list[asyncio.StreamWriter]) -> None:
        self.writers = writers
        self.dead: set[Direction] = set()


class Proxy:
    """Stands between a client and `target` (a Redis URL or "host:port"). `url` is where to connect instead.

    slow(s)        every piece arrives s seconds late
    lose("answers") swallows one direction of the connections that are there, and of new ones, until `heal`
    strand()       connections that are there go silent for ever, new ones work: a half-open TCP connection
    cut()          closes the connections that are there
    point(target)  new connections lead there
    refuse()       new connections are closed at once, until `heal`
    """

    def __init__(self, target: str) -> None:
        self.point(target)
        self._loop = asyncio.new_event_loop()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delay_s = 0.0
        self._lost: set[Direction] = set()
        self._refusing = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://{self._user}127.0.0.1:{self.port}/0"

    def point(self, target: str) -> None:
        """New connections lead to `target`; those that are there stay, as after a change in the DNS."""
        parts = urlsplit(target if "://" in target else f"tcp://{target}")
        self._user = f"{parts.username}:{parts.password}@" if parts.username else ""
        self._unix = parts.path if parts.scheme == "unix" else ""
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 6379

    def slow(self, delay_s: float) -> None:
        """Delays every piece in both directions; 0 ends it."""
        self._delay_s = delay_s

    def lose(self, direction: Direction) -> None:
        """Swallows what travels in one direction, on every connection, until `heal`."""

        def apply() -> None:
            self._lost.add(direction)
            for link in self._links:
                link.dead.add(direction)

        self._call(apply)

    def strand(self) -> None:
        """Silences the connections that are there, for ever. New ones work."""

        def apply() -> None:
            for link in self._links:
                link.dead |= {"requests", "answers"}

        self._call(apply)

    def cut(self) -> None:
        """Closes the connections that are there."""

        def apply() -> None:
            for link in self._links:
                for writer in link.writers:
                    writer.transport.abort()

        self._call(apply)

    def refuse(self) -> None:
        """Closes new connections at once, until `heal`."""
        self._refusing = True

    def heal(self) -> None:
        """New connections work, without delay. Those that lost bytes cannot be mended."""
        self._delay_s, self._refusing = 0.0, False
        self._call(self._lost.clear)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    def close(self) -> None:
        """Ends everything."""

        async def end() -> None:
            # A connection that comes just now ends at once. asyncio forgets one that it accepts as the server
            # closes, so this is last.
            self._refusing = True
            for link in self._links:
                for writer in link.writers:
                    writer.transport.abort()
            for task in self._tasks:
                task.cancel()
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)
            self._server.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._call(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(work)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            return
        if self._unix:
            far_reader, far_writer = await asyncio.open_unix_connection(self._unix)
        else:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        link = _Link([writer, far_writer])
        link.dead |= self._lost
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, "requests", reader, far_writer)),
            asyncio.ensure_future(self._pump(link, "answers", far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            for pump in pumps:
                pump.cancel()
            far_writer.transport.abort()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, link: _Link, way: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if way not in link.dead:
                    writer.write(piece)
                    await writer.drain()
