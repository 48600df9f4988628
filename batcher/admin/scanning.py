"""Walks over the keys of a Redis in slices, so that no single command takes long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import redis

# How many keys one SCAN looks at: well under a millisecond of the server's time.
SLICE = 1000


def matching(client: redis.Redis, pattern: str) -> Iterator[list[bytes]]:
    """Yields the keys that match, in slices. A key may be yielded twice, as SCAN does."""
    cursor = 0
    keys = list[bytes]()
    while True:
        cursor, keys = cast("tuple[int, list[bytes]]", client.scan(cursor, match=pattern, count=SLICE))
        if keys:
            yield keys
        if not cursor:
            return


def fields(client: redis.Redis, key: str) -> Iterator[dict[bytes, bytes]]:
    """Yields the fields of a hash, in slices."""
    cursor = 0
    some = dict[bytes, bytes]()
    while True:
        cursor, some = cast("tuple[int, dict[bytes, bytes]]", client.hscan(key, cursor, count=SLICE))
        if some:
            yield some
        if not cursor:
            return
