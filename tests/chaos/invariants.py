"""What must hold after the run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import redis

# What may be there for ever, and what must be gone once all work is done; each of one shard.
ENDLESS = ("}:model", "}:dead", "}:clock")
WORK = ("}:q", "}:bulk", "}:solo", "}:inflight", "}:claims")


def broken(client: redis.Redis) -> list[str]:
    """A sentence for each invariant that does not hold now at one Redis."""
    keys = [key.decode(errors="replace") for key in client.scan_iter("*", count=1000)]
    found = [f"{key} is not empty" for key in keys if key.startswith("{millrace:") and key.endswith(WORK)]
    if entries := [key for key in keys if key.startswith("{millrace:") and "}:entry:" in key]:
        found.append(f"{len(entries)} entries are left, e.g. {entries[0]}")
    # RQ keeps its own lists of workers and queues for ever.
    own = [key for key in keys if not (key.startswith("rq:") or key.endswith(ENDLESS))]
    pipe = client.pipeline(transaction=False)
    for key in own:
        pipe.pttl(key)
    endless = [key for key, ttl in zip(own, pipe.execute(), strict=True) if ttl == -1]
    return found + [f"{key} never ends" for key in endless]


async def settled(clients: Sequence[redis.Redis], timeout_s: float) -> list[str]:
    """What is still broken after `timeout_s` at most, at any Redis."""
    deadline = time.monotonic() + timeout_s
    while (found := [one for client in clients for one in broken(client)]) and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.3)
    return found
