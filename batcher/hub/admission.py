"""How much may wait, and when those who are shed shall come back. No Redis; the clock is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from batcher.messages import Lane

# Admit only what will be claimed within this share of its budget: the rest is for the run itself.
ADMIT_SHARE = 0.5
RETRY_MOST_S = 60.0
# Of the measured rate, what is promised to those who are shed: they come back in whole seconds, many at once,
# and others come meanwhile.
PROMISED_SHARE = 0.75
# Room above the cap that is kept for clients with little waiting: this part of it.
FIRST_SHARE = 4


@dataclass(frozen=True, slots=True)
class LaneCaps:
    """Waiting cost, in estimated tokens, above which each lane sheds."""

    interactive: int
    bulk: int


class Admission:
    """The caps of one API process, and what it has promised to those it shed. `rate` is cost per second."""

    def __init__(self, caps: LaneCaps) -> None:
        self._caps = caps
        # Cost that was shed and told when to come back.
        self._promised = self._promised_at = 0.0

    def cap(self, lane: Lane, first: bool, budget_s: float, rate: float) -> int:
        """Waiting cost that will be claimed in time: the setting, or less where the workers are slower.

        `first` of a client with little waiting: whoever fills the lane must not keep the others out.
        """
        cap: int = getattr(self._caps, lane)
        if lane == "interactive" and rate > 0:
            cap = min(cap, int(rate * budget_s * ADMIT_SHARE) + 1)
        return cap + cap // FIRST_SHARE if first else cap

    def retry_after_s(self, waiting_cost: int, cost: int, rate: float, now: float) -> float:
        """When what waits and what was shed before will have drained, so that not all come back at once."""
        rate *= PROMISED_SHARE
        if rate <= 0:
            return 1.0
        drained = rate * (now - self._promised_at)
        self._promised = min(max(self._promised - drained, 0.0) + cost, rate * RETRY_MOST_S)
        self._promised_at = now
        return min(max((waiting_cost + self._promised) / rate, 1.0), RETRY_MOST_S)
