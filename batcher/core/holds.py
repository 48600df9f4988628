"""What operators hold back for a while: clients, and lanes, which they pause.

Every process reads them with the snapshot of the service, once a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

from batcher.connection.clients import server_time_s
from batcher.core.keys import SNAPSHOT_S, Kept

# What is refused: every request of the client, or only texts that no cache knows.
HoldScope = Literal["all", "uncached"]
HOLD_SCOPES: Mapping[str, HoldScope] = {"all": "all", "uncached": "uncached"}
# In the snapshot, the field of a hold is this prefix and the client.
FIELD = "hold:"
# Every process reads all of them every second.
MAX_HOLDS = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hold:
    """A client is held back until `until`, by the monotonic clock."""

    what: HoldScope
    until: float

    @property
    def left_s(self) -> float:
        return max(self.until - time.monotonic(), 0.0)


def read_holds(fields: Mapping[str, str], redis_s: int) -> Mapping[str, Hold]:
    """The holds among the fields of a snapshot that was read at `redis_s`. What is unknown is left out.

    Each ends at a time of its Redis, in seconds since 1970: those of hosts may differ.
    """
    holds: dict[str, Hold] = {}
    began = time.monotonic() - redis_s
    for name, value in fields.items():
        if name.startswith(FIELD):
            what, _, until_s = value.partition(" ")
            if what in HOLD_SCOPES and until_s.isdigit():
                holds[name.removeprefix(FIELD)] = Hold(HOLD_SCOPES[what], began + int(until_s))
    return holds


def merge_holds(shards: Iterable[Mapping[str, Hold]]) -> Mapping[str, Hold]:
    """For each client, the hold that ends last: a shard that was down may not know of it."""
    return _greatest(shards, lambda hold: hold.until)


def _greatest(shards: Iterable[Mapping[str, T]], key: Callable[[T], Any]) -> Mapping[str, T]:
    """For each name, the one with the greatest `key`."""
    merged = dict[str, T]()
    for known in shards:
        for name, one in known.items():
            merged[name] = max(merged.get(name, one), one, key=key)
    return merged


class ClientHolds(Kept):
    """The holds that one shard of a service knows. Each is kept at all of them."""

    below = ":snapshot"

    def current(self) -> Mapping[str, Hold]:
        """The holds that have not ended."""
        holds, _ = self._read()
        return {client: hold for client, hold in holds.items() if hold.left_s}

    def set(self, client: str, what: HoldScope, for_s: float) -> None:
        """Holds a client back for so many seconds. Removes holds that have ended."""
        holds, redis_s = self._read()
        pipe = self._client.pipeline()
        for ended in [name for name, hold in holds.items() if not hold.left_s]:
            pipe.hdel(self._root, f"{FIELD}{ended}")
        pipe.hset(self._root, f"{FIELD}{client}", f"{what} {redis_s + math.ceil(for_s)}")
        pipe.expire(self._root, SNAPSHOT_S)
        pipe.execute()

    def _read(self) -> tuple[Mapping[str, Hold], int]:
        """All holds, and the time of Redis."""
        raw = cast("dict[bytes, bytes]", self._client.hgetall(self._root))
        redis_s = int(server_time_s(self._client))
        fields = {
            name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in raw.items()
        }
        return read_holds(fields, redis_s), redis_s

    def end(self, client: str) -> bool:
        """Ends a hold. False if there was none."""
        return bool(self._client.hdel(self._root, f"{FIELD}{client}"))


# What happens to the texts of a paused lane that wait: they are kept, refused, or still classified.
Waiting = Literal["keep", "refuse", "finish"]
WAITING: Mapping[str, Waiting] = {"keep": "keep", "refuse": "refuse", "finish": "finish"}
# What was decided about a lane of all models is kept beside the lanes of the first one, under these names.
OF_ALL: Mapping[str, str] = {"interactive": "interactiveall", "bulk": "bulkall"}


@dataclass(frozen=True, slots=True)
class Pause:
    """What was decided about a lane: it is paused until `until`, by the monotonic clock, unless that is over.

    The decision with the greatest `number` counts; that of a process of 0.2.0 has none.
    """

    waiting: Waiting
    until: float
    number: int = 0

    @property
    def left_s(self) -> float:
        return max(self.until - time.monotonic(), 0.0)

    def admits(self, budget_s: float) -> bool:
        """Whether a new request may wait: until the pause is over and its texts can be classified."""
        left_s = self.left_s
        return not left_s or (self.waiting == "keep" and budget_s > left_s)


UNDECIDED = Pause("keep", -math.inf)


def read_pauses(text: str) -> Mapping[str, Pause]:
    """Reads `lane waiting ms_left;` for each that is paused, and then `lane=number;` for the last decisions.

    What is unknown is left out.
    """
    now = time.monotonic()
    pauses = dict[str, Pause]()
    for part in text.split(";"):
        words = part.split(" ")
        lane, _, number = part.partition("=")
        if len(words) == 3 and words[1] in WAITING and words[2].isdigit():
            pauses[words[0]] = Pause(WAITING[words[1]], now + int(words[2]) / 1000)
        elif number.isdigit():
            pauses[lane] = replace(pauses.get(lane, UNDECIDED), number=int(number))
    return pauses


def in_force(pauses: Mapping[str, Pause]) -> Mapping[str, Pause]:
    """The pauses of lanes that have not ended."""
    return {lane: pauses[lane] for lane in OF_ALL if lane in pauses and pauses[lane].left_s}


def later(decided: Mapping[str, Pause], known: Mapping[str, Pause]) -> Mapping[str, Pause]:
    """The decisions after the known ones. A pause that has no number is of a process of 0.2.0, and stays."""
    before = {lane: known.get(lane, UNDECIDED) for lane in decided}
    stays = {lane for lane, pause in before.items() if pause.left_s and not pause.number}
    news = {lane for lane, pause in decided.items() if pause.number > before[lane].number}
    return {lane: decided[lane] for lane in news - stays}


def merge_pauses(decided: Iterable[Mapping[str, Pause]]) -> Mapping[str, Pause]:
    """For each lane, what was decided last: a shard that was down, or a new queue, may not know of it."""
    return _greatest(decided, lambda pause: (pause.number, pause.until))
