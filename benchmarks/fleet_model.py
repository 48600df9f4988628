"""The model behind `benchmarks.scale`: shards, workers and requests as events on one heap."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import Any

BATCH_TEXTS, BIN_S = 32, 0.1
TRIP_S = 0.0002  # one way between two machines of a data centre
ASK_S, MAX_ASKED = 0.03, 4  # as in batcher/hub/hub.py
START_S = 1.0  # how long a worker of a deploy is away, where models are on the disk


@dataclass(frozen=True, slots=True)
class Fleet:
    """Workers, each of which does `speed` texts/s in full batches, shards, and texts of each request."""

    workers: int
    shards: int
    speed: int
    texts: int = 32

    @property
    def part(self) -> float:
        """Texts of one request at a shard that has any."""
        return self.texts / (self.shards * (1 - (1 - 1 / self.shards) ** self.texts))


@dataclass(frozen=True, slots=True)
class Figures:
    """Measured costs, in seconds. `script_s` is that of any script, `text_s` that of a text in all three.

    So many requests as are `shared` are enqueued by one script: those of a tick of a process with 16 clients.
    """

    script_s: float = 65e-6
    text_s: float = 29e-6
    shared: int = 6
    api_request_s: float = 140e-6
    api_text_s: float = 23e-6
    idle_worker_s: float = 100e-6  # of Redis, each second

    def redis_s(self, fleet: Fleet) -> float:
        """Redis time of one text if batches are full: its shares of an enqueue, a claim and a completion."""
        return self.text_s + self.script_s * (1 / (fleet.part * self.shared) + 2 / BATCH_TEXTS)

    def api_s(self, fleet: Fleet) -> float:
        """API time of one text."""
        return self.api_text_s + self.api_request_s / fleet.texts

    def idle_share(self, fleet: Fleet) -> float:
        """Share of each shard's core that heartbeats cost."""
        return fleet.workers / fleet.shards * self.idle_worker_s


FIGURES = Figures()


@dataclass(frozen=True, slots=True)
class Change:
    """When, in s: the first shard is lost and back; all workers are replaced; the load becomes tenfold."""

    lost: tuple[float, float] | None = None
    deploy: tuple[float, float] | None = None
    step_at: float = 0.0


STEADY = Change()


@dataclass
class Outcome:
    """`delays`: (when, ms from the API to a worker, texts). Busy shares are averages over the run."""

    delays: list[tuple[float, float, int]] = field(default_factory=list)
    refused: int = 0
    redis_busy: float = 0.0
    workers_busy: float = 0.0

    @property
    def texts(self) -> int:
        """How many were claimed."""
        return sum(texts for _, _, texts in self.delays)

    def quantile(self, share: float) -> float:
        """The delay in ms that `share` of the texts stay below."""
        return _quantile([(delay, texts) for _, delay, texts in self.delays], share)

    def series(self) -> list[tuple[float, float]]:
        """The p99 in each tenth of a second: (s, ms)."""
        bins: dict[int, list[tuple[float, int]]] = {}
        for at, delay, texts in self.delays:
            bins.setdefault(int(at / BIN_S), []).append((delay, texts))
        return [(number * BIN_S, _quantile(bins[number], 0.99)) for number in sorted(bins)]

    def settled_s(self, most_ms: float) -> float:
        """From the first time that the p99 is above `most_ms` to the last, in s; 0 if it never is."""
        above = [at for at, delay in self.series() if delay > most_ms]
        return above[-1] - above[0] + BIN_S if above else 0.0


def _quantile(weighted: list[tuple[float, int]], share: float) -> float:
    ordered, left = sorted(weighted), share * sum(texts for _, texts in weighted)
    for delay, texts in ordered:
        left -= texts
        if left <= 0:
            return delay
    return ordered[-1][0] if ordered else 0.0


class _Shard:
    """A Redis that runs one script at a time, what waits in it, and the workers that are idle at it."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[float, int]] = deque()  # since when, texts
        self.idle: list[int] = []
        self.free_at = self.busy_s = self.ask_at = 0.0
        self.down = False

    def run(self, now: float, texts: float, requests: int = 1) -> float:
        """When a script that begins now, or after those before it, has ended; it is for `requests` alike."""
        cost = FIGURES.script_s / requests + texts * FIGURES.text_s / 3
        self.free_at = max(now, self.free_at) + cost
        self.busy_s += cost
        return self.free_at


class _Run:
    def __init__(self, fleet: Fleet, rate: float, seconds: float, seed: int, change: Change) -> None:
        self.fleet, self.rate, self.seconds, self.change = fleet, rate, seconds, change
        self.random = random.Random(seed)
        self.shards = [_Shard() for _ in range(fleet.shards)]
        self.homes = [self.random.randrange(fleet.shards) for _ in range(fleet.workers)]
        for worker, home in enumerate(self.homes):
            self.shards[home].idle.append(worker)
        self.outcome, self.worked_s = Outcome(), 0.0
        self.leaving: set[int] = set()
        self._events: list[tuple[float, int, str, tuple[Any, ...]]] = []
        self._order = count()

    def at(self, time: float, what: str, *about: Any) -> None:
        heapq.heappush(self._events, (time, next(self._order), what, about))

    def go(self) -> Outcome:
        self.at(0.0, "request")
        for down, when in zip((1, 0), self.change.lost or (), strict=False):
            self.at(when, "lose", down)
        if self.change.deploy is not None:
            first, last = self.change.deploy
            for wave in range(10):
                self.at(first + wave * (last - first) / 10, "leave", wave)
        while self._events:
            now, _, what, about = heapq.heappop(self._events)
            if now > self.seconds:
                break
            getattr(self, what)(now, *about)
        span = self.seconds * len(self.shards)
        busy = sum(shard.busy_s for shard in self.shards) / span + FIGURES.idle_share(self.fleet)
        self.outcome.redis_busy = min(busy, 1.0)  # beyond that, scripts wait
        self.outcome.workers_busy = min(self.worked_s / self.seconds / self.fleet.workers, 1.0)
        return self.outcome

    def request(self, now: float) -> None:
        times = 10 if 0 < self.change.step_at <= now else 1
        self.at(now + self.random.expovariate(self.rate * times / self.fleet.texts), "request")
        parts: dict[int, int] = {}
        for _ in range(self.fleet.texts):
            number = int(self.random.random() * len(self.shards))
            parts[number] = parts.get(number, 0) + 1
        if any(self.shards[number].down for number in parts):
            self.outcome.refused += self.fleet.texts
            return
        for number, texts in parts.items():
            self.at(
                self.shards[number].run(now + TRIP_S, texts, FIGURES.shared), "queued", number, texts, now
            )

    def queued(self, now: float, number: int, texts: int, asked_at: float) -> None:
        shard = self.shards[number]
        shard.waiting.append((asked_at, texts))
        if shard.idle:
            self.at(now, "claim", shard.idle.pop(), number)
        else:
            self.ask(now, number)

    def ask(self, now: float, number: int) -> None:
        """Asks other shards for help: those with idle workers first, as hubs know them."""
        shard = self.shards[number]
        if now < shard.ask_at or not shard.waiting:
            return
        helper = next((one for one in self.shards if one.idle and not one.down), None)
        if helper is None:
            for _ in range(MAX_ASKED):
                self.random.choice(self.shards).run(now + TRIP_S, 0)
            shard.ask_at = now + ASK_S
            self.at(shard.ask_at, "ask", number)
            return
        woken = helper.run(now + 2 * TRIP_S, 0)
        self.at(woken + 2 * TRIP_S, "claim", helper.idle.pop(), number)

    def claim(self, now: float, worker: int, number: int) -> None:
        shard, taken = self.shards[number], 0
        claimed: list[tuple[float, int]] = []
        while shard.waiting and taken < BATCH_TEXTS and not shard.down:
            claimed.append(shard.waiting.popleft())
            taken += claimed[-1][1]
        ended = shard.run(now, taken)
        self.outcome.delays += [(ended, (ended - asked_at) * 1000, texts) for asked_at, texts in claimed]
        if not taken:
            self.shards[self.homes[worker]].idle.append(worker)
            return
        batch_s = (0.2 * BATCH_TEXTS + 0.8 * taken) / self.fleet.speed  # a fifth does not depend on the texts
        self.worked_s += batch_s
        self.at(ended + TRIP_S + batch_s, "done", worker, number, taken)

    def done(self, now: float, worker: int, number: int, texts: int) -> None:
        ended = self.shards[number].run(now + TRIP_S, texts)
        if worker in self.leaving:
            self.leaving.discard(worker)
            self.at(now + START_S, "done", worker, self.homes[worker], 0)
            return
        home = self.shards[self.homes[worker]]
        if home.waiting and not home.down:
            self.at(ended, "claim", worker, self.homes[worker])
            return
        looked_at = self.random.choices(range(len(self.shards)), k=MAX_ASKED)
        asking = [(self.shards[at].waiting[0][0], at) for at in looked_at if self.shards[at].waiting]
        if asking:
            self.at(ended + 2 * TRIP_S, "claim", worker, min(asking)[1])
        else:
            home.idle.append(worker)

    def lose(self, now: float, down: int) -> None:
        """The first shard. Its idle workers wait at the others meanwhile."""
        lost = self.shards[0]
        lost.down = bool(down)
        if down:
            lost.waiting.clear()
            for worker in lost.idle:
                self.shards[1 + worker % (len(self.shards) - 1)].idle.append(worker)
            lost.idle.clear()

    def leave(self, now: float, wave: int) -> None:
        """A tenth of the workers end their batch, and others start in their place."""
        going = set(range(wave, self.fleet.workers, 10))
        for shard in self.shards:
            idle = [worker for worker in shard.idle if worker in going]
            shard.idle = [worker for worker in shard.idle if worker not in going]
            for worker in idle:
                self.at(now + START_S, "done", worker, self.homes[worker], 0)
            going.difference_update(idle)
        self.leaving |= going


def simulate(fleet: Fleet, rate: float, seconds: float, seed: int, change: Change = STEADY) -> Outcome:
    """`rate` texts/s for so many seconds, on a fleet that is idle at first."""
    return _Run(fleet, rate, seconds, seed, change).go()
