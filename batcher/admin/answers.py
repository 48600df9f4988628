"""The answers of processes to a question of the console."""

from __future__ import annotations

import json
from typing import Any, cast

import redis

from batcher.core.keys import prefix


class Answers:
    """Reads the lists that answer.lua writes."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._prefix = f"{prefix(name)}:answers:"

    def to(self, token: str) -> list[Any]:
        """All answers so far to the question with this token."""
        raws = cast("list[bytes]", self._client.lrange(self._prefix + token, 0, -1))
        return [json.loads(raw) for raw in raws]
