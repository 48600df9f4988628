"""Removes a text, a client or a revision from the cache, kept results and records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import redis

from batcher.admin.refused import RefusedFilter, RefusedTexts
from batcher.admin.scanning import fields, matching
from batcher.admin.usage import UsageStore
from batcher.core.keys import cache_prefix, prefix
from batcher.models import read_listed

# The revision in the first line of an encoded result.
_revision = re.compile(rb'\["([^"]*)", ').search
Removed = dict[str, int]
# The name in the keys of a model's queue, or of its cached results; "" is the first model.
NameOf = Callable[[str], str]


class CachedResults:
    """Removes results from one cache."""

    def __init__(self, client: redis.Redis, name_of: NameOf) -> None:
        self._client = client
        self._name_of = name_of

    def texts(self, ids: Collection[str], models: Iterable[str]) -> int:
        """Removes results of all revisions, current or not. Returns how many."""
        one = next(iter(ids)) if len(ids) == 1 else ""
        return sum(
            _delete(self._client, [key for key in keys if key[-64:].decode() in ids])
            for model in models
            for keys in matching(self._client, f"{cache_prefix(self._name_of(model))}*{one}")
        )

    def revision(self, revision: str, models: Iterable[str]) -> int:
        """Removes results of a revision, or of those that begin so. Returns how many."""
        return sum(
            _delete(self._client, keys)
            for model in models
            for keys in matching(self._client, f"{cache_prefix(self._name_of(model))}{revision}*")
        )


class Forgetting:
    """Works on one shard of a service. Every command is bounded: keys are scanned in slices.

    `cached` are the results beside the shard, None if the cache has its own Redis. `models` are the names
    that any shard lists. Each method returns how many keys were removed or changed, by kind.
    """

    def __init__(
        self, queue: redis.Redis, name_of: NameOf, cached: CachedResults | None, usage: UsageStore
    ) -> None:
        self._queue = queue
        self._name_of = name_of
        self._cached = cached
        self._prefix = prefix(name_of(""))
        self._usage = usage

    def models(self) -> set[str]:
        """The names of the models that workers have served here; "" is the first."""
        found = {""}
        for some in fields(self._queue, f"{self._prefix}:snapshot"):
            found |= set(read_listed({key.decode(): value.decode() for key, value in some.items()}))
        return found

    def text(self, ids: Collection[str], models: Collection[str]) -> Removed:
        """Removes what is kept of the texts with these ids. `waiting` of them wait or run now."""
        removed = Counter(cached=self._cached.texts(ids, models) if self._cached else 0)
        queues = [self._name_of(model) for model in models]
        for queue in queues:
            removed["results"] += _delete(self._queue, [f"{prefix(queue)}:res:{entry}" for entry in ids])
            removed["refused"] += RefusedTexts(self._queue, queue).delete(list(ids))
            removed["refused"] += self._drop_dead(prefix(queue), ids)
        self._clear_processes()
        waits = [f"{prefix(queue)}:entry:{entry}" for queue in queues for entry in ids]
        removed["waiting"] = sum(self._queue.exists(key) for key in waits)
        return dict(removed)

    def client(self, client: str, models: Collection[str]) -> Removed:
        """Removes the records and the usage of a client: `key:NAME`, or an address."""
        refused = 0
        for model in models:
            texts = RefusedTexts(self._queue, self._name_of(model))
            refused += texts.delete([record["id"] for record in texts.all(RefusedFilter(client=client))])
        self._queue.delete(f"{self._prefix}:clients")
        self._clear_processes()
        return {"refused": refused, "usage": self._usage.forget(client)}

    def revision(self, revision: str, models: Collection[str]) -> Removed:
        """Removes cached and kept results of a revision, or of those that begin so."""
        removed = Counter(cached=self._cached.revision(revision, models) if self._cached else 0)
        for model in models:
            for keys in matching(self._queue, f"{prefix(self._name_of(model))}:res:*"):
                raws = cast("list[bytes | None]", self._queue.mget(keys))
                own = [key for key, raw in zip(keys, raws, strict=True) if _of_revision(raw, revision)]
                removed["results"] += _delete(self._queue, own)
        self._clear_processes()
        return dict(removed)

    def _drop_dead(self, queue: str, ids: Collection[str]) -> int:
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
            _delete(self._queue, own)
        return len(lines)

    def _clear_processes(self) -> None:
        """Makes every API process empty its memory with its next look at the snapshot."""
        key, pipe = f"{self._prefix}:snapshot", self._queue.pipeline()
        pipe.hincrby(key, "forgotten", 1)
        pipe.expire(key, 3600)
        pipe.execute()


def _delete(client: redis.Redis, keys: Sequence[Any]) -> int:
    return client.unlink(*keys) if keys else 0


def _of_revision(raw: bytes | None, revision: str) -> bool:
    found = _revision(raw[:4096]) if raw else None
    return found is not None and found[1].decode("ascii", "replace").startswith(revision)


def total(removed: Mapping[str, int]) -> int:
    """How many keys were removed or changed."""
    return sum(count for kind, count in removed.items() if kind != "waiting")
