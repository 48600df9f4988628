"""Scaling by queue depth, simulated: the policy of the manifests against three shapes of load.

    python -m benchmarks.scaling                         the table of docs/capacity.md
    python -m benchmarks.scaling --target 16 64          other targets
    python -m benchmarks.scaling --plot docs/scaling.png    (needs matplotlib)

A discrete-event simulation. Events: a request of a few texts comes, a worker takes a batch, a batch ends,
the autoscaler looks (every 15 s, as Kubernetes does), a new worker is ready. Service times are a line, as
measured: seconds of a batch = fixed + texts / rate. What is past its budget at its turn is dropped.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.hpa import SYNC_S, Autoscaler, Policy, read_policy
from benchmarks.scaling_plot import Curves, plot

WINDOW_S = 15.0
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Model:
    """One worker's speed: `rate` texts/s in full batches of `batch` texts, a share of which is overhead."""

    name: str
    rate: float
    batch: int = 32
    fixed_share: float = 0.04

    def batch_s(self, texts: int) -> float:
        full_s = self.batch / self.rate
        return full_s * (self.fixed_share + (1 - self.fixed_share) * texts / self.batch)


# One worker with both of its cores, as docs/capacity.md plans it.
MODELS = (Model("default", 1000.0), Model("distilbert-base bf16", 400.0))


@dataclass(frozen=True, slots=True)
class Shape:
    """A load: texts per second that no client has in a cache, over time."""

    name: str
    seconds: float
    texts_per_s: Callable[[Floats], Floats]


def shapes(capacity: float, day_s: float) -> list[Shape]:
    """The three loads; `capacity` is what one worker does."""

    def acceptance(t: Floats) -> Floats:
        # The best rate in the write-ups, 140 requests/s of 3.35 texts, with every cache switched off.
        return 140 * 3.35 * np.interp(t, [0, 30, 450, 630], [0, 1, 1, 0])

    def step(t: Floats) -> Floats:
        return capacity * np.where((t >= 300) & (t < 1500), 6.0, 0.6)

    def day(t: Floats) -> Floats:
        return capacity * (4.15 - 3.85 * np.cos(2 * math.pi * t / day_s))

    return [Shape("acceptance", 930, acceptance), Shape("10x step", 2400, step), Shape("day", day_s, day)]


def arrivals(shape: Shape, texts: int, seed: int) -> Floats:
    """When each text comes: Poisson requests of `texts` texts."""
    draw = np.random.default_rng(seed)
    seconds = np.arange(0.0, shape.seconds)
    counts = draw.poisson(np.maximum(shape.texts_per_s(seconds), 0.0) / texts)
    times = np.repeat(seconds, counts) + draw.random(int(counts.sum()))
    return np.repeat(np.sort(times), texts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened: for every text when it came and how long it waited (nan: dropped), and the replicas."""

    came: Floats
    waited: Floats
    replicas: list[tuple[float, int]]

    @property
    def missed(self) -> float:
        """Share of the texts whose budget ended while they waited."""
        return float(np.isnan(self.waited).mean())

    def wait_ms(self, percentile: float) -> float:
        return float(np.nanpercentile(self.waited, percentile) * 1000)

    @property
    def worker_hours(self) -> float:
        ends = [at for at, _ in self.replicas[1:]] + [float(self.came[-1])]
        return sum(n * (end - at) for (at, n), end in zip(self.replicas, ends, strict=True)) / 3600

    def windows(self) -> Iterator[tuple[float, float, float]]:
        """(time, p99 of the wait in ms, share missed) of each window in which texts came."""
        edges = np.searchsorted(self.came, np.arange(0, self.came[-1] + WINDOW_S, WINDOW_S))
        for at, (low, high) in enumerate(itertools.pairwise(edges)):
            if high > low:
                waited = self.waited[low:high]
                missed = np.isnan(waited)
                p99 = math.nan if missed.all() else float(np.nanpercentile(waited, 99)) * 1000
                yield at * WINDOW_S, p99, float(missed.mean())


class Service:
    """One queue, workers that batch from it, and the autoscaler over both."""

    def __init__(self, came: Floats, model: Model, policy: Policy, start_s: float, budget_s: float) -> None:
        self.came, self.model, self.start_s, self.budget_s = came, model, start_s, budget_s
        self.waited = np.full(len(came), math.nan)
        self._times: list[float] = came.tolist()  # a list is searched much faster for one number
        self.scaler = Autoscaler(policy)
        self.history = [(0.0, policy.least)]
        self._head = 0
        self._names = iter(range(10**9))
        self._free: list[tuple[float, int]] = []
        self._alive: list[int] = []
        self._running: dict[int, tuple[float, int]] = {}
        self._hire(policy.least, 0.0)

    def run(self) -> Outcome:
        """Every text answered or dropped."""
        look_at = SYNC_S
        while self._head < len(self.came):
            free_at, worker = self._free[0]
            start = max(free_at, float(self.came[self._head]))
            if look_at <= start:
                self._look(look_at)
                look_at += SYNC_S
            elif worker not in self._alive:
                heapq.heappop(self._free)
            else:
                self._serve(worker, start)
        return Outcome(self.came, self.waited, self.history)

    def _serve(self, worker: int, start: float) -> None:
        self._head = bisect_left(self._times, start - self.budget_s, self._head)
        most = min(self._head + self.model.batch, len(self._times))
        end = bisect_right(self._times, start, self._head, most)
        texts = end - self._head
        self.waited[self._head : end] = start - self.came[self._head : end]
        self._head = end
        done = start + self.model.batch_s(texts) if texts else start
        self._running[worker] = (done, texts)
        heapq.heapreplace(self._free, (done, worker))

    def _look(self, now: float) -> None:
        waiting = int(np.searchsorted(self.came, now, "right")) - self._head
        in_flight = sum(texts for done, texts in self._running.values() if done > now)
        before = len(self._alive)
        wanted = self.scaler.look(now, waiting + in_flight)
        if wanted > before:
            self._hire(wanted - before, now + self.start_s)
        del self._alive[wanted:]
        if wanted != before:
            self.history.append((now, wanted))

    def _hire(self, count: int, ready_at: float) -> None:
        for _ in range(count):
            name = next(self._names)
            self._alive.append(name)
            heapq.heappush(self._free, (ready_at, name))


HEAD = (
    "| target | model | load | most workers | worker hours | wait p50 | wait p99 | budget missed |\n"
    "|---|---|---|---|---|---|---|---|"
)


def simulate(shape: Shape, model: Model, policy: Policy, args: argparse.Namespace) -> Outcome:
    """One load on one model."""
    return Service(arrivals(shape, args.texts, args.seed), model, policy, args.start_s, args.budget_s).run()


def row(outcome: Outcome, shape: Shape, model: Model, policy: Policy) -> str:
    """Of the table under HEAD."""
    return (
        f"| {policy.target:.0f} | {model.name} | {shape.name} "
        f"| {max(n for _, n in outcome.replicas)} | {outcome.worker_hours:.2f} "
        f"| {outcome.wait_ms(50):.0f} ms | {outcome.wait_ms(99):.0f} ms | {outcome.missed:.2%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", type=float, nargs="+", help="other targets than the manifest's")
    parser.add_argument("--plot", type=Path, help="write a PNG")
    parser.add_argument("--start-s", type=float, default=10.0, help="from the wish to a ready worker")
    parser.add_argument("--budget-s", type=float, default=10.0)
    parser.add_argument("--texts", type=int, default=4, help="texts of one request")
    parser.add_argument("--day-s", type=float, default=2 * 3600.0, help="a day, shortened: steeper slopes")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    policy = read_policy()
    curves = []
    print(HEAD)
    for target, model in itertools.product(args.target or [policy.target], MODELS):
        for shape in shapes(model.rate, args.day_s):
            tried = replace(policy, target=target)
            outcome = simulate(shape, model, tried, args)
            print(row(outcome, shape, model, tried), flush=True)
            curves.append(
                Curves(model.name, shape.name, shape.seconds, outcome.replicas, list(outcome.windows()))
            )
    if args.plot:
        title = f"Work per worker {policy.target:.0f} texts, a new worker after {args.start_s:.0f} s"
        plot(args.plot, curves, title)


if __name__ == "__main__":
    main()
