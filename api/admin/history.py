"""GET /admin/history: the last hours, minute by minute, from the points that /stats computes every second."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.admin.service import Console
from api.asgi.http import to_json
from api.stats.history import StatsPoint
from batcher.admin.console import MINUTES
from batcher.core.snapshot import Snapshot

MINUTE_S = 60
RATES = ("answered", "hits", "refused", "shed", "worked")


class Minutes:
    """Sums up a minute of points. The process that sweeps then writes them down."""

    def __init__(self, console: Console, clock_s: Callable[[], float] = time.time) -> None:
        self._console = console
        self._clock_s = clock_s
        self._points: list[StatsPoint] = []
        self._minute = 0
        self.writing: asyncio.Task[bool] | None = None

    def take(self, point: StatsPoint, snapshot: Snapshot) -> None:
        """Takes the point of a second."""
        minute = int(self._clock_s() // MINUTE_S)
        if minute != self._minute and self._points:
            if snapshot.swept:
                line = _line(self._minute * MINUTE_S, self._points, snapshot.workers)
                self.writing = asyncio.create_task(
                    self._console.attempt(self._console.stores.minutes.add, line)
                )
            self._points = []
        self._minute = minute
        self._points.append(point)


def _line(at_s: int, points: list[StatsPoint], workers: int) -> bytes:
    """Mean rates per second, the longest queue, and the quantiles of the last request of the minute."""
    means = {name: round(sum(getattr(point, name) for point in points) / len(points), 1) for name in RATES}
    last = {"p50_ms": points[-1].p50_ms, "p99_ms": points[-1].p99_ms, "workers": workers}
    most = {"waiting": max(point.waiting for point in points)}
    return to_json({"at_s": at_s, **means, **most, **last})


def add_history(router: APIRouter, console: Console) -> None:
    @router.get("/admin/history")
    async def history(minutes: Annotated[int, Query(ge=1, le=MINUTES)] = 180) -> dict[str, Any]:
        """A point for each minute, oldest first. Minutes without an API process are missing."""
        lines = await console.call(console.stores.minutes.newest, minutes)
        return {"history": [json.loads(line) for line in lines]}
