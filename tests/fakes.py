"""Stand-ins for what a worker uses: its model, its clock, its threads and its queue. Only `Gated` waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Literal

import redis
from pydantic import SecretStr

from batcher.core.commands import Claim, Claimed, Complete, Completed, HeartbeatReply, Release, SendHeartbeat
from batcher.hub.hub import ShardHub
from batcher.jobs.records import JobRecord
from batcher.messages import Entry, Lane, entry_id
from batcher.settings import QueueSettings, WorkerSettings
from batcher.shards import Shard
from batcher.worker.heartbeat import HeartbeatQueue
from batcher.worker.host import Host
from batcher.worker.queue import Queues
from model_store.stub import StubClassifier

LOST = redis.exceptions.ConnectionError("gone")


def job_record(**facts: Any) -> JobRecord:
    """The record of a job that runs, in which `facts` replace some of the values."""
    own: dict[str, Any] = {"id": "a" * 32, "status": "running", "total": 10, "done": 3, "failed": 1}
    own |= {"created_ms": 1, "chunk_texts": 4, "attempt": 1, "digest": "", "place": f"1000:{'a' * 32}"}
    return JobRecord(**own | facts)


def counted(classifier: Any, batch_sizes: list[int]) -> Any:
    """Adds the number of texts of each forward pass of `classifier` to `passes`, before it runs."""
    classify = classifier.classify

    def counting(batch: Any) -> Any:
        batch_sizes.append(len(batch))
        return classify(batch)

    classifier.classify = counting
    return classifier


def shard_hub(
    client: Any,
    hint_client: Any,
    *,
    name: str = "t",
    cost: int = 10**6,
    bulk_cost: int = 0,
    linger_s: float = 0.0,
    cache_here: bool = False,
    cache_name: str = "",
) -> ShardHub:
    """One shard of a hub, which admits so much waiting cost, and looks for no workers of other formats."""
    settings = QueueSettings(
        max_waiting_cost=cost,
        max_waiting_cost_bulk=bulk_cost or cost,
        cache_url=None if cache_here else "redis://cache",  # type: ignore[arg-type]
    )
    shard = Shard(0, "redis+cluster://nodes", name, cache_name or name)
    return ShardHub(client, hint_client, settings, shard, linger_s=linger_s)


def heartbeat_queue(
    client: Any,
    name: str,
    worker: str,
    *,
    lease_ms: int,
    max_attempts: int,
    result_ms: int,
    revision: str = "",
    cache_ms: int = 0,
    cache_name: str = "",
    helps: bool = False,
    on_round_trip: Any = None,
) -> HeartbeatQueue:
    """A worker's side of the queue `name`. It caches nothing if `cache_ms` is 0."""
    values: dict[str, Any] = {"lease_ms": lease_ms, "max_attempts": max_attempts}
    values |= {"result_ttl_s": result_ms / 1000, "cache_ttl_s": cache_ms / 1000}
    values |= {"cache_url": None if cache_ms else SecretStr("redis://cache")}
    values |= {"redis_url": SecretStr("redis://one redis://two" if helps else "redis://one")}
    settings = WorkerSettings().model_copy(update=values)  # also with values that no service may have
    shard = Shard(0, "", name, cache_name or name)
    return HeartbeatQueue(client, settings, shard, worker, revision=revision, on_round_trip=on_round_trip)


class Gated(StubClassifier):
    """A stub whose passes wait until the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def classify(self, batch: Any) -> Any:
        self.gate.wait(60)
        return super().classify(batch)


class FakeClock:
    """A clock that moves by a millisecond with each look, and by what is waited for."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.looks = 0
        self.on_look: Callable[[int], None] = lambda looks: None

    def now(self) -> float:
        self.time += 0.001
        self.looks += 1
        self.on_look(self.looks)
        return self.time


class FakeEvent(threading.Event):
    """An event for which nothing waits: the clock moves instead."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._clock.time += timeout or 0.0
        return self.is_set()


# Work of another thread runs at once, or when its result is needed, or at once but is not done until then.
Pace = Literal["early", "late", "under way"]


class FakeThread(Executor):
    """Runs work in the calling thread. `joined` is called whenever the caller waits for a result."""

    def __init__(self, pace: Pace = "early", joined: Callable[[], None] = lambda: None) -> None:
        self._pace = pace
        self._joined = joined
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Any = Future()
        self._waiting.append((future, lambda: work(*arguments, **named)))
        result = future.result

        def join(timeout: float | None = None) -> Any:
            self._joined()
            self.catch_up()
            return result(0)

        future.result = join
        if self._pace != "late":
            self.catch_up()
        if self._pace == "under way":
            future.done = lambda: False
        return future

    def catch_up(self) -> None:
        while self._waiting:
            future, work = self._waiting.pop(0)
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if wait:
            self.catch_up()


def fake_host(clock: FakeClock, pace: Pace = "early", joined: Callable[[], None] = lambda: None) -> Host:
    """A host whose heartbeat is not sent: it would not wait between two of them."""
    idle = partial(threading.Thread, target=lambda: None, daemon=True)
    return Host(
        clock.now,
        lambda: FakeEvent(clock),
        lambda name: FakeThread(pace, joined),
        lambda name, _: idle(name=name),
    )


class FakeQueue:
    """The worker's side of a queue in memory.

    Each of `errors` is for one round trip: None lets it pass, ("refused", error) raises instead of running
    it, and ("lost", error) raises after it has run.
    """

    remembers = True
    lane: Lane = "interactive"

    def __init__(self, texts: Iterable[str] = (), solo: Iterable[str] = ()) -> None:
        self.texts = {entry_id(text): text for text in (*texts, *solo)}
        self.solo = {entry_id(text) for text in solo}
        self.waiting = list(self.texts)
        self.leased: set[str] = set()
        self.completed: list[str] = []
        self.log: list[str] = []
        self.errors: list[tuple[str, Exception] | None] = []
        self.on_idle: Callable[[], None] = lambda: None
        self.retired: Sequence[str] | None = None
        self.woken = 0
        self.heartbeats: list[set[str]] = []
        self._idle = False

    @property
    def queues(self) -> Queues:
        queue: Any = self
        return Queues(queue, queue, queue)

    def run(self, commands: Sequence[Any]) -> list[Any]:
        fault = self.errors.pop(0) if self.errors else None
        if fault is not None and fault[0] == "refused":
            raise fault[1]
        answers = [getattr(self, f"_{command.script}")(command) for command in commands]
        if fault is not None:
            raise fault[1]
        return answers

    def wait(self, block_s: float) -> bool:
        assert self._idle, "Redis wakes only workers that it knows to be idle"
        if not self.waiting:
            self.on_idle()
        return bool(self.waiting)

    def wait_and_claim(self, block_s: float, command: Claim) -> Claimed:
        self.wait(block_s)
        claimed: Claimed = self.run([command])[0]
        return claimed

    def complete_and_wait(
        self, complete: Complete, block_s: float, command: Claim, completed: Callable[[Completed], None]
    ) -> Claimed:
        completed(self.run([complete])[0])
        return self.wait_and_claim(block_s, command)

    def claim_command(
        self, entries: int, cost: int, bulk_cost: int, free: bool, waits: bool, idle_ms: int
    ) -> Claim:
        return Claim("w", entries, cost, bulk_cost, 2000, 3, free, waits, idle_ms)

    def _claim(self, command: Claim) -> Claimed:
        taken: list[str] = []
        cost = command.cost
        for entry in list(self.waiting):
            alone = entry in self.solo
            if cost > 0 and len(taken) < command.entries and (not alone or (command.free and not taken)):
                taken.append(entry)
                cost = 0 if alone else cost - 5
        self.waiting = [entry for entry in self.waiting if entry not in taken]
        self.leased.update(taken)
        self._idle = command.idle_ms >= 0 and not taken
        self.log.append(f"claim {len(taken)}" + ("" if command.free else " more"))
        return Claimed([self._entry(entry) for entry in taken], len(self.waiting))

    def _entry(self, entry: str) -> Entry:
        solo = entry in self.solo
        return Entry(entry, self.texts[entry], self.lane, 5, 10, 9000, attempts=1, solo=solo)

    def complete_command(self, results: Iterable[tuple[str, bytes]], idle: bool = False) -> Complete:
        pairs = list(results)
        return Complete("w", [entry for entry, _ in pairs], [result for _, result in pairs], 1000, idle=idle)

    def complete(self, results: Iterable[tuple[str, bytes]], idle: bool = False) -> int:
        return self.read_completed(self.run([self.complete_command(results, idle)])[0])

    def read_completed(self, completed: Completed) -> int:
        return completed.answered

    def _complete(self, command: Complete) -> Completed:
        for entry in command.ids:
            if entry in self.leased:  # as complete.lua: a second call finds nothing
                self.leased.remove(entry)
                self.completed.append(entry)
        self._idle = self._idle or command.idle
        self.log.append(f"complete {len(command.ids)}")
        return Completed(len(command.ids), "")

    def release(self, ids: Sequence[str]) -> int:
        return int(self.run([Release(ids)])[0])

    def _release(self, command: Release) -> int:
        self.waiting += [entry for entry in command.ids if entry in self.leased]
        self.leased.difference_update(command.ids)
        return len(command.ids)

    def heartbeat(
        self, ids: Iterable[str], record: Any, model: Any, ttl_ms: int, takeover: bool = False
    ) -> int:
        self.heartbeats.append(set(ids))
        return int(self.run([SendHeartbeat("w", 2000, ttl_ms, [], record, model)])[0].extended)

    def _beat(self, command: SendHeartbeat) -> HeartbeatReply:
        return HeartbeatReply(0)

    def wake(self) -> None:
        self.woken += 1

    def retire(self, suspects: Sequence[str] = ()) -> None:
        self.retired = list(suspects)
