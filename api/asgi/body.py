"""Reads request bodies, bounds the memory they use together, and detects clients that disconnect."""

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

# Unfinished bodies and waiting texts together may use as much memory as this many bodies of the largest size.
LARGEST_BODIES = 16


class BodyReader:
    """Reads bodies of up to `limit` bytes within `timeout_s`, and bounds the memory of all of them."""

    def __init__(self, limit: int, timeout_s: float) -> None:
        self.limit = limit
        self._timeout_s = timeout_s
        self._room = LARGEST_BODIES * limit

    async def read(self, receive: Receive) -> bytes:
        """Returns the whole body.

        Raises Problem 413 as soon as it is too large, 408 if it does not end in time, 503 if the unfinished
        bodies of other requests use all the memory, and ClientDisconnect. A body that arrives in one part
        does not count towards that memory.
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
        """Counts the memory of texts while they wait for results. Raises Problem 503 if it is used up."""
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
            body.clear()  # the traceback of an error refers to it until the response has been sent


def _no_room() -> Problem:
    detail = "the request bodies and texts that this process may hold are used up"
    return Problem(503, detail, code="too_many_bodies", headers=(CLOSE,))


def check_length(headers: RequestHeaders, limit: int) -> None:
    """Rejects a body that is too large by its Content-Length, before reading any of it."""
    length = headers.found.get(b"content-length")
    if length is not None and length.isdigit() and (len(length) > MOST_DIGITS or int(length) > limit):
        raise too_large(limit)


async def next_part(receive: Receive) -> tuple[bytes, bool]:
    """The next part of a body, and whether more follows. Raises ClientDisconnect."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


def too_large(limit: int) -> Problem:
    """A 413 that closes the connection, because the rest of the body is not read."""
    return Problem(413, f"the body is larger than {limit} bytes", headers=(CLOSE,))


async def unless_disconnected(receive: Receive, work: Awaitable[T]) -> T:
    """Returns what `work` returns. If the client disconnects, cancels it and raises ClientDisconnect."""
    task = asyncio.current_task()
    assert task is not None
    disconnected = False

    async def watch() -> None:
        nonlocal disconnected
        while (await receive())["type"] != "http.disconnect":
            pass
        disconnected = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if disconnected and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()
