"""Removes a text, a client or a revision from the cache, kept results, records and jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import redis

from batcher.admin.job_eraser import JobEraser
from batcher.admin.refused import RefusedFilter, RefusedTexts
from batcher.admin.scanning import matching
from batcher.admin.usage import UsageBooks
from batcher.core.keys import cache_prefix, prefix
from batcher.messages import entry_id

# The revision in the first line of an encoded result.
_revision = re.compile(rb'\["([^"]*)", ').search
Removed = dict[str, int]


class Forgetting:
    """Works on one service. Every command is bounded: keys are scanned in slices.

    Each method returns how many keys were removed or changed, by kind.
    """

    def __init__(
        self, queue: redis.Redis, cache: redis.Redis, jobs: JobEraser, name: str, usage: UsageBooks
    ) -> None:
        self._queue = queue
        self._cache = cache
        self._jobs = jobs
        self._name = name
        self._prefix = prefix(name)
        self._refused = RefusedTexts(queue, name)
        self._usage = usage

    def text(self, text: str, tenants: Iterable[str] = ()) -> Removed:
        """Removes a text and its results. `tenants`: the clients whose results may be separate.

        `waiting` says whether it waits or runs now: it will then be cached once more.
        """
        ids = [entry_id(text, tenant) for tenant in ("", *tenants)]
        chunks, files = self._jobs.text(text)
        removed = {
            "cached": self._uncache(set(ids)),
            "results": self._delete(self._queue, [f"{self._prefix}:res:{entry}" for entry in ids]),
            "refused": self._refused.delete(ids) + self._drop_dead(ids),
            "jobs": chunks,
            "files": files,
        }
        self._clear_processes()
        waiting = self._queue.exists(*(f"{self._prefix}:entry:{entry}" for entry in ids))
        return removed | {"waiting": waiting}

    def client(self, client: str) -> Removed:
        """Removes the jobs, files, records and usage of a client: `key:NAME`, or an address."""
        jobs, files = self._jobs.client(client)
        ids = [record["id"] for record in self._refused.all(RefusedFilter(client=client))]
        self._queue.delete(f"{self._prefix}:clients")
        return {
            "jobs": jobs,
            "files": files,
            "refused": self._refused.delete(ids),
            "usage": self._usage.forget(client),
        }

    def revision(self, revision: str) -> Removed:
        """Removes cached and kept results of a revision (or the first digits of one), and its ended jobs."""
        cached = sum(
            self._delete(self._cache, keys)
            for keys in matching(self._cache, f"{cache_prefix(self._name)}{revision}*")
        )
        results = 0
        for keys in matching(self._queue, f"{self._prefix}:res:*"):
            raws = cast("list[bytes | None]", self._queue.mget(keys))
            own = [key for key, raw in zip(keys, raws, strict=True) if _of_revision(raw, revision)]
            results += self._delete(self._queue, own)
        self._clear_processes()
        return {"cached": cached, "results": results, "jobs": self._jobs.revision(revision)}

    def _uncache(self, ids: set[str]) -> int:
        """Removes cached results of all revisions, current or not."""
        pattern = f"{cache_prefix(self._name)}*" + (next(iter(ids)) if len(ids) == 1 else "")
        return sum(
            self._delete(self._cache, [key for key in keys if key[-64:].decode() in ids])
            for keys in matching(self._cache, pattern)
        )

    def _drop_dead(self, ids: Sequence[str]) -> int:
        """Removes texts from the dead letters, and the notes that workers took them alone."""
        dead, gone = f"{self._prefix}:dead", set(ids)
        lines = cast("list[bytes]", self._queue.lrange(dead, 0, -1))
        lines = [line for line in lines if line.split(b" ", 1)[0].decode() in gone]
        if not lines:
            return 0
        for line in lines:
            self._queue.lrem(dead, 1, cast(str, line))
        for keys in matching(self._queue, f"{self._prefix}:alone:*"):
            raws = cast("list[bytes | None]", self._queue.mget(keys))
            own = [key for key, raw in zip(keys, raws, strict=True) if raw and raw.decode() in gone]
            self._delete(self._queue, own)
        return len(lines)

    def _clear_processes(self) -> None:
        """Makes every API process empty its own cache with its next look at the snapshot."""
        key = f"{self._prefix}:snapshot"
        self._queue.hincrby(key, "forgotten", 1)
        self._queue.expire(key, 3600)

    def _delete(self, client: redis.Redis, keys: Sequence[Any]) -> int:
        return client.unlink(*keys) if keys else 0


def _of_revision(raw: bytes | None, revision: str) -> bool:
    found = _revision(raw[:4096]) if raw else None
    return found is not None and found[1].decode("ascii", "replace").startswith(revision)


def total(removed: Mapping[str, int]) -> int:
    """How many keys were removed or changed."""
    return sum(count for kind, count in removed.items() if kind != "waiting")
