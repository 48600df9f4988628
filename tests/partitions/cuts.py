"""Which links are cut: drawn by a seed, each direction by itself."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tests.partitions.network import Way
from tests.partitions.service import ROLES
from tests.partitions.topology import Topology

# A failover needs a second of silence, an election and a promotion; some cuts end before that.
SHORT_S, LONG_S = (0.5, 2.0), (3.0, 5.0)


@dataclass(frozen=True, slots=True)
class Cut:
    """Packets that vanish, by (from, to), and for how long."""

    kind: str
    ways: frozenset[Way]
    seconds: float


class Cuts:
    """Draws cuts, every kind in turn, in a random order."""

    def __init__(self, topology: Topology, rng: random.Random) -> None:
        self._rng, self._topology = rng, topology
        self._members = [name for name in topology.nodes if name != topology.jobs_node]
        self._servers = [*topology.nodes, *topology.sentinels]
        self._bag: list[str] = []
        self._kinds: dict[str, Callable[[], set[Way]]] = {
            "one link, one direction": lambda: {self._link()},
            "one link": lambda: _both([self._link()]),
            "a master from all": lambda: _both(self._from_all(self._master())),
            "a master hears nothing": lambda: {(b, a) for a, b in self._from_all(self._master())},
            "a master says nothing": lambda: set(self._from_all(self._master())),
            "a master with some clients": lambda: _both(self._minority()),
            "a master with some clients, outwards": lambda: set(self._minority()),
            "a master with some clients, inwards": lambda: {(b, a) for a, b in self._minority()},
            "two halves": lambda: _both(self._halves()),
            "many links, one direction": self._many,
            "a client from every server, one direction": self._client,
            "replication": lambda: set(self._replication()),
            "those that vote": lambda: _both(self._voters()),
        }

    def draw(self) -> Cut:
        """The next cut."""
        if not self._bag:
            self._bag = self._rng.sample(sorted(self._kinds), len(self._kinds))
        kind = self._bag.pop()
        seconds = self._rng.uniform(*(SHORT_S if self._rng.random() < 0.3 else LONG_S))
        return Cut(kind, frozenset(self._kinds[kind]()), seconds)

    def _links(self) -> list[Way]:
        """Every pair that talks, in an order that only the names decide."""
        among_servers = itertools.permutations(self._servers, 2)
        with_clients = [way for pair in itertools.product(ROLES, self._servers) for way in (pair, pair[::-1])]
        return [*among_servers, *with_clients]

    def _link(self) -> Way:
        return self._rng.choice(self._links())

    def _master(self) -> str:
        masters = [name for name in self._topology.masters() if name in self._members]
        return self._rng.choice(masters or self._members)

    def _others(self, name: str) -> list[str]:
        return [one for one in (*self._servers, *ROLES) if one != name]

    def _from_all(self, name: str) -> list[Way]:
        return [(name, other) for other in self._others(name)]

    def _minority(self) -> list[Way]:
        """A master with an API, a worker and perhaps more clients, from all other servers and clients."""
        master, number = self._master(), self._rng.choice("12")
        side = {master, f"api{number}", f"worker{number}"} | ({"jobs"} if self._rng.random() < 0.5 else set())
        if self._rng.random() < 0.3:
            side |= set(self._topology.sentinels[:1])
        return _between(side, [*self._servers, *ROLES])

    def _halves(self) -> list[Way]:
        every = [*self._servers, *ROLES]
        return _between({one for one in every if self._rng.random() < 0.5}, every)

    def _many(self) -> set[Way]:
        share = self._rng.uniform(0.1, 0.5)
        return {way for way in self._links() if self._rng.random() < share}

    def _client(self) -> set[Way]:
        client, outwards = self._rng.choice(ROLES), self._rng.random() < 0.5
        return {(client, one) if outwards else (one, client) for one in self._servers}

    def _replication(self) -> list[Way]:
        """One direction of every link among the servers that hold data."""
        first = self._rng.random() < 0.5
        return [(a, b) for a, b in itertools.permutations(self._members, 2) if (a < b) == first]

    def _voters(self) -> Sequence[Way]:
        """Between sentinels, or between all nodes of a cluster."""
        return list(itertools.permutations(self._topology.sentinels or self._members, 2))


def _between(side: Collection[str], every: Sequence[str]) -> list[Way]:
    """From each of one side to each of the other."""
    return [(a, b) for a in every for b in every if a in side and b not in side]


def _both(ways: Sequence[Way]) -> set[Way]:
    return {way for a, b in ways for way in ((a, b), (b, a))}
