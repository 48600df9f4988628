"""What happens in one schedule, drawn from its seed before it runs: who asks for what, and what goes wrong.

A plan is plain data, so that one that fails can be run again without some of its parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from batcher.messages import Lane

# Everything that goes wrong has begun by then; seconds from the start.
WITHIN_S = 2.5
MAX_REQUESTS = 14
RAISES, KILLS = "\0raise", "\0kill"

Kind = Literal[
    "cut",  # connections break, and new ones are refused for a while
    "silence",  # nothing arrives for a while
    "unsteady",  # each message may break the connection, or take long
    "restart",  # Redis restarts with its data and loads it for a while
    "empty",  # Redis restarts without its data
    "hints lost",  # Redis loses what it has for this hub or worker to pop, for a while
    "freeze",  # a worker stands still
    "die",  # a worker dies
    "vanish",  # a worker dies, and its connections stay open
    "stop",  # a worker is asked to stop, and another takes its place
    "start",  # one more worker
    "close",  # a hub is closed, and another takes its place
    "pause",  # an operator pauses a lane
    "clock",  # the clock of Redis steps
]
NETWORK: tuple[Kind, ...] = ("cut", "silence", "unsteady")
WORKERS: tuple[Kind, ...] = ("freeze", "die", "vanish", "stop", "start")
HINTS: tuple[Kind, ...] = ("hints lost", "hints lost")
HUBS: tuple[Kind, ...] = ("close",)
REDIS: tuple[Kind, ...] = ("restart", "empty", "pause", "clock")
# How long each may last if requests with an ample budget are to be answered all the same: see `Plan.ample_s`.
BEARABLE_S: dict[Kind, float] = {
    "cut": 0.1,
    "silence": 0.5,
    "unsteady": -1,
    "restart": 0.1,
    "empty": 0.1,
    "hints lost": 3,
    "freeze": 1.5,
    "die": 3,
    "vanish": 3,
    "stop": 3,
    "start": 3,
    "close": 3,
    "pause": 1.5,
    "clock": 3,
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request of `texts` at `hub`. Its client goes away after `patience_s`, if that is not 0."""

    at_s: float
    hub: int
    texts: tuple[str, ...]
    budget_s: float
    lane: Lane
    first: bool
    patience_s: float


@dataclass(frozen=True, slots=True)
class Accident:
    """`who` it concerns is "" (all), "hub 1", "worker 2"... `seconds` is its duration or strength.

    It is an accident of one `shard`, or of all.
    """

    at_s: float
    kind: Kind
    who: str
    seconds: float
    shard: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule. The delays of messages come from `seed`, too."""

    seed: int
    hubs: int
    workers: int
    shards: int
    caches: bool
    requests: list[Request] = field(default_factory=list)
    accidents: list[Accident] = field(default_factory=list)

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong."""
        return not self.accidents and not any(is_fault(text) for one in self.requests for text in one.texts)

    @property
    def over_s(self) -> float:
        """When all accidents are over, and the budgets of texts that end workers, which none outlives."""
        accidents = [one.at_s + one.seconds for one in self.accidents]
        faults = [one.at_s + one.budget_s for one in self.requests if any(map(is_fault, one.texts))]
        return max([*accidents, *faults], default=0.0)

    @property
    def ample_s(self) -> float:
        """A budget that is enough for every request, whatever goes wrong in this plan; inf: none is."""
        hurt = sum(one.kind in WORKERS for one in self.accidents)
        if self.calm:
            return 1.0
        if not replace(self, accidents=[]).calm or any(
            one.seconds > BEARABLE_S[one.kind] for one in self.accidents
        ):
            return math.inf
        return (3.0, 6.0, math.inf)[min(hurt, 2)]


def is_fault(text: str) -> bool:
    """Whether the model fails on a text, or dies of it."""
    return text.startswith((RAISES, KILLS))


def draw(seed: int) -> Plan:
    """The plan of a seed. One in four has no accidents."""
    random = Random(seed)
    counts = random.choice((1, 1, 2, 3)), random.randint(1, 3), random.choice((1, 1, 1, 1, 1, 2, 2, 3))
    plan = Plan(seed, *counts, caches=random.random() < 0.3)
    words = [f"text {random.randrange(10_000)} " + "word " * random.choice((0, 0, 3, 40)) for _ in range(12)]
    words += [f"{RAISES} {seed}"] * (random.random() < 0.15) + [f"{KILLS} {seed}"] * (random.random() < 0.08)
    for _ in range(random.randint(1, MAX_REQUESTS)):
        plan.requests.append(_request(random, plan.hubs, words))
    if seed % 4:
        for _ in range(random.choice((1, 1, 2, 3))):
            plan.accidents.append(_accident(random, plan))
    return plan


def _request(random: Random, hubs: int, words: list[str]) -> Request:
    return Request(
        at_s=round(random.uniform(0, WITHIN_S) if random.random() < 0.5 else random.choice((0.1, 1)), 4),
        hub=random.randint(1, hubs),
        texts=tuple(random.choices(words, k=random.choice((1, 1, 2, 5)))),
        budget_s=random.choice((0.05, 0.3, 1, 3, 3, 6, 6)),
        lane="bulk" if random.random() < 0.15 else "interactive",
        first=random.random() < 0.2,
        patience_s=round(random.uniform(0, 0.3), 4) if random.random() < 0.25 else 0.0,
    )


def _accident(random: Random, plan: Plan) -> Accident:
    kind = random.choice((*NETWORK, *NETWORK, *REDIS, *WORKERS, *HUBS, *HINTS))
    hub, worker = f"hub {random.randint(1, plan.hubs)}", f"worker {random.randint(1, plan.workers)}"
    if kind in (*REDIS, "start"):
        who = ""
    elif kind in NETWORK:
        who = random.choice(("", hub, worker))
    elif kind in HINTS:
        who = random.choice((hub, worker))
    else:
        who = worker if kind in WORKERS else hub
    seconds = random.choice((0.0, 0.05, 0.5, 1.5, 3.0))
    if kind in HINTS and who == worker:
        seconds = min(seconds, 0.5)  # it looks by itself only every WAIT_S
    at_s = random.uniform(0, WITHIN_S)
    if random.random() < 0.6:  # while something is under way
        at_s = random.choice(plan.requests).at_s + random.uniform(0, 0.04)
    shard = random.choice((None, random.randrange(plan.shards)))
    return Accident(round(at_s, 4), kind, who, seconds, shard)
