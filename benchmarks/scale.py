"""A discrete-event simulation of fleets that no single machine can hold, fed by the figures of measured ones.

    python -m benchmarks.scale [--seed 1] [--seconds 0.5] [--svg docs/images/scale.svg]

Each shard is one core of Redis that runs scripts in turn; a script costs a fixed time, and a time for each
text. Requests of 1, 4 or 32 texts arrive at random and are split over the shards. Workers live at one shard,
claim there first, and help others as in decision 0014. A script costs what agrees with `benchmarks.sizing`
(66 us for a single text, with 0.57 scripts, and 34 us for one of 32) and with 200 clients of single texts
(39 us, with 0.12 scripts). The same seed gives the same figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.fleet_model import FIGURES, Change, Fleet, Outcome, simulate
from benchmarks.scale_plot import draw

# Workers, shards and the texts/s of one worker: the default model, distilbert-base, and a larger one.
SIZES = (
    *(Fleet(10, 1, 750, texts) for texts in (1, 4, 32)),
    *(Fleet(100, 1, 230, texts) for texts in (1, 4, 32)),
    Fleet(100, 4, 230),
    *(Fleet(1000, 8, 230, texts) for texts in (1, 4, 32)),
    Fleet(1000, 16, 230),
    Fleet(10_000, 64, 60),
    Fleet(10_000, 64, 230),
)
SHARE = 0.7  # of the highest load, at which each size is simulated
EVENTFUL = Fleet(200, 8, 230, texts=4)
EVENTS = {
    "a shard is lost for 2 s": Change(lost=(2.0, 4.0)),
    "a rolling deploy": Change(deploy=(1.0, 6.0)),
    "ten times the load": Change(step_at=2.0),
}
EVENT_S = 8.0
COLUMNS = (
    "workers",
    "shards",
    "texts/s of each",
    "texts a request",
    "first to be full",
    "texts/s then",
    "at 70 %: p50 ms",
    "p99 ms",
    "Redis busy",
    "workers busy",
    "cores: Redis",
    "workers",
    "API",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The texts/s at which each part of a fleet is full."""

    redis: float
    workers: float

    @property
    def first(self) -> str:
        """The part that is full first."""
        return "Redis" if self.redis < self.workers else "workers"

    @property
    def rate(self) -> float:
        """The highest texts/s of the whole."""
        return min(self.redis, self.workers)


def limits(fleet: Fleet) -> Limits:
    """What the parts of a fleet can do. API processes share nothing and can be added: they set no limit."""
    used = FIGURES.idle_share(fleet)
    return Limits(fleet.shards * (1 - used) / FIGURES.redis_s(fleet), fleet.workers * fleet.speed)


def row(fleet: Fleet, outcome: Outcome) -> list[str]:
    """One line of the table."""
    limit = limits(fleet)
    return [
        f"{fleet.workers:,}",
        str(fleet.shards),
        str(fleet.speed),
        str(fleet.texts),
        limit.first,
        f"{limit.rate:,.0f}",
        f"{outcome.quantile(0.5):.1f}",
        f"{outcome.quantile(0.99):.1f}",
        f"{outcome.redis_busy:.0%}",
        f"{outcome.workers_busy:.0%}",
        str(fleet.shards),
        f"{2 * fleet.workers:,}",
        f"{max(limit.rate * FIGURES.api_s(fleet), 1):.0f}",
    ]


def measure(seed: int, seconds: float) -> tuple[list[Outcome], dict[str, Outcome]]:
    """Every size at its share of the highest load, then every event on one size."""
    sizes = []
    for fleet in SIZES:
        report.progress(f"{fleet.workers} workers, {fleet.shards} shards")
        sizes.append(simulate(fleet, SHARE * limits(fleet).rate, seconds, seed))
    events = {}
    for name, change in EVENTS.items():
        report.progress(name)
        rate = SHARE * limits(EVENTFUL).rate / (10 if change.step_at else 1)
        events[name] = simulate(EVENTFUL, rate, EVENT_S, seed, change)
    return sizes, events


def recorded(fleet: Fleet, outcome: Outcome) -> dict[str, Any]:
    """What the JSON keeps of one outcome."""
    delays = {"p50_ms": outcome.quantile(0.5), "p99_ms": outcome.quantile(0.99)}
    busy = {"redis_busy": outcome.redis_busy, "workers_busy": outcome.workers_busy}
    return asdict(fleet) | delays | busy | {"texts": outcome.texts, "refused": outcome.refused}


def main(words: Sequence[str] | None = None) -> None:
    """Simulates, shows the tables, draws the picture and writes bench-results/scale.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--svg", type=Path, default=None)
    given = parser.parse_args(words)
    sizes, events = measure(given.seed, given.seconds)
    report.table(COLUMNS, [row(fleet, outcome) for fleet, outcome in zip(SIZES, sizes, strict=True)])
    report.table(
        ("event", "p50 ms", "p99 ms", "refused", "back under 50 ms after, s"),
        [
            [
                name,
                f"{one.quantile(0.5):.1f}",
                f"{one.quantile(0.99):.1f}",
                f"{one.refused / (one.texts + one.refused):.1%}",
                f"{one.settled_s(50.0):.1f}",
            ]
            for name, one in events.items()
        ],
    )
    if given.svg is not None:
        given.svg.write_text(draw({name: one.series() for name, one in events.items()}))
    shown = [recorded(fleet, outcome) for fleet, outcome in zip(SIZES, sizes, strict=True)]
    happened = {name: recorded(EVENTFUL, outcome) for name, outcome in events.items()}
    report.finish("scale", {"seed": given.seed, "sizes": shown, "events": happened, "goals": []})


if __name__ == "__main__":
    main()
