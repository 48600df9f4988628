"""The audit log: what operators did through the console, newest first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import redis

from batcher.core.keys import prefix

MAX_LINES = 1000
KEEP_S = 90 * 86_400


class AuditLog:
    """The last MAX_LINES actions, which expire KEEP_S after the newest of them."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._key = f"{prefix(name)}:audit"

    def add(self, line: Mapping[str, Any]) -> None:
        pipe = self._client.pipeline()
        pipe.lpush(self._key, json.dumps(line, separators=(",", ":")))
        pipe.ltrim(self._key, 0, MAX_LINES - 1)
        pipe.expire(self._key, KEEP_S)
        pipe.execute()

    def newest(self, count: int) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in cast("list[bytes]", self._client.lrange(self._key, 0, count - 1))
        ]
