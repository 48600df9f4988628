"""GET /stats: the mill at this moment. One document as JSON, or one a second as server-sent events.

It is computed once a second per process, whoever watches, from what Redis and the processes publish anyway.
Every viewer gets the same bytes; one that is slow misses some.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, astuple
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from api.backend import Hub
from api.errors import Problem
from api.health import why_not_ready
from api.jobs.schemas import job_body
from api.jobs.service import JobService
from api.lifecycle import Lifecycle
from api.metrics import Metrics
from api.schemas import Error
from api.stats.history import CounterSample, MonotonicTotal, StatsHistory
from batcher.errors import MillraceError
from batcher.messages import LaneDepth, ModelRecord, WorkerRecord

log = logging.getLogger(__name__)

EVERY_S = 1.0
# A stream ends after this, so that no connection is for ever; the page comes back by itself.
MAX_STREAM_S = 3600.0
MOST_VIEWERS = 200
# Newest jobs that are shown.
JOBS = 8
# Frames after somebody looked in which jobs are read from Redis.
JOBS_FRAMES = 5


class Stats:
    """The frames of one process. `run` makes them."""

    def __init__(self, metrics: Metrics, hub: Hub, desk: JobService, lifecycle: Lifecycle) -> None:
        self.viewers = 0
        self._metrics = metrics
        self._hub = hub
        self._desk = desk
        self._lifecycle = lifecycle
        self._pulse = StatsHistory(metrics.bounds)
        self._worked = MonotonicTotal()
        self._next: asyncio.Future[None] | None = None
        self._frame: dict[str, Any] = {}
        self._event = b""
        self._jobs: list[dict[str, Any]] | None = None
        self._reading_jobs: asyncio.Task[None] | None = None
        self._wanted = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Frames are made within it; all streams end with it."""
        ticking = self._lifecycle.watch(asyncio.create_task(self._run(), name="stats"))
        try:
            yield
        finally:
            ticking.cancel()
            tasks = [task for task in (ticking, self._reading_jobs) if task is not None]
            await asyncio.wait(tasks, timeout=1.0)
            self._turn()

    async def frame(self) -> bytes:
        """The newest frame as one JSON document."""
        await self._look_at_jobs()
        return _json(self._frame | {"jobs": self._jobs})

    async def stream(self) -> AsyncIterator[bytes]:
        """What was, then each frame as it is made. Ends when this process is asked to stop."""
        self.viewers += 1
        try:
            ends = time.monotonic() + MAX_STREAM_S
            yield b"retry: 1000\n\n" + _sse("history", _json(self._pulse.history()))
            yield self._encoded()
            while not self._lifecycle.draining and time.monotonic() < ends:
                if self._next is None:
                    self._next = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._next)
                yield self._event
        finally:
            self.viewers -= 1

    async def _run(self) -> None:
        while True:
            try:
                self._tick()
            except Exception:
                log.exception("a frame was lost", extra={"action": "stats.lost"})
            self._turn()
            await asyncio.sleep(EVERY_S - time.time() % EVERY_S)

    def _tick(self) -> None:
        snapshot = self._hub.snapshot
        outcomes, durations = self._metrics.read()
        lanes = {"interactive": snapshot.interactive, "bulk": snapshot.bulk}
        reading = CounterSample(
            at=time.monotonic(),
            hits=outcomes["hit_local"] + outcomes["hit_shared"],
            computed=outcomes["computed"],
            refused=sum(outcomes[name] for name in ("shed", "expired", "failed", "dead", "refused")),
            worked=self._worked.add({worker.id: worker.texts for worker in snapshot.workers}),
            waiting=sum(lane.entries for lane in lanes.values()) + snapshot.solo,
            durations=durations,
        )
        now_ms = time.time() * 1000
        problem = why_not_ready(self._hub, self._lifecycle)
        self._frame = {
            "at_ms": round(now_ms),
            "ready": problem is None,
            "reason": "" if problem is None else problem.detail,
            "model": _model(snapshot.model),
            "lanes": {name: _lane(lane) for name, lane in lanes.items()},
            "solo": snapshot.solo,
            "in_flight": snapshot.in_flight,
            "rate": round(snapshot.rate, 1),
            "workers": [_worker(worker, now_ms) for worker in snapshot.workers],
            "now": asdict(self._pulse.add(reading)),
        }
        self._wanted = JOBS_FRAMES if self.viewers else max(self._wanted - 1, 0)
        if self._wanted and (self._reading_jobs is None or self._reading_jobs.done()):
            self._reading_jobs = asyncio.create_task(self._look_at_jobs())
        if self.viewers:
            self._event = self._encoded()

    def _encoded(self) -> bytes:
        return _sse("frame", _json(self._frame | {"jobs": self._jobs}))

    def _turn(self) -> None:
        waiting, self._next = self._next, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _look_at_jobs(self) -> None:
        """Jobs are read only while somebody watches. None: Redis did not say.

        All viewers get the same frame: where jobs have several owners, it shows none.
        """
        owner = self._desk.shown_owner
        if owner is None:
            self._jobs = []
            return
        try:
            records, _ = await self._desk.newest(None, JOBS, "", owner)
            self._jobs = [job_body(record).model_dump(mode="json") for record in records]
        except MillraceError:
            self._jobs = None


def stats_routes(stats: Stats) -> APIRouter:
    """The one route."""
    router = APIRouter(tags=["health"])

    @router.get(
        "/stats",
        summary="The mill at this moment",
        responses={
            200: {"content": {"application/json": {}, "text/event-stream": {}}},
            401: {"model": Error, "description": "No valid API key, where keys are set"},
            403: {"model": Error, "description": "Another host name (host_not_allowed) or site (cross_site)"},
            429: {"model": Error, "description": "Too many requests of this client (rate_limited)"},
            503: {"model": Error, "description": "Too many are watching already (too_many_viewers)"},
        },
    )
    async def look(request: Request) -> Response:
        """JSON once; with `Accept: text/event-stream` an event `history`, then an event `frame` a second."""
        if "text/event-stream" not in request.headers.get("accept", ""):
            return Response(await stats.frame(), media_type="application/json")
        if stats.viewers >= MOST_VIEWERS:
            raise Problem(503, f"{MOST_VIEWERS} viewers are watching already", code="too_many_viewers")
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(stats.stream(), media_type="text/event-stream", headers=headers)

    return router


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sse(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _model(model: ModelRecord | None) -> dict[str, Any] | None:
    if model is None:
        return None
    return asdict(model) | {"revision": model.revision[:12]}


def _lane(lane: LaneDepth) -> dict[str, Any]:
    return {"entries": lane.entries, "cost": lane.cost, "oldest_s": lane.oldest_ms / 1000}


def _worker(worker: WorkerRecord, now_ms: float) -> dict[str, Any]:
    """`recent`: number, size, tokens, computed tokens, reason, longest wait and pass in ms of each batch."""
    return {
        "id": worker.id,
        "revision": worker.revision[:12],
        "engine": worker.engine,
        "precision": worker.precision,
        "arithmetic": worker.arithmetic,
        "fallback": worker.fallback,
        "state": worker.state,
        "rate": worker.rate,
        "batches": worker.batches,
        "texts": worker.texts,
        "age_s": round(max(now_ms - worker.started_ms, 0.0) / 1000),
        "recent": [astuple(note) for note in worker.recent],
    }
