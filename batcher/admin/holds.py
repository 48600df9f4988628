"""Sets and ends holds of clients, in the snapshot that every API process reads once a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import redis

from batcher.core.holds import FIELD, Hold, read_holds
from batcher.core.keys import prefix

# Every process reads all of them every second.
MAX_HOLDS = 100
# The snapshot expires if no API process runs for an hour.
SNAPSHOT_S = 3600


class ClientHolds:
    """The holds of one service."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._key = f"{prefix(name)}:snapshot"

    def current(self) -> Mapping[str, Hold]:
        """The holds that have not ended. The others are removed."""
        raw = cast("dict[bytes, bytes]", self._client.hgetall(self._key))
        holds = read_holds({name.decode("utf-8", "replace"): value.decode() for name, value in raw.items()})
        ended = [f"{FIELD}{client}" for client, hold in holds.items() if not hold.left_s]
        if ended:
            self._client.hdel(self._key, *ended)
        return {client: hold for client, hold in holds.items() if hold.left_s}

    def set(self, client: str, hold: Hold) -> bool:
        """Holds a client back. False if too many are already."""
        current = self.current()
        if client not in current and len(current) >= MAX_HOLDS:
            return False
        pipe = self._client.pipeline()
        pipe.hset(self._key, f"{FIELD}{client}", hold.encode())
        pipe.expire(self._key, SNAPSHOT_S)
        pipe.execute()
        return True

    def end(self, client: str) -> bool:
        """Ends a hold. False if there was none."""
        return bool(self._client.hdel(self._key, f"{FIELD}{client}"))
