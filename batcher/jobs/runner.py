"""One attempt at a job: input -> caches -> bulk lane -> results in order, with a bounded number in flight.

The steps are: start the attempt -> read the next chunks -> look up their texts, a request at a time -> append
whole chunks twice a second. Whatever ends the attempt, the next one continues at the first missing chunk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from time import perf_counter
from typing import TypeVar

from batcher import tracing
from batcher.connection.outage import REDIS_ERRORS
from batcher.errors import BudgetExceeded, MillraceError, NoWorker, Paused, QueueFull, QueueUnavailable
from batcher.jobs.queues import Queues
from batcher.jobs.records import Attempt, Counts, JobStatus
from batcher.jobs.results import ChunkResults, chunk_results
from batcher.jobs.store import JobStore
from batcher.lookup.queue import Lookup, LookupRequest, LookupResult, Result
from batcher.settings import JobSettings

log = logging.getLogger(__name__)

# Texts per request to the queue: few enough that its scripts do not delay a caller's single text.
REQUEST_TEXTS = 32
# How long an entry of a job may wait in its lane before it is enqueued again.
BUDGET_S = 300.0
FLUSH_EVERY_S = 0.5
# Results are flushed earlier if they are this many chunks or bytes: Redis serves no client meanwhile.
FLUSH_CHUNKS = 64
FLUSH_BYTES = 1024**2
# Longest pause before a request is retried: no caller waits, but a cancellation must be noticed.
PATIENCE_S = 5.0
STORE_RETRY_S = 0.5
REFUSALS = (QueueFull, NoWorker, Paused, QueueUnavailable, BudgetExceeded)

T = TypeVar("T")
# Opens the queues of a model, or of a cascade, as jobs keep it.
Connect = Callable[[str], tuple[Lookup, Queues]]


class Interrupted(Exception):
    """The attempt ended before its job did; another attempt will continue it."""


class _Ended(Exception):
    """The job has ended or belongs to a newer attempt, so this attempt stops. `status` says which."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


def run_job(
    job_id: str,
    store: JobStore,
    connect: Connect,
    settings: JobSettings,
    should_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Runs one attempt in its own event loop and returns the status of the job.

    `connect` is called inside that loop. Raises Interrupted once
    `should_stop` returns true, and Redis errors if the Redis of jobs is unavailable at the start.
    """
    attempt = store.start(job_id)
    fields = {"job": job_id, "attempt": attempt.number, "chunk": attempt.first, "chunks": attempt.chunks}
    if attempt.status != "running":
        log.info("nothing to run", extra={"action": "job.skipped", "status": attempt.status, **fields})
        return attempt.status
    # With separate clients, a job shares cached results only with POST /predict requests of the same API key.
    record = store.record(job_id)
    owner = record.owner if record else ""
    log.info("job started", extra={"action": "job.started", **fields})
    connected = partial(connect, record.queue if record else "")
    status = asyncio.run(_Run(attempt, store, settings, should_stop, owner).run(connected))
    log.info("job ended", extra={"action": "job.ended", "status": status, **fields})
    return status


def smoothed(rate: float, entries: int, seconds: float) -> float:
    """The rate per second after so many more entries; about the last five seconds count. 0: none yet."""
    weight = min(seconds / 5.0, 1.0) if rate else 1.0
    return rate + weight * (entries / max(seconds, 0.05) - rate)


def _are_many(held: Sequence[ChunkResults]) -> bool:
    return len(held) >= FLUSH_CHUNKS or sum(len(chunk.lines) for chunk in held) >= FLUSH_BYTES


class _Run:
    """The state of one attempt."""

    def __init__(
        self,
        attempt: Attempt,
        store: JobStore,
        settings: JobSettings,
        should_stop: Callable[[], bool],
        owner: str,
    ) -> None:
        self._attempt = attempt
        self._tenant = owner if settings.separate_clients else ""
        self._client = owner or f"job:{attempt.job_id}"
        self._store = store
        self._timeout_s = settings.job_timeout_s
        self._should_stop = should_stop
        self._request_texts = min(REQUEST_TEXTS, settings.job_in_flight)
        self._slots = asyncio.Semaphore(settings.job_in_flight // self._request_texts)
        # Chunks in progress: enough to fill the slots while the first of them waits for its last entry.
        self._ahead = settings.job_in_flight // attempt.chunk_texts + 2
        self._rate = 0.0
        self._stalled = False

    async def run(self, connect: Callable[[], tuple[Lookup, Queues]]) -> str:
        """Runs until the job has ended; returns its status."""
        lookup, queues = await self._connected(connect)
        await queues.start(PATIENCE_S)
        try:
            async with asyncio.timeout(max(self._timeout_s - self._attempt.ran_ms / 1000, 1.0)):
                await self._append_all(lookup)
            return await self._end("finished")
        except _Ended as ended:
            return ended.status
        except TimeoutError:
            return await self._end(
                "failed", "job_timeout", f"the job ran for longer than {self._timeout_s} s"
            )
        except Interrupted:
            await self._retry(self._store.forgive, self._attempt)
            raise
        finally:
            await asyncio.sleep(0)  # lets cancelled requests withdraw their entries before the hub stops
            await queues.stop()

    async def _connected(self, connect: Callable[[], tuple[Lookup, Queues]]) -> tuple[Lookup, Queues]:
        """Connects once the queue answers, whose Redis may be another one than that of jobs."""
        while True:
            try:
                return connect()
            except REDIS_ERRORS as error:
                self._log_stalled(
                    QueueUnavailable("the queue cannot be reached", retry_after_s=STORE_RETRY_S)
                )
                if self._should_stop():
                    await self._retry(self._store.forgive, self._attempt)
                    raise Interrupted from error
                await asyncio.sleep(STORE_RETRY_S)

    # -- appending ---------------------------------------------------------------------------------

    async def _append_all(self, lookup: Lookup) -> None:
        loop = asyncio.get_running_loop()
        attempt = self._attempt
        at = self._attempt.first
        flushed = loop.time()
        held: list[ChunkResults] = []
        async with contextlib.aclosing(self._classified(lookup)) as chunks:
            waiting = asyncio.ensure_future(anext(chunks, None))
            try:
                while at < attempt.chunks:
                    pause = flushed + FLUSH_EVERY_S - loop.time()
                    done, _ = await asyncio.wait([waiting], timeout=max(pause, 0.0))
                    if done and (chunk := waiting.result()) is not None:
                        held.append(chunk)
                        waiting = asyncio.ensure_future(anext(chunks, None))
                    last = at + len(held) == attempt.chunks
                    if last or _are_many(held) or loop.time() - flushed >= FLUSH_EVERY_S:
                        await self._flush(at, held, loop.time() - flushed)
                        at += len(held)
                        held = []
                        flushed = loop.time()
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)

    async def _flush(self, at: int, held: Sequence[ChunkResults], seconds: float) -> None:
        """Appends buffered results. Runs every FLUSH_EVERY_S, because it also detects a cancellation."""
        entries = sum(chunk.entries for chunk in held)
        self._rate = smoothed(self._rate, entries, seconds)
        status = await self._retry(
            lambda: self._store.append(
                self._attempt,
                at,
                [chunk.lines for chunk in held],
                counts=Counts(*map(sum, zip(*(chunk.counts for chunk in held), strict=True))),
                rate=self._rate,
                model=held[-1].model if held else "",
                models=[chunk.models for chunk in held],
            )
        )
        if status != "running":
            raise _Ended(status)
        if await asyncio.to_thread(self._should_stop):  # it may ask Redis
            raise Interrupted

    async def _end(self, status: JobStatus, *why: str) -> str:
        return await self._retry(self._store.end, self._attempt, status, *why)

    async def _retry(self, call: Callable[..., T], *args: object) -> T:
        """Calls the store in a thread, and again until Redis answers."""
        while True:
            try:
                return await asyncio.to_thread(call, *args)
            except REDIS_ERRORS as error:
                if await asyncio.to_thread(self._should_stop):
                    raise Interrupted from error
                await asyncio.sleep(STORE_RETRY_S)

    # -- classifying -------------------------------------------------------------------------------

    async def _classified(self, lookup: Lookup) -> AsyncGenerator[ChunkResults]:
        """Yields the results of chunks in order while later chunks are in progress."""
        in_progress: deque[asyncio.Task[ChunkResults]] = deque()
        try:
            for number in range(self._attempt.first, self._attempt.chunks):
                in_progress.append(asyncio.create_task(self._chunk(number, lookup)))
                if len(in_progress) >= self._ahead:
                    yield await in_progress.popleft()
            while in_progress:
                yield await in_progress.popleft()
        finally:
            for task in in_progress:
                task.cancel()
            await asyncio.gather(*in_progress, return_exceptions=True)

    async def _chunk(self, number: int, lookup: Lookup) -> ChunkResults:
        texts = await self._retry(self._store.input, self._attempt.job_id, number)
        if texts is None:
            raise _Ended("gone")
        wanted = list(dict.fromkeys(text for text in texts if text is not None))
        model = lookup.models.published
        size = self._request_texts
        parts = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._request(lookup, part)) for part in parts]
        outcomes: dict[str, Result | MillraceError] = {}
        for task in tasks:
            answer = task.result()
            outcomes.update(answer.by_text)
            outcomes.update(answer.failed)
        return chunk_results([None if text is None else outcomes[text] for text in texts], model)

    async def _request(self, lookup: Lookup, texts: Sequence[str]) -> LookupResult:
        """Looks up the texts of one request, and again whenever the service would refuse a client's."""
        async with self._slots:
            while True:
                answer = LookupResult()
                until = perf_counter() + BUDGET_S
                trace = tracing.current()
                request = LookupRequest(texts, self._client, until, self._tenant, trace=trace, lane="bulk")
                try:
                    await lookup.find(request, answer)
                except REFUSALS as error:
                    self._log_stalled(error)
                    await asyncio.sleep(min(error.retry_after_s or 0.2, PATIENCE_S))
                else:
                    self._log_resumed()
                    return answer

    def _log_stalled(self, error: MillraceError) -> None:
        if not self._stalled:
            self._stalled = True
            fields = {"job": self._attempt.job_id, "code": error.code}
            log.warning("job is waiting: %s", error, extra={"action": "job.waits", **fields})

    def _log_resumed(self) -> None:
        if self._stalled:
            self._stalled = False
            log.warning("job continues", extra={"action": "job.goes_on", "job": self._attempt.job_id})
