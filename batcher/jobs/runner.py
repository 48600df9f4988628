"""One attempt at a job: input -> caches -> bulk lane -> results in order, with a bounded number in flight.

The steps are: read the next chunks -> look up their texts, a request at a time -> append whole chunks twice a
second. Whatever ends the attempt, the next one continues at the first missing chunk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import InitVar, dataclass
from math import inf
from sys import getsizeof
from time import monotonic, perf_counter
from typing import NamedTuple, TypeVar

from batcher import tracing
from batcher.connection.outage import FULL, REDIS_ERRORS, full, reason
from batcher.core.snapshot import ModelRecord
from batcher.errors import (
    BudgetExceeded,
    LabelsDiffer,
    MillraceError,
    NoWorker,
    Paused,
    QueueFull,
    QueueUnavailable,
    SeveralLabels,
)
from batcher.jobs.models import Connection
from batcher.jobs.records import Attempt, Counts, JobStatus
from batcher.jobs.results import ChunkResults, chunk_results
from batcher.jobs.store import JobStore
from batcher.jobs.upload import result_bytes
from batcher.lookup.queue import LookupRequest, LookupResult, Result
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
# How long a job waits for a Redis that has no memory left. Its end frees that of its texts.
FULL_S = 60.0
# How long its model may have no worker, or be paused, before a job steps aside.
ASIDE_S = 1.0
# For the small jobs of a process, and as much for the large ones; docs/costs.md adds it up.
HELD_BYTES = 64 * 1024**2
# A job with at most so many texts left waits for none of it.
FEW_TEXTS = 32
REFUSALS = (QueueFull, NoWorker, Paused, QueueUnavailable, BudgetExceeded, LabelsDiffer, SeveralLabels)

T = TypeVar("T")


class Interrupted(Exception):
    """The attempt ended before its job did; another attempt will continue it."""


class SteppedAside(Interrupted):
    """The attempt makes room for others. `blocked`: until its model can answer; else it has had its turn."""

    def __init__(self, *, blocked: bool) -> None:
        self.blocked = blocked


class _Ended(Exception):
    """The job has ended or belongs to a newer attempt, so this attempt stops. The status says which."""


class _Failed(Exception):
    """The job cannot be completed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def smoothed(rate: float, entries: int, seconds: float) -> float:
    """The rate per second after so many more entries; about the last five seconds count. 0: none yet."""
    weight = min(seconds / 5.0, 1.0) if rate else 1.0
    return rate + weight * (entries / max(seconds, 0.05) - rate)


class ChunkMemory:
    """The memory of the chunks that attempts have read and not passed on: `most` bytes, and one chunk more.

    Chunks are read one at a time, first come, first served. So an attempt that reads its chunks in order has
    the first of them, and goes on. A job of a few texts waits for none of this.
    """

    def __init__(self, most: int = HELD_BYTES) -> None:
        self.held = 0
        self._most = most
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self, texts: int) -> AsyncIterator[None]:
        """Waits until a chunk may be read, whose size `take` counts before the end of the turn.

        `texts` are those that the job has left.
        """
        if texts <= FEW_TEXTS:
            yield
            return
        async with self._turn:
            while self.held >= self._most:
                self._freed.clear()
                await self._freed.wait()
            yield

    def take(self, size: int) -> None:
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size
        self._freed.set()


def memory_of(texts: Sequence[str | None], labels: Sequence[str]) -> int:
    """The bytes that a chunk takes at most, with its results."""
    return sum(map(getsizeof, texts)) + len(texts) * result_bytes(labels)


class Requests:
    """Requests in flight, at most `most`: the next is of the client and the job with the fewest."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._held = Counter[tuple[str, ...]]()
        self._waiting: dict[tuple[str, str], deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, client: str, job_id: str) -> AsyncIterator[None]:
        """Waits until a request of this job, which is of this client, may be sent."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((client, job_id), deque()).append(turn)
        self._admit()
        try:
            await turn
            yield
        finally:
            if not turn.cancel() and not turn.cancelled():
                self._hold((client, job_id), -1)
                self._admit()

    def _admit(self) -> None:
        while self._free and self._waiting:
            job = min(self._waiting, key=lambda one: (self._held[one[:1]], self._held[one]))
            turn = self._waiting[job].popleft()
            if not self._waiting[job]:
                del self._waiting[job]
            if not turn.done():  # else it was cancelled
                turn.set_result(None)
                self._hold(job, 1)

    def _hold(self, job: tuple[str, str], requests: int) -> None:
        self._free -= requests
        for one in (job[:1], job):
            self._held[one] += requests
            if not self._held[one]:
                del self._held[one]


class Bounds(NamedTuple):
    """What attempts that share it may use together: requests in flight, and memory of chunks."""

    requests: Requests
    memory: ChunkMemory


def bounds_of(settings: JobSettings, memory: ChunkMemory | None = None) -> Bounds:
    """The bounds in the settings. `memory` may be shared with attempts that have other requests."""
    requests = settings.job_in_flight // min(REQUEST_TEXTS, settings.job_in_flight)
    return Bounds(Requests(requests), memory or ChunkMemory())


def _are_many(held: Sequence[ChunkResults]) -> bool:
    return len(held) >= FLUSH_CHUNKS or sum(len(chunk.lines) for chunk in held) >= FLUSH_BYTES


@dataclass(eq=False)
class JobRun:
    """One attempt that has begun. `bounds` may be shared with others.

    It ends soon after the connection says so, or `end_turn` was called.
    """

    attempt: Attempt
    _store: JobStore
    _settings: JobSettings
    _connection: Connection
    bounds: InitVar[Bounds]
    turn_over = False
    _rate = 0.0
    _stalled = False
    _blocked_since = inf

    def __post_init__(self, bounds: Bounds) -> None:
        attempt, settings = self.attempt, self._settings
        self.began_at = monotonic()
        # With separate clients, a job shares results only with POST /predict requests of the same API key.
        self._tenant = attempt.owner if settings.separate_clients else ""
        self._client = attempt.owner or f"job:{attempt.job_id}"
        self._request_texts = min(REQUEST_TEXTS, settings.job_in_flight)
        self._requests, self._memory = bounds
        # Chunks in progress: enough to fill the slots while the first of them waits for its last entry.
        self._ahead = settings.job_in_flight // attempt.chunk_texts + 2
        self._ran_s = attempt.ran_ms / 1000

    async def run(self) -> str:
        """Runs until the job has ended; returns its status, or `superseded`. Raises Interrupted."""
        attempt = self.attempt
        fields = {"job": attempt.job_id, "attempt": attempt.number}
        log.info(
            "job started",
            extra={"action": "job.started", "chunk": attempt.first, "chunks": attempt.chunks, **fields},
        )
        await self._connection.start(PATIENCE_S)
        try:
            status = await self._to_end()
        except Interrupted:
            await self._retry(self._store.release, attempt, int(self._ran_s * 1000))
            raise
        finally:
            await self._connection.stop()
        log.info("job ended", extra={"action": "job.ended", "status": status, **fields})
        return status

    def end_turn(self) -> None:
        """Makes it step aside: others wait for their turn."""
        self.turn_over = True

    async def _to_end(self) -> str:
        try:
            await self._append_all()
            return await self._end("finished")
        except _Ended as ended:
            return str(ended)
        except _Failed as failed:
            return await self._end("failed", failed.code, str(failed))

    # -- appending ---------------------------------------------------------------------------------

    async def _append_all(self) -> None:
        loop = asyncio.get_running_loop()
        attempt = self.attempt
        at = attempt.first
        flushed = loop.time()
        held: list[ChunkResults] = []
        async with contextlib.aclosing(self._classified()) as chunks:
            waiting = asyncio.ensure_future(anext(chunks, None))
            try:
                while at < attempt.chunks:
                    pause = flushed + FLUSH_EVERY_S - loop.time()
                    await asyncio.wait([waiting], timeout=max(pause, 0.0))
                    if waiting.done() and (chunk := waiting.result()) is not None:
                        held.append(chunk)
                        waiting = asyncio.ensure_future(anext(chunks, None))
                    last = at + len(held) == attempt.chunks
                    if last or _are_many(held) or loop.time() - flushed >= FLUSH_EVERY_S:
                        await self._flush(at, held, loop.time() - flushed)
                        at += len(held)
                        held = []
                        flushed = loop.time()
                        if not last:
                            self._check()
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                del waiting  # its error refers to this frame

    async def _flush(self, at: int, held: Sequence[ChunkResults], seconds: float) -> None:
        """Appends results. Runs every FLUSH_EVERY_S: it shows that the attempt lives, and may continue."""
        entries = sum(chunk.entries for chunk in held)
        self._rate = smoothed(self._rate, entries, seconds)
        if not self._stalled:
            self._ran_s += seconds
        status = await self._retry(
            lambda: self._store.append(
                self.attempt,
                at,
                [chunk.lines for chunk in held],
                counts=Counts(*map(sum, zip(*(chunk.counts for chunk in held), strict=True))),
                rate=self._rate,
                model=held[-1].model if held else "",
                models=[chunk.models for chunk in held],
                ran_ms=int(self._ran_s * 1000),
            )
        )
        if status != "running":
            raise _Ended(status)

    def _check(self) -> None:
        """Whether to go on. Raises Interrupted, or _Failed once the job has run for too long."""
        if self._connection.should_stop():
            raise Interrupted
        if self.turn_over:
            raise SteppedAside(blocked=False)
        if self._ran_s > self._settings.job_timeout_s:
            raise _Failed("job_timeout", f"the job ran for longer than {self._settings.job_timeout_s} s")
        if not (why := self._connection.blocked):
            self._blocked_since = inf
            return
        self._log_stalled(why)
        self._blocked_since = min(self._blocked_since, monotonic())
        if monotonic() >= self._blocked_since + ASIDE_S:
            raise SteppedAside(blocked=True)

    async def _end(self, status: JobStatus, *why: str) -> str:
        return await self._retry(self._store.end, self.attempt, status, *why)

    async def _retry(self, call: Callable[..., T], *args: object) -> T:
        """Calls the store in a thread, and again until Redis answers, or has been full for FULL_S."""
        full_until = inf
        while True:
            try:
                return await asyncio.to_thread(call, *args)
            except REDIS_ERRORS as error:
                if self._connection.should_stop():
                    raise Interrupted from error
                full_until = min(full_until, monotonic() + FULL_S) if full(error) else inf
                if monotonic() >= full_until:
                    raise _Failed("redis_full", FULL) from error
                self._log_stalled(QueueUnavailable(f"the Redis of jobs: {reason(error)}"))
                await asyncio.sleep(STORE_RETRY_S)

    # -- classifying -------------------------------------------------------------------------------

    async def _classified(self) -> AsyncGenerator[ChunkResults]:
        """Yields the results of chunks in order while later chunks are in progress."""
        in_progress: deque[asyncio.Task[tuple[ChunkResults, int]]] = deque()
        try:
            for number in range(self.attempt.first, self.attempt.chunks):
                in_progress.append(asyncio.create_task(self._chunk(number)))
                if len(in_progress) >= self._ahead:
                    yield await self._first(in_progress)
            while in_progress:
                yield await self._first(in_progress)
        finally:
            await self._give_up(in_progress)

    async def _give_up(self, in_progress: deque[asyncio.Task[tuple[ChunkResults, int]]]) -> None:
        """Ends what is in progress, and forgets it: an error refers to the frames that wait for its task."""
        for task in in_progress:
            task.cancel()
        for ended in await asyncio.gather(*in_progress, return_exceptions=True):
            if not isinstance(ended, BaseException):
                self._memory.give_back(ended[1])
        in_progress.clear()

    async def _first(self, in_progress: deque[asyncio.Task[tuple[ChunkResults, int]]]) -> ChunkResults:
        """The results of the first chunk, once it has ended, which then takes no more memory."""
        results, size = await in_progress[0]
        in_progress.popleft()
        self._memory.give_back(size)
        return results

    async def _chunk(self, number: int) -> tuple[ChunkResults, int]:
        """The results of a chunk, and the memory to give back."""
        async with self._memory.turn(self.attempt.left):
            texts = await self._retry(self._store.input, self.attempt.job_id, number)
            if texts is None:
                message = (
                    "texts of this job are gone from Redis before it has ended: submit it again, and look at "
                    "the maxmemory-policy of the Redis of jobs, which must be noeviction"
                )
                raise _Failed("texts_missing", message)
            model = self._connection.lookup.models.published
            self._memory.take(size := memory_of(texts, model.labels if model else ()))
        try:
            return await self._results(texts, model), size
        except BaseException:
            self._memory.give_back(size)
            raise

    async def _results(self, texts: Sequence[str | None], model: ModelRecord | None) -> ChunkResults:
        wanted = list(dict.fromkeys(text for text in texts if text is not None))
        size = self._request_texts
        parts = [wanted[at : at + size] for at in range(0, len(wanted), size)]
        try:
            answers = await self._answers(parts)
        except BaseException as error:
            error.with_traceback(None)  # the frame of the group, which refers to it, would keep the texts
            raise
        outcomes: dict[str, Result | MillraceError] = {}
        known = set[str]()
        for answer in answers:
            outcomes.update(answer.by_text)
            outcomes.update(answer.failed)
            known |= answer.by_text.keys() - answer.computed.keys()
            model = answer.cascade or model
        found = [None if text is None else outcomes[text] for text in texts]
        return chunk_results(found, model, hits=sum(text in known for text in texts))

    async def _answers(self, parts: Sequence[Sequence[str]]) -> list[LookupResult]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._request(part)) for part in parts]
        return [task.result() for task in tasks]

    async def _request(self, texts: Sequence[str]) -> LookupResult:
        """Looks up the texts of one request, and again whenever the service would refuse a client's."""
        while True:
            async with self._requests.turn(self.attempt.account, self.attempt.job_id):
                answer = LookupResult()
                until = perf_counter() + BUDGET_S
                trace = tracing.current()
                request = LookupRequest(texts, self._client, until, self._tenant, trace=trace, lane="bulk")
                try:
                    await self._connection.lookup.find(request, answer)
                except REFUSALS as error:
                    refusal = error.with_traceback(None)  # whose frames, in a cycle with it, have the texts
                else:
                    self._log_resumed()
                    if self._settings.refuse_unknown:
                        answer.refuse_unknown()
                    return answer
            self._log_stalled(refusal)
            await asyncio.sleep(min(refusal.retry_after_s or 0.2, PATIENCE_S))

    def _log_stalled(self, why: MillraceError) -> None:
        if not self._stalled:
            self._stalled = True
            fields = {"job": self.attempt.job_id, "code": why.code}
            log.warning("job is waiting: %s", why, extra={"action": "job.waits", **fields})

    def _log_resumed(self) -> None:
        if self._stalled:
            self._stalled = False
            log.warning("job continues", extra={"action": "job.goes_on", "job": self.attempt.job_id})
