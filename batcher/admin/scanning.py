"""Walks over the keys of a Redis in slices, so that no single command takes long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis

# How many keys one SCAN looks at: well under a millisecond of the server's time.
SLICE = 1000


def matching(client: redis.Redis, pattern: str) -> Iterator[list[bytes]]:
    """Yields the keys that match, in slices. A key may be yielded twice, as SCAN does."""
    cursor: Any = 0
    while True:
        cursor, keys = client.scan(cursor, match=pattern, count=SLICE)  # type: ignore[misc]
        if keys:
            yield keys
        if not int(cursor):
            return


def fields(client: redis.Redis, key: str) -> Iterator[dict[bytes, bytes]]:
    """Yields the fields of a hash, in slices."""
    cursor: Any = 0
    while True:
        cursor, some = client.hscan(key, cursor, count=SLICE)  # type: ignore[misc]
        if some:
            yield some
        if not int(cursor):
            return
