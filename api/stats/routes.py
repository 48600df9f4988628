"""GET /stats: the current state of the service as JSON, or every second as server-sent events.

Each process computes rates once per second, from data that Redis and the processes publish anyway. All
viewers get the same bytes, and slow viewers miss frames. A document, and the first frame of a viewer, are
of the present state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from api.asgi.http import sse, to_json
from api.errors import Problem
from api.health import why_not_ready
from api.jobs.schemas import job_body
from api.jobs.service import JobService
from api.lifecycle import Lifecycle
from api.metrics import Metrics
from api.schemas import error, errors
from api.stats import frames
from api.stats.history import CounterSample, StatsHistory, StatsPoint
from batcher.admin.console import Preparing
from batcher.connection.outage import REDIS_ERRORS
from batcher.core.snapshot import ModelRecord, Snapshot
from batcher.errors import MillraceError
from batcher.lookup.backend import Hub

log = logging.getLogger(__name__)

EVERY_S = 1.0
# A stream ends after this time, so that no connection stays open forever. The page reconnects.
MAX_STREAM_S = 3600.0
MAX_VIEWERS = 200
# How long a viewer waits for the history of earlier processes.
RESTORE_S = 1.0
# After a worker has prepared its model, it may be so long until this process hears that it is ready.
READY_S = 2.0
# How many of the newest jobs are shown.
JOBS = 8
# The rates before the first second.
NO_POINT = StatsPoint(0, 0, 0, 0, 0, p50_ms=None, p99_ms=None, waiting=0)


@dataclass(eq=False)
class Stats:
    """Computes a frame every second while `running` is open, and streams frames to viewers.

    `model` returns what workers published about the first model, by default that of `hub`; `models` returns
    the facts about all models, `on_point` gets the point of each second, and `preparing` returns what workers
    do that load a model. Without jobs, `service` is None, and the history begins with the process.
    """

    metrics: Metrics
    hub: Hub
    service: JobService | None
    lifecycle: Lifecycle
    lease_s: float = 2.0
    model: Callable[[], ModelRecord | None] | None = None
    models: Callable[[], list[dict[str, Any]]] = list
    on_point: Callable[[StatsPoint, Snapshot], None] = lambda point, snapshot: None
    preparing: Callable[[], Awaitable[Sequence[Preparing]]] | None = None

    def __post_init__(self) -> None:
        self.viewers = 0
        self._history = StatsHistory(self.metrics.bounds)
        self._silences = frames.Silences(self.lease_s)
        self._next = asyncio.Event()
        self._point = NO_POINT
        self._event = b""
        self._jobs: list[dict[str, Any]] | None = None
        self._workers: list[dict[str, Any]] = []
        self._starting: Sequence[Preparing] = ()
        self._started_at = -READY_S
        self._reading: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._restoring: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Computes frames while it is open, and ends all streams when it closes."""
        self._restoring = asyncio.create_task(self._restore())
        try:
            async with self.lifecycle.running(self._run(), "stats"):
                yield
        finally:
            others = (self._restoring, self._reading, self._keeping)
            await asyncio.wait([task for task in others if task is not None], timeout=1.0)
            self._wake_streams()

    async def frame(self) -> bytes:
        """The newest frame as one JSON document."""
        await self._read_details()
        return to_json(self._whole())

    async def stream(self) -> AsyncIterator[bytes]:
        """Yields the history, then each new frame. Ends when the process drains."""
        if not self.viewers:
            self._jobs = None  # those that were read for the last viewer are old
        self.viewers += 1
        try:
            ends = time.monotonic() + MAX_STREAM_S
            if self._restoring is not None:
                await asyncio.wait([self._restoring], timeout=RESTORE_S)
            await asyncio.wait([self._begin_reading()], timeout=RESTORE_S)
            yield b"retry: 1000\n\n" + sse("history", to_json(self._history.history()))
            yield self._encoded()
            while not self.lifecycle.draining and time.monotonic() < ends:
                await self._next.wait()
                yield self._event
        finally:
            self.viewers -= 1

    async def _run(self) -> None:
        while True:
            try:
                self._tick()
            except Exception:
                log.exception("could not compute the statistics", extra={"action": "stats.lost"})
            self._wake_streams()
            await asyncio.sleep(EVERY_S - time.time() % EVERY_S)

    def _tick(self) -> None:
        snapshot = self.hub.snapshot
        outcomes, durations = self.metrics.read()
        sample = CounterSample(
            at=time.monotonic(),
            hits=outcomes["hit_local"] + outcomes["hit_shared"],
            computed=outcomes["computed"],
            refused=sum(outcomes[name] for name in ("shed", "expired", "failed", "dead", "refused")),
            shed=outcomes["shed"],
            worked=snapshot.worked,
            waiting=snapshot.interactive.entries + snapshot.bulk.entries + snapshot.solo,
            durations=durations,
        )
        self._point = point = self._history.add(sample)
        self.on_point(point, snapshot)
        kept = self._keeping is None or self._keeping.done()
        if snapshot.swept and kept:  # one process of the service sweeps
            self._keeping = asyncio.create_task(self._keep(self._history.line(point, round(time.time()))))
        if self.viewers:
            self._begin_reading()
            self._event = self._encoded()

    def _encoded(self) -> bytes:
        return sse("frame", to_json(self._whole()))

    def _whole(self) -> dict[str, Any]:
        """A frame of the present state, and of the rates of the last second."""
        snapshot = self.hub.snapshot
        problem = why_not_ready(self.hub, self.lifecycle)
        return {
            "at_ms": round(time.time() * 1000),
            "ready": problem is None,
            "reason": "" if problem is None else self._reason(problem),
            "model": frames.model_facts(self.model() if self.model else snapshot.model),
            "models": self.models(),
            "lanes": frames.lanes_facts(snapshot),
            "pauses": frames.pause_facts(snapshot.pauses),
            "solo": snapshot.solo,
            "in_flight": snapshot.in_flight,
            "shards": frames.shard_facts(self.hub.shards_up),
            "rate": round(snapshot.rate, 1),
            "now": asdict(self._point),
            "workers": self._workers,
            "jobs": self._jobs,
        }

    def _reason(self, problem: Problem) -> Any:
        if problem.code != "no_worker" or not self._starting:
            return problem.detail
        one = self._starting[0]
        return f"the worker has been preparing {one.reference} for {one.seconds:.0f} s: {one.phase}"

    def _wake_streams(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    async def _restore(self) -> None:
        """Reads what earlier processes have kept. Without Redis, the history begins now."""
        if self.service is not None:
            with contextlib.suppress(MillraceError):
                lines = await self.service.call(self.service.store.remembered)
                self._history.restore(lines, round(time.time()))

    async def _keep(self, line: bytes) -> None:
        if self.service is not None:
            with contextlib.suppress(MillraceError):
                await self.service.call(self.service.store.remember, line)

    def _begin_reading(self) -> asyncio.Task[None]:
        """Begins to read the details, unless that is under way."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_details())
        return self._reading

    async def _read_details(self) -> None:
        """Reads what only viewers need: the records of workers, those that start, and the newest jobs."""
        await asyncio.gather(self._read_workers(), self._read_starting(), self._read_jobs())

    async def _read_workers(self) -> None:
        """Reads the records of all workers. If Redis does not answer, the last ones are shown."""
        with contextlib.suppress(*REDIS_ERRORS):
            now_ms = time.time() * 1000
            workers = await self.hub.workers()
            silences = self._silences.take(workers, time.monotonic())
            self._workers = [
                frames.worker_facts(worker, now_ms, silence_s)
                for worker, silence_s in zip(workers, silences, strict=True)
            ]

    async def _read_starting(self) -> None:
        found: Sequence[Preparing] = ()
        if self.preparing is not None and not self.hub.snapshot.workers:
            with contextlib.suppress(MillraceError, Problem):
                found = await self.preparing()
        if found:
            self._started_at = time.monotonic()
        if found or time.monotonic() >= self._started_at + READY_S:
            self._starting = found

    async def _read_jobs(self) -> None:
        """Reads the newest jobs. They are None if Redis does not answer.

        All viewers get the same frame, so no jobs are shown if jobs may have several owners.
        """
        service = self.service
        if service is None or service.shown_owner is None:
            self._jobs = []
            return
        try:
            records, _ = await service.newest(None, JOBS, "", service.shown_owner)
            self._jobs = [job_body(record).model_dump(mode="json") for record in records]
        except MillraceError:
            self._jobs = None


def stats_routes(stats: Stats) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get(
        "/stats",
        summary="The current state of the service",
        responses={
            200: {"content": {"application/json": {}, "text/event-stream": {}}},
            **errors(401, 403, 429),
            503: error("Too many viewers (too_many_viewers)"),
        },
    )
    async def look(request: Request) -> Response:
        """A JSON document. With `Accept: text/event-stream`, a `history` event, then a `frame` per second."""
        if "text/event-stream" not in request.headers.get("accept", ""):
            return Response(await stats.frame(), media_type="application/json")
        if stats.viewers >= MAX_VIEWERS:
            raise Problem(503, f"{MAX_VIEWERS} viewers are connected; retry later", code="too_many_viewers")
        headers = {"x-accel-buffering": "no"}
        return StreamingResponse(stats.stream(), media_type="text/event-stream", headers=headers)

    return router
