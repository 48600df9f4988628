"""The jobs worker: runs many jobs at once, each as a task, fairly by client and then by size.

Which jobs it begins is decided by the store, by the clock of Redis. A small job never waits for a large one.
Jobs of a size take turns if there are more of them than run at once. A job whose model has no worker, or is
paused, steps aside until that is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic

from batcher import tracing
from batcher.connection.outage import REDIS_ERRORS, Outage
from batcher.jobs.models import UNUSED_S, Connection, JobModels
from batcher.jobs.records import Attempt, Left
from batcher.jobs.rq_queue import JobQueue, RqWorker
from batcher.jobs.runner import PATIENCE_S, Bounds, ChunkMemory, Interrupted, JobRun, SteppedAside, bounds_of
from batcher.jobs.store import LOST_S, PROCESS_DIGITS, SILENT_S, SMALL_TEXTS, JobStore
from batcher.settings import JobSettings

log = logging.getLogger(__name__)

# How many jobs of each size run at once.
SMALL_JOBS = 16
LARGE_JOBS = 4
# How often to look for jobs, at most and at least.
SOONEST_S = 0.05
POLL_S = 0.2
# How often to look which revisions answer, and to tell RQ that this process lives.
LOOK_S = 1.0
HEARTBEAT_S = 5.0
# How long a job runs while another one of its size waits whose client has as many that run.
TURN_S = 30.0
STUCK_S = 120.0


@dataclass(eq=False)
class JobsWorker:
    """Runs jobs until `stop` is called. `outage` is that of the Redis of jobs, or of the queue's.

    Needs a running loop.
    """

    _store: JobStore
    _queue: JobQueue
    _rq: RqWorker
    _models: JobModels
    _settings: JobSettings
    _outage: Outage
    _stopping = False

    def __post_init__(self) -> None:
        self._wake = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], Attempt] = {}
        self._runs: set[JobRun] = set()
        # By the queue of a model, and whether jobs are large: these do not keep small ones waiting.
        self._bounds: dict[tuple[str, bool], Bounds] = {}
        self._memory = ChunkMemory(), ChunkMemory()
        # By the queue of a model that cannot answer: what shows when it can again.
        self._blocked: dict[str, Connection] = {}
        self._look_at = self._heartbeat_at = 0.0
        self._turned_at = monotonic()
        # Until then, others may be silent because Redis was away.
        self._patient_until = 0.0
        self._process = token_hex(PROCESS_DIGITS // 2)
        self._token = self._next_token()

    def _next_token(self) -> str:
        return self._process + token_hex(8)

    def stop(self) -> None:
        """Begins to end: running jobs are released, and continued by another process or after a restart."""
        self._stopping = True
        self._wake.set()

    @property
    def stuck(self) -> bool:
        """Whether its loop has stood still for STUCK_S: the process must be restarted."""
        return monotonic() > self._turned_at + STUCK_S

    @property
    def problem(self) -> str | None:
        """Why this process cannot run jobs at the moment."""
        if not self._outage.over:
            return f"Redis does not answer: {self._outage.reason}"
        return None if self._models.queues.reachable else "the Redis of the queue does not answer"

    async def work(self) -> None:
        """Works until `stop`, also through outages of Redis."""
        while not self._stopping:
            self._turned_at = monotonic()
            try:
                await self._turn()
                self._outage.found()
                pause_s = SOONEST_S
            except REDIS_ERRORS as error:
                self._outage.lost(error)
                self._patient_until = monotonic() + LOST_S
                pause_s = self._outage.pause_s
            await asyncio.sleep(pause_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S - SOONEST_S)
            self._wake.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._blocked.values():
            await connection.stop()
        await self._models.close()
        with suppress(*REDIS_ERRORS):
            await asyncio.to_thread(self._rq.died)

    async def _turn(self) -> None:
        """Begins jobs that may run now. Raises Redis errors."""
        if monotonic() >= self._heartbeat_at:
            await asyncio.to_thread(self._heartbeat)
            self._heartbeat_at = monotonic() + HEARTBEAT_S
        if monotonic() >= self._look_at:
            await self._look()
        for name, connection in list(self._blocked.items()):
            if connection.blocked is None or connection.moved:
                del self._blocked[name]
                await connection.stop()
        sizes = Counter(attempt.left > SMALL_TEXTS for attempt in self._tasks.values())
        free = max(SMALL_JOBS - sizes[False], 0), max(LARGE_JOBS - sizes[True], 0)
        silent_s = SILENT_S if monotonic() >= self._patient_until else LOST_S
        blocked = list(self._blocked)
        claimed = await asyncio.to_thread(self._store.claim, *free, blocked, self._token, silent_s)
        self._token = self._next_token()
        for left in claimed.left:
            self._take_turns(left)
        if claimed.attempts:  # a job that came after a move must not run on what answered before
            await self._look()
        try:
            if claimed.attempts:
                await asyncio.to_thread(self._rq.began, [attempt.job_id for attempt in claimed.attempts])
        finally:
            for attempt in claimed.attempts:
                task = asyncio.create_task(self._run(attempt))
                self._tasks[task] = attempt
                task.add_done_callback(self._ended)

    async def _look(self) -> None:
        """Reads which revisions answer, and closes queues that are not in use."""
        first = self._look_at == 0.0
        try:
            await asyncio.to_thread(self._models.read)
        except REDIS_ERRORS:
            if first:
                raise
        self._look_at = monotonic() + LOOK_S
        await self._models.queues.close(UNUSED_S)

    def _heartbeat(self) -> None:
        self._queue.check()
        self._rq.heartbeat()
        self._queue.remove_foreign(self._store.open_ids())

    def _take_turns(self, left: Left) -> None:
        """Makes a job of the same size step aside for one that waits, if it is the latter's turn."""
        runs = [run for run in self._runs if (run.attempt.left > SMALL_TEXTS) == left.large]
        if len(runs) < (LARGE_JOBS if left.large else SMALL_JOBS) or any(run.turn_over for run in runs):
            return
        of_client = Counter(run.attempt.account for run in runs)
        longest = min(runs, key=lambda run: (-of_client[run.attempt.account], run.began_at))
        more = of_client[longest.attempt.account] > left.running + 1
        if more or monotonic() >= longest.began_at + TURN_S:
            longest.end_turn()

    def _ended(self, task: asyncio.Task[None]) -> None:
        attempt = self._tasks.pop(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            extra = {"action": "job.broken", "job": attempt.job_id}
            log.error("an attempt at a job broke", exc_info=error, extra=extra)

    async def _run(self, attempt: Attempt) -> None:
        """Runs one attempt to its end, and reports it to RQ."""
        status = attempt.status
        if status == "running":
            with tracing.job_span(attempt.job_id, attempt.trace):
                status = await self._attempt(attempt)
        else:
            fields = {"action": "job.skipped", "status": status, "job": attempt.job_id}
            log.info("nothing to run", extra=fields)
        with suppress(*REDIS_ERRORS):  # RQ only shows it
            await asyncio.to_thread(self._rq.ended, attempt.job_id, status)

    async def _attempt(self, attempt: Attempt) -> str:
        connection = self._connect(attempt)
        run = JobRun(attempt, self._store, self._settings, connection, self._bounds_of(attempt))
        self._runs.add(run)
        try:
            return await run.run()
        except SteppedAside as aside:
            if aside.blocked and attempt.queue not in self._blocked:
                self._blocked[attempt.queue] = blocked = self._connect(attempt)
                await blocked.start(PATIENCE_S)
        except Interrupted:
            pass
        except Exception:
            with suppress(*REDIS_ERRORS):
                await asyncio.to_thread(self._store.release, attempt, attempt.ran_ms, failed=True)
            raise
        finally:
            self._runs.discard(run)
        return "running"

    def _bounds_of(self, attempt: Attempt) -> Bounds:
        large = attempt.left > SMALL_TEXTS
        key = attempt.queue, large
        if key not in self._bounds:
            self._bounds[key] = bounds_of(self._settings, self._memory[large])
        return self._bounds[key]

    def _connect(self, attempt: Attempt) -> Connection:
        return Connection(self._models, attempt.queue, attempt.account, lambda: self._stopping)
