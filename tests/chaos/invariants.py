"""What must hold after the storm."""

from __future__ import annotations

import asyncio
import time

import redis

P = "{millrace:default}"
ENDLESS = {f"{P}:model", f"{P}:dead", f"{P}:clock"}


def broken(client: redis.Redis) -> list[str]:
    """A sentence for each invariant that does not hold now."""
    found = [f"{name} holds {n}" for name in ("q", "bulk", "solo") if (n := client.llen(f"{P}:{name}"))]
    if held := client.zcard(f"{P}:inflight"):
        found.append(f"inflight holds {held}")
    if claims := client.hlen(f"{P}:claims"):
        found.append(f"claims holds {claims}")
    keys = [key.decode(errors="replace") for key in client.scan_iter("*", count=1000)]
    if entries := [key for key in keys if f"{P}:entry:" in key]:
        found.append(f"{len(entries)} entries are left, e.g. {entries[0]}")
    # RQ keeps its own lists of workers and queues for ever.
    own = [key for key in keys if not key.startswith("rq:") and key not in ENDLESS]
    pipe = client.pipeline(transaction=False)
    for key in own:
        pipe.pttl(key)
    endless = [key for key, ttl in zip(own, pipe.execute(), strict=True) if ttl == -1]
    return found + [f"{key} never ends" for key in endless]


async def settled(client: redis.Redis, timeout_s: float) -> list[str]:
    """What is still broken after `timeout_s` at most."""
    deadline = time.monotonic() + timeout_s
    while (found := broken(client)) and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes
        await asyncio.sleep(0.3)
    return found
