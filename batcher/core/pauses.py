"""Pauses of a lane, which operators set and every process reads from the snapshot of the service."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# What happens to the texts of a paused lane that wait: they are kept, refused, or still classified.
Waiting = Literal["keep", "refuse", "finish"]
WAITING: Mapping[str, Waiting] = {"keep": "keep", "refuse": "refuse", "finish": "finish"}


@dataclass(frozen=True, slots=True)
class Pause:
    """A lane is paused until `until`, by the monotonic clock."""

    waiting: Waiting
    until: float

    @property
    def left_s(self) -> float:
        return max(self.until - time.monotonic(), 0.0)

    def admits(self, budget_s: float) -> bool:
        """Whether a new request may wait: until the pause is over and its texts can be classified."""
        left_s = self.left_s
        return not left_s or (self.waiting == "keep" and budget_s > left_s)


def read_pauses(text: str) -> Mapping[str, Pause]:
    """Reads `lane waiting ms_left;` for each lane, as the scripts write it. What is unknown is left out."""
    now = time.monotonic()
    pauses = dict[str, Pause]()
    for part in text.split(";"):
        words = part.split(" ")
        if len(words) == 3 and words[1] in WAITING and words[2].isdigit():
            pauses[words[0]] = Pause(WAITING[words[1]], now + int(words[2]) / 1000)
    return pauses
