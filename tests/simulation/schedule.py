"""Runs one plan and checks what every schedule promises.

- A request ends by its budget: with the right answer of each text, or with a documented error.
- A client that goes away is let go at once.
- Once the accidents are over, every hub answers again, soon; its loops live.
- Then nothing waits in Redis or in a hub, and every key has an end.
- A hub that is closed leaves no task. No error reached only the log, or the loop's handler.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from functools import cache
from random import Random

from batcher.core.commands import SetPause
from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    EntryPoisoned,
    MillraceError,
    NoWorker,
    Paused,
    QueueFull,
    QueueUnavailable,
)
from batcher.hub.hub import ReplyHub
from batcher.messages import Outcome, Prediction, entry_id, fragment
from batcher.shards import shards_of
from batcher.worker.loop import Worker
from model_store.stub import StubClassifier
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.plan import RAISES, WORKERS, Accident, Plan, Request, is_fault
from tests.simulation.threads import Process
from tests.simulation.world import NAME, make_hub, make_worker, nothing_else_by_chance

# How late a request may end, in simulated seconds.
SLACK_S = 0.005
# How long until all is well: after accidents, and where there are none, but perhaps a slow pass still runs.
SETTLE_S, CALM_S = 5.0, 1.2
# How long an answer takes then.
SOON_S = 0.25
# How long workers take to become ready, so that hubs know of them when they start.
START_S = 0.05
# How long a hub, and a worker, may take to end.
CLOSE_S = 8.0
# A worker that has died is started again after this long.
AGAIN_S = 0.3
REFUSALS = (QueueFull, NoWorker, QueueUnavailable, Paused)
# Keys of the queue that stay.
ENDLESS = {b"model", b"clock"}
# Errors that the product may log: what their words say has happened.
LOGGED = {
    "redis.lost",
    "redis.back",
    "enqueue.refused",
    "worker.release",
    "worker.retire",
    "worker.hung",
    "entry.failed",
}

_model = StubClassifier()
_model_info = _model.info


@cache
def right(text: str) -> bytes:
    """The answer of a text."""
    return fragment(_model_info.labels, _model.classify(_model.tokenize([text]))[0])


class _Log(logging.Handler):
    """Collects errors that only the log knows."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.__dict__.get("action") not in LOGGED and record.levelno >= logging.ERROR:
            self.lines.append(f"logged: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}")


class Schedule:
    """One run of a plan. `problems` are the promises that were broken, and `trace` what happened."""

    def __init__(self, plan: Plan) -> None:
        self.problems: list[str] = []
        self.loop = SimulatedLoop()
        self.trace: list[tuple[object, ...]] = []
        self.random = Random(plan.seed + 1)
        shards = shards_of(NAME, ["redis://simulated"] * plan.shards, plan.shards)
        self.networks = [Network(self.loop, self.random, shard, self.trace) for shard in shards]
        self._plan = plan
        self._hubs: dict[str, ReplyHub] = {}
        self._workers: dict[str, tuple[Process, Worker]] = {}
        self._started = 0
        self._closing: list[asyncio.Task[None]] = []
        self._supervised = True

    def note(self, *words: object) -> None:
        self.trace.append((round(self.loop.time(), 6), *words))

    def run(self) -> None:
        log, logger = _Log(), logging.getLogger("batcher")
        level, logger.propagate = logger.level, False
        logger.addHandler(log)
        logger.setLevel(logging.WARNING)
        try:
            with nothing_else_by_chance(self.loop, self._plan.seed):
                self.loop.run_until_complete(self._live())
            gc.collect(0)
            self.problems += [*self.loop.errors, *log.lines]
        finally:
            logger.removeHandler(log)
            logger.setLevel(level)
            logger.propagate = True
            self.loop.close()

    async def _live(self) -> None:
        for _ in range(self._plan.workers):
            self.start_worker()
        await asyncio.sleep(START_S)
        for number in range(1, self._plan.hubs + 1):
            await self.start_hub(f"hub {number}")
        began = self.loop.time()
        for accident in self._plan.accidents:
            self.loop.call_at(began + accident.at_s, self._happen, accident)
        asked = [asyncio.create_task(self._ask_later(one)) for one in self._plan.requests]
        await asyncio.gather(*asked)
        await asyncio.sleep(began + self._plan.over_s - self.loop.time())
        for network in self.networks:
            network.clear_up()
        await self._settle()
        await self._close_all()

    # -- hubs and workers --------------------------------------------------------------------------

    async def start_hub(self, name: str) -> None:
        await self._make_hub(name).start()

    def _make_hub(self, name: str) -> ReplyHub:
        self._started += 1
        made = make_hub(self.networks, name, f"api-{self._started}", self._plan.caches)
        self._hubs[name] = made
        return made

    def start_worker(self) -> None:
        self._started += 1
        process = Process(f"worker {self._started}", self.loop, self.random)
        home = self._started % len(self.networks)
        networks = [*self.networks[home:], *self.networks[:home]]
        worker = make_worker(networks, process, self._plan.caches)
        self._workers[process.name] = process, worker
        process.on_death.append(self._start_again)
        process.start(worker.run)

    def _start_again(self) -> None:
        if self._supervised:
            self.loop.call_later(AGAIN_S, self.start_worker)

    # -- requests ----------------------------------------------------------------------------------

    async def _ask_later(self, request: Request) -> None:
        await asyncio.sleep(request.at_s)
        await self._ask(request)

    async def _ask(self, request: Request, *, healthy: bool = False) -> float:
        """Asks, and checks how it ends. Returns how long it took."""
        hub = self._hubs[f"hub {request.hub}"]
        began = self.loop.time()
        revision = _model_info.revision if hub.looks else ""
        ids = [entry_id(text) for text in request.texts]
        call = asyncio.create_task(
            hub.classify(
                ids,
                request.texts,
                budget_s=request.budget_s,
                lane=request.lane,
                first=request.first,
                revision=revision,
            )
        )
        if request.patience_s:
            self.loop.call_later(request.patience_s, call.cancel)
        await asyncio.wait([call], timeout=min(request.budget_s, request.patience_s or 1e9) + SLACK_S)
        spent = self.loop.time() - began
        allowed = () if healthy else self._allowed(request)
        self._check(request, call, allowed)
        return spent

    def _allowed(self, request: Request) -> tuple[type[MillraceError], ...]:
        """The errors that a request may end with."""
        if request.budget_s < self._plan.ample_s:
            return (BudgetExceeded, *REFUSALS)
        return () if self._plan.calm else REFUSALS

    def _check(
        self, request: Request, call: asyncio.Task[list[Outcome]], allowed: tuple[type[MillraceError], ...]
    ) -> None:
        if not call.done():
            self.problems.append(f"not resolved by its budget: {request}")
            call.cancel()
        elif call.cancelled():
            self.note(f"hub {request.hub}", "went away", request.texts)
            if not request.patience_s:
                self.problems.append(f"cancelled, but not by its client: {request}")
        elif (error := call.exception()) is not None:
            self.note(f"hub {request.hub}", repr(error), request.texts)
            if not isinstance(error, allowed):
                self.problems.append(f"{error!r} for {request}")
        else:
            self.note(f"hub {request.hub}", "answered", request.texts)
            for text, outcome in zip(request.texts, call.result(), strict=True):
                if not is_right(text, outcome):
                    self.problems.append(f"a wrong outcome of {text!r}: {outcome!r} for {request}")

    # -- accidents ---------------------------------------------------------------------------------

    def _happen(self, accident: Accident) -> None:
        self.note(accident.who, "ACCIDENT", accident.kind, accident.seconds, accident.shard)
        if accident.kind == "start":
            self.start_worker()
        elif accident.kind == "close":
            closed, started = self._hubs[accident.who], self._make_hub(accident.who)
            self._closing.append(asyncio.ensure_future(self._replace(accident.who, closed, started)))
        elif accident.kind in WORKERS:
            self._hurt(*self._workers[accident.who], accident)
        else:
            for network in self.networks:
                if accident.shard in (None, network.shard.number):
                    self._damage(network, accident)

    def _damage(self, network: Network, accident: Accident) -> None:
        """An accident of Redis, or of connections to it."""
        until = self.loop.time() + accident.seconds
        if accident.kind in ("restart", "empty"):
            network.restart(empty=accident.kind == "empty", loads_s=accident.seconds)
        elif accident.kind == "pause":
            waiting = ("keep", "refuse", "finish")[self._plan.seed % 3]
            number = 1 + int(self.loop.time() * 1000)
            command = SetPause("interactive", waiting, int(accident.seconds * 1000), number)
            words = command.words(network.shard.prefix, known=False)
            network.run("operator", [str(word).encode() for word in words])
        elif accident.kind == "clock":
            network.clock_s += (20 if self._plan.seed % 2 else -20) * accident.seconds
        elif accident.kind == "hints lost":
            network.lost_lists[network.key(self._popped(accident.who))] = until
        else:
            for who in [accident.who] if accident.who else [*self._hubs, *self._workers]:
                network.trouble(who, accident.kind, until)

    def _popped(self, who: str) -> str:
        """The name of the list that a hub or a worker pops."""
        if who in self._workers:
            return f"wake:{who.replace(' ', '-')}"
        hub = self._hubs[who]
        return f"reply:{hub.parts[0].api}"

    def _hurt(self, process: Process, worker: Worker, accident: Accident) -> None:
        if not process.alive:
            return
        if accident.kind == "freeze":
            process.freeze(accident.seconds)
        elif accident.kind == "stop":
            worker.stop()
            self._start_again()
        else:
            if accident.kind == "vanish":
                process.on_death[:] = process.on_death[:1]
            process.die()

    # -- the end -----------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """All is well again: hubs answer, and nothing is left."""
        if not any(process.alive for process, _ in self._workers.values()):
            self.start_worker()
        await asyncio.sleep(CALM_S if self._plan.calm else SETTLE_S)
        for name, hub in self._hubs.items():
            if not hub.alive:
                self.problems.append(f"a loop of {name} has ended")
            if hub.waiting:
                self.problems.append(f"{name} still waits for {hub.waiting} texts, although no client asks")
            texts = tuple(f"after all, {name}, text {number}" for number in range(self._plan.shards**2))
            request = Request(0.0, int(name[4:]), texts, 3.0, "interactive", False, 0.0)
            spent = await self._ask(request, healthy=True)
            if spent > SOON_S:
                self.problems.append(f"{name} took {spent:.3f} s although all is well")
        await asyncio.sleep(0.2)
        for network in self.networks:
            self._check_redis(network)

    def _check_redis(self, network: Network) -> None:
        store = network.store
        for name in ("q", "bulk", "solo", "inflight", "claims", "first"):
            if store.exists(network.key(name)):
                self.problems.append(f"left in Redis: {name} {store.values[network.key(name)]}")
        for lane in ("interactive", "bulk"):
            if (cost := int(store.hget(network.key("waiting"), lane.encode()) or 0)) != 0:
                self.problems.append(f"a cost of {cost} waits in lane {lane}, which is empty")
        if endless := {key.rpartition(b":")[2] for key in store.endless()} - ENDLESS:
            self.problems.append(f"keys without an end: {endless}")

    async def _close_all(self) -> None:
        self._supervised = False
        for process, worker in self._workers.values():
            if process.alive:
                worker.stop()
        await asyncio.gather(*self._closing, *(self._close(name, hub) for name, hub in self._hubs.items()))
        await asyncio.sleep(CLOSE_S)
        self.problems += [
            f"{name} does not end" for name, (process, _) in self._workers.items() if process.alive
        ]
        left = asyncio.all_tasks() - {asyncio.current_task()}
        self.problems += [f"left over: {task!r}" for task in left]
        for process, _ in self._workers.values():
            process.die()
        await asyncio.sleep(0)

    async def _replace(self, name: str, closed: ReplyHub, started: ReplyHub) -> None:
        await asyncio.gather(started.start(), self._close(name, closed))

    async def _close(self, name: str, hub: ReplyHub) -> None:
        closing = asyncio.ensure_future(hub.stop())
        await asyncio.wait([closing], timeout=CLOSE_S)
        if not closing.done():
            self.problems.append(f"{name} does not close")
        if hub.waiting:
            self.problems.append(f"{name} is closed, and {hub.waiting} texts wait")


def is_right(text: str, outcome: Outcome) -> bool:
    """Whether a text may end so."""
    if isinstance(outcome, Prediction):
        return not is_fault(text) and outcome.fragment == right(text)
    expected: type[MillraceError] = EntryFailed if text.startswith(RAISES) else EntryPoisoned
    return is_fault(text) and isinstance(outcome, expected)
