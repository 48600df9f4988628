"""Who is master at each moment, and which masters take writes, seen over sockets that no cut concerns."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.history import History, Observer, Outcome
from tests.partitions.topology import Topology

EVERY_S = 0.2


@dataclass
class Seen:
    """The results that one server stored: times, and the history that they belong to."""

    history: History
    times: list[float] = field(default_factory=list)

    @property
    def unseen(self) -> list[tuple[float, float]]:
        return self.history.unseen

    def add_result(self, entry: str, at: float, outcome: Outcome) -> None:
        self.times.append(at)
        self.history.add_result(entry, at, outcome)

    def any_between(self, begin: float, end: float) -> bool:
        at = bisect.bisect_left(self.times, begin)
        return at < len(self.times) and self.times[at] <= end


class Masters:
    """`promoted`: when a replica became a master. `twice`: (begin, end, both names) of two at once."""

    def __init__(self, topology: Topology, history: History) -> None:
        self.promoted: list[tuple[float, str]] = []
        self.twice: list[tuple[float, float, tuple[str, ...]]] = []
        self._topology = topology
        self._seen = {name: Seen(history) for name in topology.nodes}
        self._observers = [
            Observer(node.server.client(), self._seen[name])  # type: ignore[arg-type]
            for name, node in topology.nodes.items()
        ]
        for observer in self._observers:
            assert observer.watching.wait(30), "a server does not let itself be watched"
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="masters", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Returns once everything that was stored before has been seen."""
        self._stopped.set()
        self._thread.join()
        for observer in self._observers:
            observer.close()

    @property
    def split(self) -> bool:
        """Whether there are two masters of the same data now."""
        return bool(self.twice) and time.time() - self.twice[-1][1] < 2 * EVERY_S

    def served_twice(self) -> int:
        """How often two masters at once both stored results for their clients."""
        return sum(
            all(self._seen[name].any_between(begin, end) for name in names)
            for begin, end, names in self.twice
        )

    def _run(self) -> None:
        before: set[str] = set(self._topology.masters())
        while not self._stopped.wait(EVERY_S):
            now = set(self._topology.masters())
            self.promoted += [(time.time(), name) for name in now - before]
            before = now
            for names in self._groups(sorted(now)):
                self._note(names)

    def _groups(self, masters: Sequence[str]) -> list[tuple[str, ...]]:
        """Masters of the same data, where there are several."""
        groups: dict[int, list[str]] = {}
        for name in masters:
            groups.setdefault(self._topology.nodes[name].group, []).append(name)
        return [tuple(names) for names in groups.values() if len(names) > 1]

    def _note(self, names: tuple[str, ...]) -> None:
        """Continues what was seen the last time, or begins."""
        now = time.time()
        for number, (begin, end, same) in enumerate(self.twice[-4:], max(len(self.twice) - 4, 0)):
            if same == names and now - end < 1.5:
                self.twice[number] = (begin, now, names)
                return
        self.twice.append((now, now, names))
