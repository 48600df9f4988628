"""Clients that operators hold back for a while. API processes read them from the snapshot."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# What is refused: every request of the client, or only texts that no cache knows.
HoldScope = Literal["all", "uncached"]
HOLD_SCOPES: Mapping[str, HoldScope] = {"all": "all", "uncached": "uncached"}
# In the snapshot, the field of a hold is this prefix and the client.
FIELD = "hold:"


@dataclass(frozen=True, slots=True)
class Hold:
    """A client is held back until `until_s`, in seconds since 1970."""

    what: HoldScope
    until_s: float

    @property
    def left_s(self) -> float:
        return max(self.until_s - time.time(), 0.0)

    def encode(self) -> str:
        return f"{self.what} {int(self.until_s)}"


def read_holds(fields: Mapping[str, str]) -> Mapping[str, Hold]:
    """The holds among the fields of a snapshot. What is unknown is left out."""
    holds: dict[str, Hold] = {}
    for name, value in fields.items():
        if name.startswith(FIELD):
            what, _, until_s = value.partition(" ")
            if what in HOLD_SCOPES and until_s.isdigit():
                holds[name.removeprefix(FIELD)] = Hold(HOLD_SCOPES[what], float(until_s))
    return holds
