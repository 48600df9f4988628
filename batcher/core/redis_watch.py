"""What Redis says of itself: its memory, and when to evict cached results in favour of the queue.

Warns, once, of a Redis that may drop keys or lacks data, and of workers with another format of data.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from batcher.connection.outage import REDIS_ERRORS, refused
from batcher.connection.pipeline import Pipeline
from batcher.connection.redis_url import is_cluster
from batcher.shards import FORMAT, Shard, hash_tag

log = logging.getLogger(__name__)

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


SAFE = "noeviction"
_EVICTS = (
    "Redis may evict entries of the queue: its maxmemory-policy is {}. Set it to noeviction; for a cache "
    "that evicts, use a separate Redis (MILLRACE_CACHE_URL)."
)
_LACKS_DATA = (
    "Redis has refused {} commands of its append-only file or of its master, so it lacks data. Give its user "
    "`default` all rights, and restart it before it rewrites the file "
    "(docs/operations.md#millraceredisskipped)."
)


class RedisWatch:
    """Keeps the current `warning`, and logs each part when it changes. `skipped`: refused commands."""

    def __init__(self) -> None:
        self.warning = ""
        self.skipped = 0
        self._parts: dict[str, str] = {}

    @classmethod
    def merge(cls, watches: Iterable[RedisWatch]) -> RedisWatch:
        """What several have seen: each warning once, and all that was refused."""
        merged = cls()
        every = list(watches)
        merged.warning = " ".join(dict.fromkeys(watch.warning for watch in every if watch.warning))
        merged.skipped = sum(watch.skipped for watch in every)
        return merged

    def look(self, memory: object, stats: object) -> None:
        """Checks the replies of INFO memory and INFO stats. Call it after every (re)connect.

        INFO reports the policy even where CONFIG is forbidden, as on most managed services.
        """
        policy = read_info(memory).get("maxmemory_policy", SAFE)
        self.skipped = whole_number(read_info(stats).get("unexpected_error_replies"))
        parts = {
            "redis.policy": "" if policy == SAFE else _EVICTS.format(policy),
            "redis.skipped": _LACKS_DATA.format(self.skipped) if self.skipped else "",
        }
        for action, warning in parts.items():
            if warning and warning != self._parts.get(action):
                log.warning(warning, extra={"action": action})
        self._parts = parts
        self.warning = " ".join(filter(None, parts.values()))


class OtherFormats:
    """Workers of the queue of one shard that keep their data in another format (decision 0019).

    Watches the previous and the next format; nothing in a cluster, where other nodes may have them.
    """

    def __init__(self, shard: Shard) -> None:
        tags = [] if is_cluster(shard.url) else [hash_tag(shard.name, FORMAT + step) for step in (-1, 1)]
        self._keys = [f"{tag}:workers" for tag in tags]

    async def look(self, pipeline: Pipeline) -> None:
        """Logs one warning if there are live workers of those. Raises REDIS_ERRORS."""
        try:
            live = [
                await pipeline.execute("ZCOUNT", key, int(time.time() * 1000), "+inf") for key in self._keys
            ]
        except REDIS_ERRORS as error:
            if not refused(error):
                raise
            return  # the Redis user may only use the keys of this format
        if any(live):
            log.warning(
                "workers of another version serve this MILLRACE_NAME with another format of data: this "
                "version shares no queue, cache or jobs with them and needs its own (docs/upgrading.md)",
                extra={"action": "format.other", "format": FORMAT, "workers": sum(live)},
            )
