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


def read_info(reply: object) -> dict[str, str]:
    """The facts of a reply of INFO. An unreadable one has none."""
    lines = reply.decode("utf-8", "replace").splitlines() if isinstance(reply, bytes) else []
    return {name: value for name, _, value in (line.partition(":") for line in lines)}


def whole_number(value: str | None) -> int:
    """The value of such a fact; 0 if it is missing or something else."""
    return int(value) if value and value.isascii() and value.isdigit() else 0


def read_memory(info: object) -> Memory:
    """Reads the reply of INFO memory. An unreadable reply gives NO_MEMORY."""
    facts = read_info(info)
    used, most, machine = (
        whole_number(facts.get(name)) for name in ("used_memory", "maxmemory", "total_system_memory")
    )
    return Memory(used, most or int(machine * SHARE_OF_MACHINE))
