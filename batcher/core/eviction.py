"""What a Redis may do to a queue behind its back: evict its keys. Looked at on every meeting, told once."""

from __future__ import annotations

import logging
from typing import Any

import redis
import redis.asyncio

log = logging.getLogger(__name__)

SAFE = "noeviction"


async def eviction_warning(client: redis.asyncio.Redis) -> str:
    """One sentence where Redis may evict entries, else nothing. Empty, too, where it may not be asked.

    INFO says it even where CONFIG is forbidden, as on most managed services.
    """
    try:
        facts: dict[str, Any] = await client.info("memory")
    except (redis.exceptions.RedisError, OSError):
        return ""
    policy = str(facts.get("maxmemory_policy", SAFE))
    if policy == SAFE:
        return ""
    return (
        f"Redis may evict entries of the queue: its maxmemory-policy is {policy}. Set {SAFE}, "
        "and give the cache a Redis of its own (MILLRACE_CACHE_URL) if it shall evict."
    )


class EvictionWatch:
    """The last warning, told in the log once for each new one."""

    def __init__(self) -> None:
        self.warning = ""

    async def look(self, client: redis.asyncio.Redis) -> None:
        """Asks Redis."""
        warning = await eviction_warning(client)
        if warning and warning != self.warning:
            log.warning(warning, extra={"action": "redis.policy"})
        self.warning = warning
