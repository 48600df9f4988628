"""Clients that operators hold back for a while: API processes read them with the snapshot, once a second."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from batcher.connection.clients import Redis
from batcher.core.keys import prefix

# What is refused: every request of the client, or only texts that no cache knows.
HoldScope = Literal["all", "uncached"]
HOLD_SCOPES: Mapping[str, HoldScope] = {"all": "all", "uncached": "uncached"}
# In the snapshot, the field of a hold is this prefix and the client.
FIELD = "hold:"
# Every process reads all of them every second.
MAX_HOLDS = 100
# The snapshot expires if no API process runs for an hour.
SNAPSHOT_S = 3600


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


class ClientHolds:
    """The holds of one service."""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self._key = f"{prefix(name)}:snapshot"

    def current(self) -> Mapping[str, Hold]:
        """The holds that have not ended. The others are removed."""
        raw = cast("dict[bytes, bytes]", self._client.hgetall(self._key))
        holds = read_holds({name.decode("utf-8", "replace"): value.decode() for name, value in raw.items()})
        ended = [f"{FIELD}{client}" for client, hold in holds.items() if not hold.left_s]
        if ended:
            self._client.hdel(self._key, *ended)
        return {client: hold for client, hold in holds.items() if hold.left_s}

    def set(self, client: str, hold: Hold) -> bool:
        """Holds a client back. False if too many are already."""
        current = self.current()
        if client not in current and len(current) >= MAX_HOLDS:
            return False
        pipe = self._client.pipeline()
        pipe.hset(self._key, f"{FIELD}{client}", hold.encode())
        pipe.expire(self._key, SNAPSHOT_S)
        pipe.execute()
        return True

    def end(self, client: str) -> bool:
        """Ends a hold. False if there was none."""
        return bool(self._client.hdel(self._key, f"{FIELD}{client}"))
