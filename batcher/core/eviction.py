"""Warns, once, if Redis is configured with an eviction policy that could drop queue keys."""

from __future__ import annotations

import logging
import re

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


class EvictionWatch:
    """Keeps the current warning and logs it when it changes."""

    def __init__(self) -> None:
        self.warning = ""

    def look(self, info: object) -> None:
        """Checks the policy in the reply of INFO memory. Call it after every (re)connect."""
        warning = eviction_warning(info)
        if warning and warning != self.warning:
            log.warning(warning, extra={"action": "redis.policy"})
        self.warning = warning
