"""Limits how much may wait, and computes when shed requests should retry. Uses no Redis and no clock."""

from __future__ import annotations

from dataclasses import dataclass

from batcher.messages import Lane

# Admit only what will be claimed within this share of its budget: the batch itself needs the rest.
ADMIT_SHARE = 0.5
RETRY_MOST_S = 60.0
# Retry-After counts on this share of the measured rate: it has whole seconds, so many clients retry at once,
# and new requests arrive meanwhile.
PROMISED_SHARE = 0.75
# Clients with little waiting may exceed the cap by one part in this many.
FIRST_SHARE = 4


@dataclass(frozen=True, slots=True)
class LaneCaps:
    """Waiting cost, in estimated tokens, above which each lane sheds."""

    interactive: int
    bulk: int


class Admission:
    """The caps of one API process, and the cost it has shed but expects back. `rate` is cost per second."""

    def __init__(self, caps: LaneCaps) -> None:
        self._caps = caps
        # Cost that was shed with a Retry-After, less what the workers could have done since.
        self._promised = self._promised_at = 0.0

    def cap(self, lane: Lane, first: bool, budget_s: float, rate: float) -> int:
        """The waiting cost that can be claimed in time: the setting, or less if the workers are slower.

        `first` is for a client with little waiting: clients that fill the lane must not keep others out.
        """
        cap: int = getattr(self._caps, lane)
        if lane == "interactive" and rate > 0:
            cap = min(cap, int(rate * budget_s * ADMIT_SHARE) + 1)
        return cap + cap // FIRST_SHARE if first else cap

    def retry_after_s(self, waiting_cost: int, cost: int, rate: float, now: float) -> float:
        """Seconds until the waiting cost and all cost shed before have drained, which spreads retries."""
        rate *= PROMISED_SHARE
        if rate <= 0:
            return 1.0
        drained = rate * (now - self._promised_at)
        self._promised = min(max(self._promised - drained, 0.0) + cost, rate * RETRY_MOST_S)
        self._promised_at = now
        return min(max((waiting_cost + self._promised) / rate, 1.0), RETRY_MOST_S)
