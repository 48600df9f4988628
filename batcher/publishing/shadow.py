"""Shadows: candidates that answer nothing, but compute a share of the texts again to compare the results.

Texts go to its queue in the bulk lane, after the answer of the revision that answers. Failures
there are counted and affect neither requests nor jobs (decision 0017).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from batcher.errors import MillraceError
from batcher.messages import Lane, Outcome, Prediction
from batcher.publishing.comparisons import compare

# The most texts that wait in this process, and their characters; any beyond either are dropped.
MAX_TEXTS = 1000
MAX_CHARS = 4_000_000
# As jobs do: few enough texts in a request that its scripts do not delay a caller's single text.
REQUEST_TEXTS = 32
REQUESTS = 4
# How long a text may wait in the candidate's queue.
BUDGET_S = 30.0
REPORT_EVERY_S = 1.0
Report = Callable[[int, Counter[str]], Awaitable[bool]]


class Hub(Protocol):
    """What a shadow needs of `batcher.hub.hub.ReplyHub`."""

    async def classify(
        self, ids: Sequence[str], texts: Sequence[str], *, budget_s: float, lane: Lane = ...
    ) -> list[Outcome]: ...


class _Text(NamedTuple):
    """A text with its id in the queue, and what the revision that answers has computed."""

    id: str
    text: str
    answer: Prediction


class Shadow:
    """Compares the candidate, whose queue is that of `hub`, with the one that answers. Needs a running loop.

    `report` stores counts, under a number by which it recognises those that are sent again. It returns
    whether it could. `counted` is called with all counts at once.
    """

    def __init__(
        self, hub: Hub, report: Report, counted: Callable[[Counter[str]], None] = lambda counts: None
    ) -> None:
        self._hub = hub
        self._report = report
        self._counted = counted
        self._waiting: asyncio.Queue[_Text] = asyncio.Queue(MAX_TEXTS)
        self._chars = 0
        # Requests that waited for the same computation have the same object.
        self._held: dict[int, Prediction] = {}
        self._counts: Counter[str] = Counter()
        self._unsent: Counter[str] = Counter()
        self._number = 0
        self._tasks = [
            asyncio.create_task(self._repeat(), name="shadow-report"),
            *(asyncio.create_task(self._work(), name=f"shadow-{n}") for n in range(REQUESTS)),
        ]

    def offer(self, entry: str, text: str, answer: Prediction) -> None:
        """Takes a text of the share, with its id in the queue and what the answering revision computed."""
        if id(answer) in self._held:
            return
        if self._waiting.full() or self._chars + len(text) > MAX_CHARS:
            self._count(Counter(dropped=1))
            return
        self._held[id(answer)] = answer
        self._chars += len(text)
        self._waiting.put_nowait(_Text(entry, text, answer))

    @property
    def idle(self) -> bool:
        """Whether all texts that it took are compared."""
        return not self._held

    async def stop(self) -> None:
        """Drops what waits, and reports the rest."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._count(Counter(dropped=self._waiting.qsize()))
        await self._send()
        await self._send()  # a report that failed before goes first

    async def _work(self) -> None:
        while True:
            texts = [await self._waiting.get()]
            while len(texts) < REQUEST_TEXTS and not self._waiting.empty():
                texts.append(self._waiting.get_nowait())
            try:
                await self._classify(texts)
            finally:
                for one in texts:
                    self._chars -= len(one.text)
                    del self._held[id(one.answer)]

    async def _classify(self, texts: list[_Text]) -> None:
        ids = [one.id for one in texts]
        contents = [one.text for one in texts]
        try:
            outcomes = await self._hub.classify(ids, contents, budget_s=BUDGET_S, lane="bulk")
        except (MillraceError, asyncio.CancelledError) as error:
            self._count(Counter(dropped=len(texts)))
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        for one, outcome in zip(texts, outcomes, strict=True):
            self._count(_compared(one.answer, outcome))

    def _count(self, counts: Counter[str]) -> None:
        self._counts += counts
        self._counted(counts)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            await self._send()

    async def _send(self) -> None:
        """Reports what was counted. A report that fails is sent again as it was, under the same number."""
        if not self._unsent:
            self._unsent = self._counts
            self._counts = Counter()
            self._number += 1
        if self._unsent and await self._report(self._number, self._unsent):
            self._unsent = Counter()


def _compared(answer: Prediction, outcome: Outcome) -> Counter[str]:
    if isinstance(outcome, MillraceError):
        return Counter(failed=1)
    try:
        return compare(answer, outcome)
    except ValueError:
        return Counter(failed=1)
