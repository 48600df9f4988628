"""Removes a text, a client or a revision from the cache, kept results, records and jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import redis

from batcher.admin.job_eraser import JobEraser
from batcher.admin.refused import RefusedFilter, RefusedTexts
from batcher.admin.scanning import fields, matching
from batcher.admin.usage import UsageBooks
from batcher.core.keys import cache_prefix, prefix
from batcher.messages import entry_id
from batcher.models import queue_of, read_listed

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
        self._usage = usage

    def text(self, text: str, tenants: Iterable[str] = ()) -> Removed:
        """Removes a text and its results of all models. `tenants`: the clients whose results may be separate.

        `waiting` says whether it waits or runs now: it will then be cached once more.
        """
        ids = [entry_id(text, tenant) for tenant in ("", *tenants)]
        chunks, files = self._jobs.text(text)
        removed = {
            "cached": self._uncache(set(ids)),
            "results": sum(
                self._delete(self._queue, [f"{prefix(queue)}:res:{entry}" for entry in ids])
                for queue in self._queues()
            ),
            "refused": sum(
                RefusedTexts(self._queue, queue).delete(ids) + self._drop_dead(prefix(queue), ids)
                for queue in self._queues()
            ),
            "jobs": chunks,
            "files": files,
        }
        self._clear_processes()
        waits = [f"{prefix(queue)}:entry:{entry}" for queue in self._queues() for entry in ids]
        waiting = sum(self._queue.exists(key) for key in waits)
        return removed | {"waiting": waiting}

    def client(self, client: str) -> Removed:
        """Removes the jobs, files, records and usage of a client: `key:NAME`, or an address."""
        jobs, files = self._jobs.client(client)
        refused = 0
        for queue in self._queues():
            texts = RefusedTexts(self._queue, queue)
            refused += texts.delete([record["id"] for record in texts.all(RefusedFilter(client=client))])
        self._queue.delete(f"{self._prefix}:clients")
        self._clear_processes()
        return {
            "jobs": jobs,
            "files": files,
            "refused": refused,
            "usage": self._usage.forget(client),
        }

    def revision(self, revision: str) -> Removed:
        """Removes cached and kept results of a revision (or the first digits of one), and its ended jobs."""
        cached = results = 0
        for queue in self._queues():
            for keys in matching(self._cache, f"{cache_prefix(queue)}{revision}*"):
                cached += self._delete(self._cache, keys)
            for keys in matching(self._queue, f"{prefix(queue)}:res:*"):
                raws = cast("list[bytes | None]", self._queue.mget(keys))
                own = [key for key, raw in zip(keys, raws, strict=True) if _of_revision(raw, revision)]
                results += self._delete(self._queue, own)
        self._clear_processes()
        return {"cached": cached, "results": results, "jobs": self._jobs.revision(revision)}

    def _queues(self) -> Iterator[str]:
        """The names of the queues of all models."""
        yield self._name
        for some in fields(self._queue, f"{self._prefix}:snapshot"):
            for model in read_listed({key.decode(): value.decode() for key, value in some.items()}):
                yield queue_of(self._name, model)

    def _uncache(self, ids: set[str]) -> int:
        """Removes cached results of all revisions, current or not."""
        one = next(iter(ids)) if len(ids) == 1 else ""
        return sum(
            self._delete(self._cache, [key for key in keys if key[-64:].decode() in ids])
            for queue in self._queues()
            for keys in matching(self._cache, f"{cache_prefix(queue)}*{one}")
        )

    def _drop_dead(self, queue: str, ids: Sequence[str]) -> int:
        """Removes texts from the dead letters, and the notes that workers took them alone."""
        dead, gone = f"{queue}:dead", set(ids)
        lines = cast("list[bytes]", self._queue.lrange(dead, 0, -1))
        lines = [line for line in lines if line.split(b" ", 1)[0].decode() in gone]
        if not lines:
            return 0
        for line in lines:
            self._queue.lrem(dead, 1, cast(str, line))
        for keys in matching(self._queue, f"{queue}:alone:*"):
            raws = cast("list[bytes | None]", self._queue.mget(keys))
            own = [key for key, raw in zip(keys, raws, strict=True) if raw and raw.decode() in gone]
            self._delete(self._queue, own)
        return len(lines)

    def _clear_processes(self) -> None:
        """Makes every API process empty its memory with its next look at the snapshot."""
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
