"""The ledger of a run: what was asked, and what became of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.history import History

# Answers that break no guarantee: shed, not able, too late.
HONEST = {429, 503, 504}


@dataclass(slots=True)
class Ledger:
    """Counts of requests and jobs, and a sentence for each that went wrong."""

    asked: int = 0
    right: int = 0
    left: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong_jobs: list[str] = field(default_factory=list)
    lost_jobs: list[str] = field(default_factory=list)
    jobs: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    texts: set[str] = field(default_factory=set)
    computed: dict[str, int] = field(default_factory=dict)
    slowest_s: float = 0.0
    history: History = field(default_factory=History)

    @property
    def closed(self) -> bool:
        """Whether every request has its one end."""
        ends = self.right + self.left + self.refused.total() + len(self.wrong) + len(self.lost)
        return ends == self.asked

    @property
    def failures(self) -> list[str]:
        """Everything that was wrong or lost."""
        return [*self.wrong, *self.lost, *self.wrong_jobs, *self.lost_jobs]

    def report(self) -> list[tuple[str, str]]:
        """A report to read."""
        computed = sum(self.computed.values())
        return [
            ("asked", f"{self.asked} requests"),
            ("answered right", str(self.right)),
            (
                "refused honestly",
                ", ".join(f"{n} x {code}" for code, n in sorted(self.refused.items())) or "0",
            ),
            ("client left", str(self.left)),
            ("sent again after a broken connection", str(self.retried)),
            ("wrong", str(len(self.wrong) + len(self.wrong_jobs))),
            ("lost", str(len(self.lost) + len(self.lost_jobs))),
            ("jobs", ", ".join(f"{n} {state}" for state, n in sorted(self.jobs.items())) or "0"),
            ("computed", f"about {computed} texts for {len(self.texts)} different ones"),
            ("ids with a history", str(len(self.history.calls))),
            ("slowest answer", f"{self.slowest_s:.1f} s"),
            ("accidents", ", ".join(f"{n} {name}" for name, n in sorted(self.events.items()))),
        ]
