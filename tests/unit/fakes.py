"""A fake queue and cache, which the API and jobs use, and a call that hangs."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from batcher.core.commands import AskQuestion, Command, SetPause
from batcher.core.holds import Pause
from batcher.core.publications import Candidate, Publications
from batcher.core.redis_watch import RedisWatch
from batcher.core.snapshot import NO_SNAPSHOT, ModelRecord, Snapshot, WorkerRecord
from batcher.errors import MillraceError
from batcher.hub.pending import HubCounts
from batcher.jobs.models import Connection, OpenQueue
from batcher.jobs.records import Attempt
from batcher.jobs.runner import JobRun, bounds_of
from batcher.jobs.store import JobStore
from batcher.messages import Lane, Outcome, Prediction, entry_id, fragment
from batcher.settings import JobSettings

REVISION = "a1b2c3d4e5f6" + "0" * 52
OTHER_REVISION = "ffeeddccbbaa" + "0" * 52
MODEL = ModelRecord("stub", REVISION, ("NEGATIVE", "POSITIVE"), 512, "stub", "f32")
WORKER = WorkerRecord("w1", REVISION, "stub", "f32", "idle", 1000.0, 0, 0, 0, 0)
RUNNING = replace(NO_SNAPSHOT, model=MODEL, workers=1, rate=WORKER.rate)


def score(text: str) -> float:
    """A score that distinguishes texts, between 0 and 1."""
    return int(entry_id(text)[:6], 16) / 16**6


def prediction(
    text: str, revision: str = REVISION, *, truncated: int = 0, foreign: bool = False
) -> Prediction:
    scores = (round(1 - score(text), 7), round(score(text), 7))
    return Prediction(
        fragment(MODEL.labels, scores),
        revision,
        3,
        truncated,
        queue_ms=1.5,
        tokenize_ms=0.2,
        model_ms=4.0,
        batch_size=2,
        foreign=foreign,
    )


@dataclass
class FakeHub:
    """Answers from `answer`, once `gate` opens and after `pause_s`; remembers what it was asked.

    A request that is cancelled takes `leaves_s` to end. `tenant` is what ids are salted with; `refusal` is
    what the next `refuses` calls get; `most` the texts that were in flight at once.
    """

    lane: Lane = "interactive"
    tenant: str = ""
    snapshot: Snapshot = RUNNING
    on_sweep: Callable[[], None] = lambda: None
    live: tuple[WorkerRecord, ...] = (WORKER,)
    alive: bool = True
    reachable: bool = True
    trouble: str = "Redis does not answer"
    looks: bool = False
    asked: list[list[str]] = field(default_factory=list)
    budgets: list[float] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    cancelled: int = 0
    refusal: Exception | None = None
    refuses: float = math.inf
    gate: asyncio.Event | None = None
    pause_s: float = 0.0
    swept_s_ago: float = 0.0
    leaves_s: float = 0.0
    patience_s: float = 0.0
    answer: Callable[[str], Outcome] = prediction
    running: bool = False
    waiting: int = 0
    in_flight: int = 0
    most: int = 0
    commands: list[Command[Any]] = field(default_factory=list)
    replies: Callable[[Command[Any]], Any] = lambda command: (
        {}
        if isinstance(command, SetPause)
        else isinstance(command, AskQuestion) or [0 for _ in getattr(command, "rows", ())]
    )
    counts: HubCounts = field(default_factory=HubCounts)
    outages: int = 0
    shards_up: tuple[bool, ...] = (True,)
    redis_watch: RedisWatch = field(default_factory=RedisWatch)

    @property
    def asked_at(self) -> float:
        return time.monotonic() - self.swept_s_ago

    @property
    def console(self) -> FakeHub:
        return self

    @property
    def parts(self) -> tuple[FakeHub]:
        return (self,)

    def run(self, command: Command[Any]) -> asyncio.Future[Any]:
        self.commands.append(command)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result(self.replies(command))
        return done

    def send_to_all(self, command: Command[Any]) -> None:
        self.commands.append(command)

    async def start(self, patience_s: float = 0.5) -> None:
        self.patience_s = patience_s
        self.running = True

    async def stop(self, why: MillraceError | None = None) -> None:
        self.running = False

    async def look(self) -> None:
        self.on_sweep()

    def pause(self, decided: Mapping[str, Pause]) -> None:
        pass

    async def workers(self) -> tuple[WorkerRecord, ...]:
        return self.live

    async def classify(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        budget_s: float,
        lane: Lane = "interactive",
        trace: str = "",
        first: bool = False,
        revision: str = "",
        only: str = "",
    ) -> list[Outcome]:
        assert list(ids) == [entry_id(text, self.tenant) for text in texts]
        assert lane == self.lane
        self.asked.append(list(texts))
        self.budgets.append(budget_s)
        self.traces.append(trace)
        self.revisions.append(revision)
        self.only.append(only)
        if self.refusal is not None and self.refuses > 0:
            self.refuses -= 1
            raise self.refusal
        self.in_flight += len(texts)
        self.most = max(self.most, self.in_flight)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(self.pause_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            if self.leaves_s:
                await asyncio.sleep(self.leaves_s)
            raise
        finally:
            self.in_flight -= len(texts)
        return [self.answer(text) for text in texts]


@dataclass
class FakeCache:
    """A shared cache by (revision, id)."""

    held: dict[tuple[str, str], Prediction] = field(default_factory=dict)
    lookups: list[tuple[str, list[str]]] = field(default_factory=list)
    closed: bool = False
    outages: int = 0

    def keep(self, text: str, **facts: Any) -> None:
        self.held[REVISION, entry_id(text)] = prediction(text, **facts)

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]:
        self.lookups.append((revision, list(ids)))
        return [self.held.get((revision, entry)) for entry in ids]

    async def close(self) -> None:
        self.closed = True


def job_connection(
    opened: Mapping[str, OpenQueue],
    settings: JobSettings,
    *,
    candidate: Candidate | None = None,
    report: Any = None,
    stop: Callable[[], bool] = lambda: False,
) -> Connection:
    """What an attempt at a job of the first model asks, in these queues by their names."""
    candidates = {} if candidate is None else {"": candidate}
    models: Any = SimpleNamespace(
        settings=settings,
        publications=Publications(candidates=candidates),
        queues=SimpleNamespace(get=opened.__getitem__),
        report=report,
    )
    return Connection(models, "", "", stop)


async def run_attempt(
    attempt: Attempt,
    store: JobStore,
    settings: JobSettings,
    hub: FakeHub,
    cache: FakeCache,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    others_wait: bool = False,
) -> str:
    """Runs an attempt at a job whose model has a fake queue; returns the status of the job."""
    if attempt.status != "running":
        return attempt.status
    opened = OpenQueue(hub, cache)
    connection = job_connection({"": opened}, settings, stop=should_stop)
    run = JobRun(attempt, store, settings, connection, bounds_of(settings))
    if others_wait:
        run.end_turn()
    try:
        return await run.run()
    finally:
        await opened.close()


@asynccontextmanager
async def hanging(call: Callable[[Callable[[], bool]], Coroutine[Any, Any, bool]]) -> AsyncIterator[None]:
    """A call in a thread of `call` hangs meanwhile. What runs within must not wait for its end."""
    began, stopped = threading.Event(), threading.Event()

    def hang() -> bool:
        began.set()
        return stopped.wait(5)

    running = asyncio.create_task(call(hang))
    await asyncio.to_thread(began.wait)
    yield
    stopped.set()
    assert await running, "it was still running"
