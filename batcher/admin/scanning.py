"""Walks over the keys of a Redis in slices, so that no single command takes long."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import redis

# How many keys one SCAN looks at: well under a millisecond of the server's time.
SLICE = 1000


def matching(client: redis.Redis, pattern: str) -> Iterator[list[bytes]]:
    """Yields the keys that match, in slices. A key may be yielded twice, as SCAN does."""
    keys = client.scan_iter(pattern, count=SLICE)
    while some := list(islice(keys, SLICE)):
        yield some
