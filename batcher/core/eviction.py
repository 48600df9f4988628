"""Warns, once, if Redis is configured with an eviction policy that could drop queue keys.

The policy is checked on every (re)connect.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
import redis.asyncio

log = logging.getLogger(__name__)

SAFE = "noeviction"


async def eviction_warning(client: redis.asyncio.Redis) -> str:
    """Returns a warning if Redis may evict entries; empty if it may not, or if the policy cannot be read.

    INFO reports the policy even where CONFIG is forbidden, as on most managed services.
    """
    try:
        facts: dict[str, Any] = await client.info("memory")
    except (redis.exceptions.RedisError, OSError):
        return ""
    policy = str(facts.get("maxmemory_policy", SAFE))
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

    async def look(self, client: redis.asyncio.Redis) -> None:
        """Checks the policy."""
        warning = await eviction_warning(client)
        if warning and warning != self.warning:
            log.warning(warning, extra={"action": "redis.policy"})
        self.warning = warning
