"""Request bodies: how they are read, what is held of all of them, and how a client that leaves is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from sys import getsizeof
from typing import TypeVar

from starlette.requests import ClientDisconnect

from api.asgi.headers import CLOSE, MOST_DIGITS, Receive, RequestHeaders
from api.errors import Problem

T = TypeVar("T")

# What is held at once of unfinished bodies and of texts that wait, counted as so many of the largest bodies.
LARGEST_BODIES = 16


class BodyReader:
    """Reads bodies up to `limit` bytes within `timeout_s`; what is held of all of them has a bound."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        self.limit = limit
        self._timeout_s = timeout_s
        self._room = LARGEST_BODIES * limit

    async def read(self, receive: Receive) -> bytes:
        """The whole body. 413 as soon as it is too large, 408 when it does not end; raises ClientDisconnect.

        503 where the unfinished bodies of others leave no room. A body that comes in one part needs none.
        """
        body, more = await next_part(receive)
        if more:
            try:
                async with asyncio.timeout(self._timeout_s):
                    body = await self._rest(receive, body)
            except TimeoutError:
                raise Problem(408, "the body did not arrive in time", headers=(CLOSE,)) from None
        if len(body) > self.limit:
            raise too_large(self.limit)
        return body

    @contextmanager
    def hold(self, texts: Sequence[str]) -> Iterator[None]:
        """Counts texts for as long as they wait for their results. 503 where there is no room."""
        size = sum(map(getsizeof, texts))
        if size > self._room:
            raise _no_room()
        self._room -= size
        try:
            yield
        finally:
            self._room += size

    async def _rest(self, receive: Receive, first: bytes) -> bytes:
        body, more = bytearray(first), True
        self._room -= len(body)
        try:
            while more and len(body) <= self.limit:
                if self._room < 0:
                    raise _no_room()
                part, more = await next_part(receive)
                body += part
                self._room -= len(part)
            return bytes(body)
        finally:
            self._room += len(body)
            body.clear()  # an error would keep it for as long as it is told


def _no_room() -> Problem:
    return Problem(503, "too many bodies are held already", code="too_many_bodies", headers=(CLOSE,))


def check_length(head: RequestHeaders, limit: int) -> None:
    """Refuses by Content-Length what would be refused while reading, before any of it is read."""
    said = head.found.get(b"content-length")
    if said is not None and said.isdigit() and (len(said) > MOST_DIGITS or int(said) > limit):
        raise too_large(limit)


async def next_part(receive: Receive) -> tuple[bytes, bool]:
    """A part of a body, and whether more follows. Raises ClientDisconnect."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


def too_large(limit: int) -> Problem:
    """413, and the connection closes: what is left of the body is not read."""
    return Problem(413, f"the body is larger than {limit} bytes", headers=(CLOSE,))


async def unless_disconnected(receive: Receive, work: Awaitable[T]) -> T:
    """What `work` returns. Cancels it and raises ClientDisconnect when the client leaves before."""
    asking = asyncio.current_task()
    assert asking is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        asking.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left and not asking.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
