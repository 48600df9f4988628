"""Whose request is sent next, of all that the jobs of a process have."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from batcher.jobs.runner import Requests

Job = tuple[str, str]


class Line:
    """Requests that wait for their turns, and in which order they got them."""

    def __init__(self, most: int) -> None:
        self.requests = Requests(most)
        self.order: list[Job] = []
        self.held: list[tuple[Job, AsyncExitStack]] = []

    async def ask(self, *jobs: Job) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self._one(job)) for job in jobs]
        await self.resolve()
        return tasks

    async def _one(self, job: Job) -> None:
        stack = AsyncExitStack()
        await stack.enter_async_context(self.requests.turn(*job))
        self.order.append(job)
        self.held.append((job, stack))

    async def resolve(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def end_first(self) -> None:
        await self.held.pop(0)[1].aclose()
        await self.resolve()


async def test_one_text_waited_for_all_texts_of_another_client() -> None:
    """First come, first served: 80 s beside 24 jobs of 1,000 texts at 300 texts/s."""
    line = Line(2)
    many = [("many", f"job{number % 3}") for number in range(60)]
    await line.ask(*many)
    await line.ask(("one", "job"))
    assert len(line.order) == 2
    await line.end_first()
    assert line.order[-1] == ("one", "job")


async def test_the_jobs_of_a_client_share_its_requests() -> None:
    line = Line(4)
    await line.ask(*[("many", "large")] * 20)
    await line.ask(("many", "small"))
    await line.end_first()
    assert line.order[-1] == ("many", "small")


async def test_a_request_that_is_cancelled_takes_no_place() -> None:
    """Neither while it waits, nor as its turn comes."""
    line = Line(1)
    await line.ask(("a", "1"))
    waits, comes, _ = await line.ask(("b", "1"), ("c", "1"), ("d", "1"))
    waits.cancel()
    await line.held.pop()[1].aclose()
    comes.cancel()
    await line.resolve()
    assert line.order == [("a", "1"), ("d", "1")]
