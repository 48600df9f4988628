"""Memory use of Redis, and when to evict cached results in favour of the queue. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

# Shares of the limit. Cached results are evicted above the first and not added above the second. The rest is
# for the queue, its results of the last minute and jobs.
EVICT_ABOVE = 0.7
FULL_ABOVE = 0.85
# Without `maxmemory`, the limit is this share of the machine's memory.
SHARE_OF_MACHINE = 0.5
# Size of a cached result, including its key and the overhead of Redis: 494 bytes were measured.
RESULT_BYTES = 400
# The most results that one sweep evicts, which keeps Redis busy for a few milliseconds.
MAX_EVICTIONS = 2000


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory use according to INFO, in bytes. A `limit` of 0 means unknown."""

    used: int = 0
    limit: int = 0

    @property
    def share(self) -> float:
        """The used share of the limit; 0 if that is unknown."""
        return self.used / self.limit if self.limit else 0.0

    @property
    def full(self) -> bool:
        """Whether memory is too short to cache more results."""
        return self.share > FULL_ABOVE

    @property
    def surplus(self) -> int:
        """How many cached results to evict now."""
        above = self.used - EVICT_ABOVE * self.limit
        return min(MAX_EVICTIONS, int(above / RESULT_BYTES)) if self.limit and above > 0 else 0


NO_MEMORY = Memory()


def read_memory(info: object) -> Memory:
    """Reads the reply of INFO memory. An unreadable reply gives NO_MEMORY."""
    if not isinstance(info, bytes):
        return NO_MEMORY
    pairs = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    facts = {name: int(value) for name, _, value in pairs if value.isascii() and value.isdigit()}
    machine = int(facts.get("total_system_memory", 0) * SHARE_OF_MACHINE)
    return Memory(facts.get("used_memory", 0), facts.get("maxmemory", 0) or machine)
