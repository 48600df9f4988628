"""How much of its memory Redis uses, and when the cache beside the queue has to give way. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

# Shares of the limit. Above the first, remembered results are evicted; above the second, none are added.
# What is left is for the queue, its results of the last minute and jobs.
EVICT_ABOVE = 0.7
FULL_ABOVE = 0.85
# Without a `maxmemory` the limit is this share of what the machine has.
SHARE_OF_MACHINE = 0.5
# Of one remembered result, key and bookkeeping of Redis included: 494 bytes were measured.
RESULT_BYTES = 400
# Results that one sweep evicts at most: a few milliseconds of Redis.
MOST_EVICTIONS = 2000


@dataclass(frozen=True, slots=True)
class Memory:
    """What INFO says, in bytes. `limit` 0: unknown."""

    used: int = 0
    limit: int = 0

    @property
    def share(self) -> float:
        """Of the limit; 0 where that is unknown."""
        return self.used / self.limit if self.limit else 0.0

    @property
    def full(self) -> bool:
        """Whether nothing more is to be remembered."""
        return self.share > FULL_ABOVE

    @property
    def surplus(self) -> int:
        """How many remembered results to evict now."""
        above = self.used - EVICT_ABOVE * self.limit
        return min(MOST_EVICTIONS, int(above / RESULT_BYTES)) if self.limit and above > 0 else 0


NO_MEMORY = Memory()


def read_memory(info: object) -> Memory:
    """The answer to INFO memory. What cannot be read as one says nothing."""
    if not isinstance(info, bytes):
        return NO_MEMORY
    pairs = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    facts = {name: int(value) for name, _, value in pairs if value.isascii() and value.isdigit()}
    machine = int(facts.get("total_system_memory", 0) * SHARE_OF_MACHINE)
    return Memory(facts.get("used_memory", 0), facts.get("maxmemory", 0) or machine)
