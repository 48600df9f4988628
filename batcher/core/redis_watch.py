"""Warns, once, about a Redis that may drop keys of the queue, or that has not loaded all of its data."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

log = logging.getLogger(__name__)

SAFE = "noeviction"


def eviction_warning(info: object) -> str:
    """A warning if Redis may evict entries, by the reply of INFO memory; empty if it may not.

    INFO reports the policy even where CONFIG is forbidden, as on most managed services.
    """
    found = re.search(rb"^maxmemory_policy:([\w-]+)", info, re.MULTILINE) if isinstance(info, bytes) else None
    policy = found[1].decode() if found else SAFE
    if policy == SAFE:
        return ""
    return (
        f"Redis may evict entries of the queue: its maxmemory-policy is {policy}. Set it to {SAFE}; "
        "for a cache that evicts, use a separate Redis (MILLRACE_CACHE_URL)."
    )


def skipped_commands(info: object) -> int:
    """How many commands of its file or of its master Redis has refused, by the reply of INFO stats."""
    if not isinstance(info, bytes):
        return 0
    found = re.search(rb"^unexpected_error_replies:(\d+)", info, re.MULTILINE)
    return int(found[1]) if found else 0


def skipped_warning(count: int) -> str:
    """A warning if Redis has refused that many; empty if none."""
    if not count:
        return ""
    return (
        f"Redis has refused {count} commands of its append-only file or of its master, so it lacks data. "
        "Give its user `default` all rights, and restart it before it rewrites the file "
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
        """Checks the replies of INFO memory and INFO stats. Call it after every (re)connect."""
        self.skipped = skipped_commands(stats)
        parts = {"redis.policy": eviction_warning(memory), "redis.skipped": skipped_warning(self.skipped)}
        for action, warning in parts.items():
            if warning and warning != self._parts.get(action):
                log.warning(warning, extra={"action": action})
        self._parts = parts
        self.warning = " ".join(filter(None, parts.values()))
