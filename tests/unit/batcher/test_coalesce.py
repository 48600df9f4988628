"""Round trips shared by what is asked within one tick."""

import asyncio
from collections.abc import Sequence

import pytest

from batcher.core.coalescer import Coalescer


class Wire:
    """Remembers every load; answers with the item doubled, or with an error for negative ones."""

    def __init__(self) -> None:
        self.loads: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def send(self, items: Sequence[int]) -> list[int | Exception]:
        self.loads.append(list(items))
        await self.open.wait()
        return [ValueError(item) if item < 0 else 2 * item for item in items]


async def test_one_tick_is_one_load():
    wire = Wire()
    coalescer = Coalescer(wire.send)
    assert await asyncio.gather(*(coalescer.ask(item) for item in range(5))) == [0, 2, 4, 6, 8]
    assert wire.loads == [[0, 1, 2, 3, 4]]


async def test_what_comes_while_all_flights_are_under_way_leaves_together():
    wire = Wire()
    wire.open.clear()
    coalescer = Coalescer(wire.send, max_in_flight=1)
    first = coalescer.ask(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = [coalescer.ask(item) for item in (2, 3)]
    wire.open.set()
    assert await asyncio.gather(first, *rest) == [2, 4, 6]
    assert wire.loads == [[1], [2, 3]]


async def test_a_load_has_a_largest_size():
    wire = Wire()
    coalescer = Coalescer(wire.send, max_in_flight=2, max_items=2)
    await asyncio.gather(*(coalescer.ask(item) for item in range(5)))
    assert [len(load) for load in wire.loads] == [2, 2, 1]


async def test_finding_15_a_load_is_bounded_by_the_size_of_what_it_holds():
    wire = Wire()
    coalescer = Coalescer(wire.send, size=lambda item: item, max_size=10)
    items = [4, 6, 1, 50, 9, 1, 1]
    assert await asyncio.gather(*map(coalescer.ask, items)) == [2 * item for item in items]
    assert wire.loads == [[4, 6], [1], [50], [9, 1], [1]]


async def test_an_error_reaches_only_the_one_who_asked():
    coalescer = Coalescer(Wire().send)
    answers = await asyncio.gather(*map(coalescer.ask, (1, -1, 2)), return_exceptions=True)
    assert answers[0] == 2
    assert answers[2] == 4
    assert isinstance(answers[1], ValueError)


async def test_a_failed_send_reaches_all_and_the_next_load_still_goes():
    calls = 0

    async def send(items: Sequence[int]) -> list[int | Exception]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError("the wire broke")
        return list(items)

    coalescer = Coalescer(send)
    broken = await asyncio.gather(*map(coalescer.ask, (1, 2)), return_exceptions=True)
    assert [type(error) for error in broken] == [OSError, OSError]
    assert await coalescer.ask(7) == 7


async def test_a_cancelled_request_cancels_no_command():
    wire = Wire()
    wire.open.clear()
    coalescer = Coalescer(wire.send)
    request = asyncio.ensure_future(coalescer.ask(1))
    neighbour = coalescer.ask(2)
    await asyncio.sleep(0)
    request.cancel()
    wire.open.set()
    assert await neighbour == 4
    with pytest.raises(asyncio.CancelledError):
        await request
    await coalescer.drain()
    assert wire.loads == [[1, 2]]


@pytest.mark.timeout(20)
async def test_finding_06c_drain_ends_at_once_when_the_last_flight_has_just_landed():
    """Python 3.12 completes `gather` over finished tasks without a tick: this used to spin for ever."""
    coalescer = Coalescer(Wire().send)
    landed = asyncio.create_task(coalescer.drain())
    assert await coalescer.ask(1) == 2
    await coalescer.drain()
    await landed
    assert await coalescer.ask(2) == 4
    await coalescer.drain()
