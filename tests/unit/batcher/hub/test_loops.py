"""The background loops of a hub: what is said when one of them ends."""

from __future__ import annotations

import asyncio

import pytest

from batcher.hub.hub import Loops


async def forever() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise ValueError("a reply that cannot be read")


async def test_a_loop_that_ends_by_itself_is_named_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    loops = Loops()
    loops.start(hints=forever())
    await asyncio.sleep(0)
    assert loops.alive
    loops.start(sweeps=broken())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not loops.alive
    (record,) = caplog.records
    assert record.__dict__["loop"] == "sweeps"
    assert "a reply that cannot be read" in caplog.text
    await loops.stop()


async def test_stopping_waits_for_the_end_of_every_loop() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            ended.append("slow")

    loops = Loops()
    loops.start(slow=slow(), hints=forever())
    await asyncio.sleep(0)
    await loops.stop()
    assert ended == ["slow"]


async def test_loops_that_are_stopped_end_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    loops = Loops()
    loops.start(hints=forever(), sweeps=forever())
    await loops.stop()
    assert caplog.records == []
