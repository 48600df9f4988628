"""What a text costs in requests of 1, 4 and 32, and how many processes a load needs by these costs.

    python -m benchmarks.sizing [--seconds 5] [--users 16] [--measured FILE] [--write]

A stub that costs nothing answers; processor time is that of each process, a text. `--measured` computes the
tables from the costs of a former run. `--write` replaces the tables of docs/capacity.md.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.net import closed_loop
from benchmarks.service import Service, service
from benchmarks.texts import stream

PAGE = Path(__file__).parents[1] / "docs/capacity.md"
SIZES = (1, 4, 32)
PROCESSES = ("redis", "api", "worker0")
SHARES = (0.0, 0.8, 0.95)
LOADS = tuple(itertools.product((1_000, 10_000, 100_000), SHARES))
# Planned texts/s of a worker of two cores whose claims and answers are those of requests of 32 texts.
MODELS = {"default": 750.0, "distilbert-base": 230.0}
# The share of its time that each is planned for, the least API replicas, and the cores of a worker.
WORKER, API, REDIS = 0.7, 0.7, 0.6
MIN_API, WORKER_CORES = 2, 2
# The most microseconds for an unknown text that is all of its request.
GOALS = {"redis": 70, "api": 160, "worker0": 60}
COSTS = ("Redis", "API", "worker", "API, own cache", "API, shared cache", "Redis, shared cache")


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor time of each process in microseconds a text: unknown, in the cache of the process, shared."""

    unknown: Mapping[str, float]
    local: Mapping[str, float]
    shared: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many of each a load needs."""

    workers: Mapping[str, int]
    redis: int
    api: int

    def cores(self, model: str) -> int:
        return self.workers[model] * WORKER_CORES + self.redis + self.api


def plan(texts_per_s: float, known: float, cost: Cost, base: Cost) -> Plan:
    """Half of the known texts are in the cache of the process; `base` is the cost in requests of 32 texts."""
    parts = (
        (texts_per_s * (1 - known), cost.unknown),
        (texts_per_s * known / 2, cost.local),
        (texts_per_s * known / 2, cost.shared),
    )
    busy = {name: sum(rate * each[name] for rate, each in parts) / 1e6 for name in ("redis", "api")}
    slower_s = (cost.unknown["worker0"] - base.unknown["worker0"]) / 1e6
    workers = {
        name: math.ceil(texts_per_s * (1 - known) * (1 / rate + slower_s) / WORKER)
        for name, rate in MODELS.items()
    }
    api = max(MIN_API, math.ceil(busy["api"] / API))
    return Plan(workers, max(1, math.ceil(busy["redis"] / REDIS)), api)


def full(known: float, cost: Cost) -> float:
    """The texts/s that one Redis is planned for."""
    return REDIS * 1e6 / (cost.unknown["redis"] * (1 - known) + cost.shared["redis"] * known / 2)


def read_costs() -> dict[int, Cost]:
    """The costs by size of a request, as the page has them."""
    table = PAGE.read_text("utf-8").partition("<!-- costs -->")[2].partition("<!-- end of costs -->")[0]
    costs = {}
    for line in table.strip().splitlines()[2:]:
        size, redis, api, worker, local, shared, shared_redis = map(float, line.strip("|").split("|"))
        unknown = {"redis": redis, "api": api, "worker0": worker}
        kept = ({"redis": 0.0, "api": local}, {"redis": shared_redis, "api": shared})
        costs[int(size)] = Cost(unknown, *kept)
    return costs


def drive(
    running: Service, users: int, seconds: float, texts: Callable[[], Sequence[str]]
) -> dict[str, float]:
    """Processor time of each process in microseconds a text, under full load."""
    before = {name: running.cpu_s(name) for name in PROCESSES}
    tally = asyncio.run(closed_loop(running.port, users, seconds, texts))
    return {name: (running.cpu_s(name) - before[name]) / tally.texts * 1e6 for name in PROCESSES}


def measure(size: int, users: int, seconds: float) -> Cost:
    """The costs of a text in requests of `size`."""
    source = stream(7 + size)
    fresh = [[next(source) for _ in range(size)] for _ in range(200_000 // size)]
    known = itertools.cycle(fresh[: 512 // size])
    new = iter(fresh[512 // size :])
    with service("stub") as running:
        report.progress(f"requests of {size}: unknown texts")
        unknown = drive(running, users, seconds, lambda: next(new))
        asyncio.run(closed_loop(running.port, 1, 1.0, lambda: next(known)))
        report.progress(f"requests of {size}: texts in the cache of the process")
        local = drive(running, users, seconds, lambda: next(known))
    with service("stub", local_cache_entries=0) as running:
        asyncio.run(closed_loop(running.port, 1, 2.0, lambda: next(known)))
        report.progress(f"requests of {size}: texts in the shared cache")
        shared = drive(running, users, seconds, lambda: next(known))
    return Cost(unknown, local, shared)


def head(*titles: str) -> Iterator[str]:
    """The first lines of a table in Markdown."""
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"


def cost_lines(costs: Mapping[int, Cost]) -> Iterator[str]:
    """The table of costs, in Markdown."""
    yield from head("texts of a request", *COSTS)
    for size, cost in costs.items():
        unknown = [cost.unknown[name] for name in PROCESSES]
        figures = [*unknown, cost.local["api"], cost.shared["api"], cost.shared["redis"]]
        yield f"| {size} | {' | '.join(f'{figure:.0f}' for figure in figures)} |"


def plan_lines(costs: Mapping[int, Cost]) -> Iterator[str]:
    """The table of loads, in Markdown."""
    workers, cores = ([f"{what}, {model}" for model in MODELS] for what in ("workers", "cores"))
    yield from head("texts/s", "known", *workers, "Redis", "API", *cores)
    for texts_per_s, known in LOADS:
        plans = [plan(texts_per_s, known, cost, costs[32]) for cost in costs.values()]
        figures = [
            *([one.workers[model] for one in plans] for model in MODELS),
            [one.redis for one in plans],
            [one.api for one in plans],
            *([one.cores(model) for one in plans] for model in MODELS),
        ]
        cells = [" / ".join(f"{number:,}" for number in of_sizes) for of_sizes in figures]
        yield f"| {texts_per_s:,} | {known:.0%} | {' | '.join(cells)} |"


def ceiling_lines(costs: Mapping[int, Cost]) -> Iterator[str]:
    """The table of what one Redis keeps busy, in Markdown."""
    yield from head("known", "texts/s", "API", *(f"workers, {model}" for model in MODELS))
    for known in SHARES:
        loads = [full(known, cost) for cost in costs.values()]
        plans = [plan(load, known, cost, costs[32]) for load, cost in zip(loads, costs.values(), strict=True)]
        workers = ([one.workers[model] for one in plans] for model in MODELS)
        figures = [[int(load / 100) * 100 for load in loads], [one.api for one in plans], *workers]
        cells = [" / ".join(f"{number:,}" for number in of_sizes) for of_sizes in figures]
        yield f"| {known:.0%} | {' | '.join(cells)} |"


def write(name: str, lines: Iterator[str]) -> None:
    """Replaces the table between its marks."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = PAGE.read_text("utf-8").partition(begin)
    _, _, after = rest.partition(end)
    table = "".join(f"{line}\n" for line in lines)
    PAGE.write_text(f"{before}{begin}\n{table}\n{end}{after}", "utf-8")


def main() -> None:
    """Measures, prints the tables and writes bench-results/sizing.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--measured", type=Path)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.measured:
        found = json.loads(args.measured.read_text())["costs"]
        costs = {int(size): Cost(**cost) for size, cost in found.items()}
    else:
        costs = {size: measure(size, args.users, args.seconds) for size in SIZES}
    print(*cost_lines(costs), "", *plan_lines(costs), sep="\n")
    if args.write:
        write("costs", cost_lines(costs))
        costs = read_costs()  # as they are printed, so that readers can compute the others
        write("sizes", plan_lines(costs))
        write("ceilings", ceiling_lines(costs))
    if not args.measured:
        for name, most in GOALS.items():
            what = f"us of {name.rstrip('0')} for a single text, {args.users} clients"
            report.goal(what, costs[1].unknown[name], most, at_most=True)
        report.finish("sizing", {"costs": {size: asdict(cost) for size, cost in costs.items()}})


if __name__ == "__main__":
    main()
