"""The history of the last day: one JSON line per minute, which survives restarts."""

from __future__ import annotations

from typing import cast

import redis

from batcher.core.keys import prefix

MINUTES = 24 * 60


class MinuteHistory:
    """The last MINUTES lines of one service, which expire as long after the newest of them."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._key = f"{prefix(name)}:minutes"

    def add(self, line: bytes) -> None:
        pipe = self._client.pipeline()
        pipe.rpush(self._key, line)
        pipe.ltrim(self._key, -MINUTES, -1)
        pipe.expire(self._key, MINUTES * 60)
        pipe.execute()

    def newest(self, count: int) -> list[bytes]:
        """Up to `count` lines, oldest first."""
        return cast("list[bytes]", self._client.lrange(self._key, -count, -1))
