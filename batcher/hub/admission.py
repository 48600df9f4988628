"""What an API process lets into the queue, and when those that it refuses may come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from batcher.core.holds import Pause
from batcher.errors import Paused, QueueFull
from batcher.messages import Lane

# Admit only what will be claimed within this share of its budget: the batch itself needs the rest.
ADMIT_SHARE = 0.5
# Clients with little waiting (`first`) may exceed the cap by one part in this many.
FIRST_SHARE = 4
RETRY_MAX_S = 60.0
# Retry-After counts on this share of the measured rate: it has whole seconds, so many clients retry at once,
# and new requests arrive meanwhile.
PROMISED_SHARE = 0.75


class Admission:
    """How much may wait in each lane for one API process, and the cost it has shed but expects back.

    `caps` are in estimated tokens, and `rate` is in these per second.
    """

    def __init__(self, caps: Mapping[str, int]) -> None:
        self.caps = caps
        self.rate = 0.0
        self.pauses: Mapping[str, Pause] = {}
        # Cost that was shed with a Retry-After, less what the workers could have done since.
        self._promised = self._promised_at = 0.0

    def check(self, lane: Lane, budget_s: float) -> None:
        """Raises Paused if the lane is paused and takes no request with this budget."""
        pause = self.pauses.get(lane)
        if pause is not None and not pause.admits(budget_s):
            raise _paused(pause)

    def cap(self, lane: Lane, first: bool, budget_s: float) -> int:
        """The waiting cost that can be claimed in time: the setting, or less if the workers are slower."""
        cap = self.caps[lane]
        if lane == "interactive" and self.rate > 0:
            able_s = max(budget_s - self.pause_s(lane), 0.0)
            cap = min(cap, int(self.rate * able_s * ADMIT_SHARE) + 1)
        return cap + cap // FIRST_SHARE if first else cap

    def refusals(self) -> Iterator[tuple[str, Paused]]:
        """The lanes whose waiting texts are refused, and the refusal."""
        for lane, pause in self.pauses.items():
            if pause.waiting == "refuse" and pause.left_s:
                yield lane, _paused(pause)

    def pause_s(self, lane: Lane) -> float:
        """For how long workers claim nothing from the lane."""
        pause = self.pauses.get(lane)
        return 0.0 if pause is None else pause.left_s

    def queue_full(self, lane: Lane, waiting: int, cost: int, now: float) -> QueueFull:
        """The refusal of a request of this `cost`."""
        wait_s = self.retry_after_s(waiting, cost, now) + self.pause_s(lane)
        detail = f"the queue is full: {waiting} tokens of text are waiting; try again later"
        return QueueFull(detail, retry_after_s=wait_s)

    def retry_after_s(self, waiting: int, cost: int, now: float) -> float:
        """Seconds until the waiting cost and all cost shed before have drained, which spreads retries."""
        rate = self.rate * PROMISED_SHARE
        if rate <= 0:
            return 1.0
        drained = rate * (now - self._promised_at)
        self._promised = min(max(self._promised - drained, 0.0) + cost, rate * RETRY_MAX_S)
        self._promised_at = now
        return min(max((waiting + self._promised) / rate, 1.0), RETRY_MAX_S)


def _paused(pause: Pause) -> Paused:
    return Paused("an operator has paused this work; try again later", retry_after_s=pause.left_s)
