"""Answers that are read block by block, whose client leaves meanwhile."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from api.jobs.body import Receiver
from api.jobs.service import JobService


class Threads:
    """What `streamed` needs of a JobService."""

    async def call(self, function: Callable[..., Any], *args: object) -> Any:
        return await asyncio.to_thread(function, *args)


THREADS = cast(JobService, Threads())


class SlowBlocks:
    """Reads for ten seconds until the block behind `first`, unless the client has left before."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.receiver = Receiver(self._receive)
        self.ended = asyncio.Event()
        self.whole = True
        self._loop = asyncio.get_running_loop()

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    def blocks(self, *first: bytes) -> Iterator[bytes]:
        yield from first
        self._loop.call_soon_threadsafe(self.left.set)
        try:
            for _ in self.receiver.waited_for(range(5_000)):
                time.sleep(0.002)
        except ClientDisconnect:
            self.whole = False
            raise
        finally:
            self._loop.call_soon_threadsafe(self.ended.set)
        yield b"behind what takes long"


async def test_the_first_part_of_an_answer_was_read_on_after_its_client_had_left() -> None:
    """A file of results whose lines begin behind megabytes of blank ones."""
    blocks = SlowBlocks()
    with pytest.raises(ClientDisconnect):
        await JobService.streamed(THREADS, blocks.receiver, blocks.blocks(), "text/plain")
    await blocks.ended.wait()
    assert not blocks.whole


async def test_the_rest_of_an_answer_was_read_on_after_its_client_had_left() -> None:
    blocks = SlowBlocks()
    answer = await JobService.streamed(THREADS, blocks.receiver, blocks.blocks(b"first"), "text/plain")
    assert isinstance(answer, StreamingResponse)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    await answer(scope, blocks.receiver.receive, send)
    await blocks.ended.wait()
    assert [message.get("body") for message in sent if message.get("body")] == [b"first"]
    assert not blocks.whole


async def test_an_answer_ended_where_nothing_came_for_a_while() -> None:
    blocks = iter([b"", b"first", b"", b"second", b""])
    receiver = SlowBlocks().receiver
    answer = await JobService.streamed(THREADS, receiver, blocks, "text/plain")
    assert isinstance(answer, StreamingResponse)
    assert [block async for block in answer.body_iterator] == [b"first", b"second"]


async def test_what_an_answer_was_read_from_was_left_to_the_garbage_collector() -> None:
    """The process that writes a table went on waiting for a client that had left while it was sent to."""
    blocks = SlowBlocks()
    closed: list[bool] = []

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"block"
        finally:
            closed.append(True)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            blocks.left.set()
            await asyncio.Event().wait()

    gc.disable()
    try:
        answer = await JobService.streamed(THREADS, blocks.receiver, endless(), "text/plain")
        await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, blocks.receiver.receive, send)
        assert (closed, blocks.receiver.gone) == ([True], True)
    finally:
        gc.enable()
