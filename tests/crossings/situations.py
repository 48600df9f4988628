"""Situations: a service, some routes and what happens meanwhile, drawn so that every pair is seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

# Routes of a situation, and how often it has a second event.
ROUTES = 5
SECOND_EVENT = 0.15
# Situations in a row that share a running service, because starting one takes seconds.
BLOCK = 6

Pair = tuple[str, str]
Fits = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Situation:
    """One crossing. `seed` draws the rest: clients, models, forms of jobs, texts."""

    service: str
    routes: tuple[str, ...]
    events: tuple[str, ...]
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.service} / {', '.join(self.routes)} / {', '.join(self.events)} / {self.seed}"

    @classmethod
    def parse(cls, words: str) -> Situation:
        """The opposite of `str`. Raises ValueError."""
        service, routes, events, seed = (part.strip() for part in words.split("/"))
        return cls(service, _names(routes), _names(events), int(seed))

    def pairs(self) -> Iterator[Pair]:
        """Every two parts of different kinds."""
        yield from product((self.service,), self.routes)
        yield from product((self.service,), self.events)
        yield from product(self.routes, self.events)

    def smaller(self) -> Iterator[Situation]:
        """Situations that lack one part of this one, or have the plainest in its place."""
        for parts in _without_one(self.events):
            yield replace(self, events=parts)
        for parts in _without_one(self.routes):
            yield replace(self, routes=parts)
        if self.events != ("none",):
            yield replace(self, events=("none",))
        if self.service != "plain":
            yield replace(self, service="plain")


def _names(words: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in words.split(","))


def _without_one(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for at in range(len(parts) if len(parts) > 1 else 0):
        yield parts[:at] + parts[at + 1 :]


def shrunk(situation: Situation, fails: Callable[[Situation], bool], fits: Fits) -> Situation:
    """The smallest situation that still fails, found by leaving out one part after the other."""
    for one in situation.smaller():
        if all(fits(*pair) for pair in one.pairs()) and fails(one):
            return shrunk(one, fails, fits)
    return situation


class Draw:
    """Draws situations. Those with pairs that were not seen yet come first, and `early` events among them."""

    def __init__(
        self,
        services: Sequence[str],
        routes: Sequence[str],
        events: Sequence[str],
        fits: Fits,
        seed: int,
        *,
        early: Collection[str] = (),
    ) -> None:
        self._services, self._routes, self._events = services, routes, events
        self._early = early
        self._fits = fits
        self._rng = random.Random(seed)
        kinds = ((services, routes), (services, events), (routes, events))
        self.possible = {pair for kind in kinds for pair in product(*kind) if fits(*pair)}
        self._pairs = {
            name: {pair for pair in self.possible if name in pair} for name in (*services, *events)
        }
        self.seen: set[Pair] = set()

    def block(self) -> Iterator[Situation]:
        """Situations of the service with the greatest share of pairs to see. The caller adds to `seen`."""
        service = self._best(self._services, self._share)
        for _ in range(BLOCK):
            yield self._one(service)

    def _share(self, name: str) -> float:
        """The share of the pairs of a service or an event that were not seen yet."""
        return len(self._pairs[name] - self.seen) / len(self._pairs[name])

    def _one(self, service: str) -> Situation:
        new = self.possible - self.seen
        fitting = [name for name in self._events if self._fits(service, name)]
        event = self._best(
            fitting,
            lambda name: self._share(name) + ((service, name) in new) * (1 + (name in self._early)),
        )
        events = (event,)
        if self._rng.random() < SECOND_EVENT:
            events += (self._rng.choice(fitting),)
        routes = [
            name
            for name in self._routes
            if self._fits(service, name) and all(self._fits(name, one) for one in events)
        ]
        self._rng.shuffle(routes)
        routes.sort(key=lambda name: -((service, name) in new) - ((name, event) in new))
        return Situation(service, tuple(routes[:ROUTES]), events, self._rng.randrange(10**6))

    def _best(self, names: Sequence[str], new: Callable[[str], float]) -> str:
        """One of those with the most pairs that were not seen."""
        shuffled = self._rng.sample(names, len(names))
        return max(shuffled, key=new)
