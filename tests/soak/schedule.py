"""The cycles of a soak, and the planned time of what was recorded while they ran."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

Samples = Sequence[tuple[float, float]]
# Each with the share of the cycle after which it begins.
Steps = Sequence[tuple[float, Callable[[], Coroutine[Any, Any, None]]]]


class Schedule:
    """Cycles of at least `cycle_s` seconds, one after another.

    On a busy machine a cycle may take longer. The next one begins when it has ended and takes its full time,
    instead of catching up: steps that overlap, such as revisions that are loaded together, would need more
    memory than they do one at a time. `edges` are the moments, in s since the start, at which cycles began
    and the last one ended.
    """

    def __init__(self, cycle_s: float) -> None:
        self.edges = [0.0]
        self._cycle_s, self._began = cycle_s, time.monotonic()

    @property
    def passed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    async def run_cycle(self, steps: Steps) -> None:
        """Begins each step at its share of the cycle, and returns when the cycle and all steps are over."""
        self.edges[-1] = begin = self.passed_s
        async with asyncio.TaskGroup() as group:
            for share, step in steps:
                await self._until(begin + share * self._cycle_s)
                group.create_task(step())
        await self._until(begin + self._cycle_s)
        self.edges.append(self.passed_s)

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.passed_s))

    def planned(self, samples: Samples) -> list[tuple[float, float]]:
        """The same samples at the times at which they had been taken if no cycle had been late.

        So each part of a run has the same number of cycles, and a slope says what is added with each of them.
        """
        times, values = np.array(samples, dtype=float).T
        at = np.interp(times, self.edges, np.arange(len(self.edges)) * self._cycle_s)
        return list(zip(at.tolist(), values.tolist(), strict=True))

    @property
    def lengths(self) -> tuple[float, float]:
        """Seconds of the shortest cycle and of the longest."""
        each = np.diff(self.edges)
        return float(each.min()), float(each.max())
