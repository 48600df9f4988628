"""Removes a text, a client or a revision from the cache, kept results and records."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, cast

import redis

from batcher.admin.refused import RefusedFilter, RefusedTexts
from batcher.admin.scanning import matching
from batcher.admin.usage import UsageStore
from batcher.core.keys import SNAPSHOT_S, cache_prefix, epoch_key, prefix

# The revision in the first line of an encoded result.
_revision = re.compile(rb'\["([^"]*)", ').search
# Stands for the name of any model. It is part of none.
_ANY = "\0"
Removed = dict[str, int]
# The name in the keys of a model's queue, or of its cached results; "" is the first model.
NameOf = Callable[[str], str]


class ModelKeys:
    """The keys of all models of a service that `key` makes: those served now, dropped, or long gone.

    `key` takes the name of a model and returns the beginning of its keys.
    """

    def __init__(self, client: redis.Redis, key: Callable[[str], str]) -> None:
        self._client = client
        before, _, after = map(re.escape, key(_ANY).partition(_ANY))
        others = f"{before}(?P<model>[^:{{}}]+){after}"
        self._match = re.compile(f"(?:{re.escape(key(''))}|{others})(?P<rest>.*)", re.DOTALL).fullmatch
        # One walk over all keys finds those of every model: the name of the first is how theirs begin.
        self._beginning = key(_ANY).partition(f"/{_ANY}")[0]

    def models(self) -> set[str]:
        """The names of the models that have any; "" is the first."""
        return {found["model"] or "" for some in self._walk() for found in some.values()}

    def matching(self, wanted: Callable[[str], object], end: str = "") -> Iterator[list[bytes]]:
        """Yields the keys of which the rest is `wanted`, in slices. They end with `end`."""
        for some in self._walk(end):
            yield [key for key, found in some.items() if wanted(found["rest"])]

    def delete(self, wanted: Callable[[str], object], end: str = "") -> int:
        """Deletes them. Returns how many."""
        return sum(_delete(self._client, keys) for keys in self.matching(wanted, end))

    def _walk(self, end: str = "") -> Iterator[dict[bytes, re.Match[str]]]:
        for keys in matching(self._client, f"{self._beginning}*{end}"):
            found = ((key, self._match(key.decode("utf-8", "replace"))) for key in keys)
            yield {key: match for key, match in found if match}


class CachedResults:
    """Removes results from one cache, of whichever revision and model.

    What workers have yet to write to a cache with its own Redis, they drop.
    """

    def __init__(self, client: redis.Redis, name_of: NameOf) -> None:
        self._client = client
        self._epoch = epoch_key(name_of(""))
        self._keys = ModelKeys(client, lambda model: cache_prefix(name_of(model)))

    def texts(self, ids: Collection[str]) -> int:
        """Removes results of all revisions, current or not. Returns how many."""
        self._client.unlink(self._epoch)
        one = next(iter(ids)) if len(ids) == 1 else ""
        return self._keys.delete(lambda rest: rest.rpartition(":")[2] in ids, one)

    def revision(self, revision: str) -> int:
        """Removes results of a revision, or of those that begin so. Returns how many."""
        self._client.unlink(self._epoch)
        return self._keys.delete(lambda rest: rest.startswith(revision))


class Forgetting:
    """Works on one shard of a service. Every command is bounded: keys are scanned in slices.

    `cached` are the results beside the shard, None if the cache has its own Redis. `models` are the names
    that any shard knows. Each method returns how many keys were removed or changed, by kind.
    """

    def __init__(
        self, queue: redis.Redis, name_of: NameOf, cached: CachedResults | None, usage: UsageStore
    ) -> None:
        self._queue = queue
        self._name_of = name_of
        self._cached = cached
        self._prefix = prefix(name_of(""))
        self._usage = usage
        self._keys = ModelKeys(queue, lambda model: f"{prefix(name_of(model))}:")

    def models(self) -> set[str]:
        """The names of the models of which anything is here, served now or not; "" is the first."""
        return {"", *self._keys.models()}

    def waiting(self, ids: Collection[str], models: Collection[str]) -> int:
        """How many of the texts with these ids wait or run now. The results of all others have been sent."""
        queues = [prefix(self._name_of(model)) for model in models]
        return sum(_each(self._queue, "EXISTS", [f"{queue}:entry:{one}" for queue in queues for one in ids]))

    def text(self, ids: Collection[str], models: Collection[str]) -> Removed:
        """Removes what is kept of the texts with these ids."""
        removed = Counter(cached=self._cached.texts(ids) if self._cached else 0)
        queues = [self._name_of(model) for model in models]
        for queue in queues:
            removed["results"] += _delete(self._queue, [f"{prefix(queue)}:res:{entry}" for entry in ids])
            removed["refused"] += RefusedTexts(self._queue, queue).delete(list(ids))
            removed["refused"] += self._drop_dead(prefix(queue), ids)
        self._clear_processes()
        return dict(removed)

    def client(self, client: str, models: Collection[str], jobs: Collection[str] = ()) -> Removed:
        """Removes records and usage of a client (`key:NAME`, or an address). `jobs` are ids of its jobs."""
        refused = 0
        names = {client, *(f"job:{job}" for job in jobs)}
        for model in models:
            texts = RefusedTexts(self._queue, self._name_of(model))
            found = (record for record in texts.all(RefusedFilter()) if record.get("client") in names)
            refused += texts.delete([record["id"] for record in found])
        self._queue.delete(f"{self._prefix}:clients")
        self._clear_processes()
        return {"refused": refused, "usage": self._usage.forget(client)}

    def revision(self, revision: str) -> Removed:
        """Removes cached and kept results of a revision, or of those that begin so."""
        removed = Counter(cached=self._cached.revision(revision) if self._cached else 0)
        for keys in self._keys.matching(lambda rest: rest.startswith("res:")):
            raws = _each(self._queue, "GET", keys)
            own = [key for key, raw in zip(keys, raws, strict=True) if _of_revision(raw, revision)]
            removed["results"] += _delete(self._queue, own)
        self._clear_processes()
        return dict(removed)

    def _drop_dead(self, queue: str, ids: Collection[str]) -> int:
        """Removes texts from the dead letters, and the notes that workers took them alone."""
        dead = f"{queue}:dead"
        gone = set(ids)
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
        key = f"{self._prefix}:snapshot"
        pipe = self._queue.pipeline()
        pipe.hincrby(key, "forgotten", 1)
        pipe.expire(key, SNAPSHOT_S)
        pipe.execute()


def _delete(client: redis.Redis, keys: Iterable[Any]) -> int:
    return sum(_each(client, "UNLINK", keys))


def _each(client: redis.Redis, command: str, keys: Iterable[Any]) -> list[Any]:
    """A command for each key: those of several models may be in different slots of a cluster."""
    pipe: Any = client.pipeline(transaction=False)
    for key in keys:
        pipe.execute_command(command, key)
    return list(pipe.execute())


def _of_revision(raw: bytes | None, revision: str) -> bool:
    found = _revision(raw[:4096]) if raw else None
    return found is not None and found[1].decode("ascii", "replace").startswith(revision)


def total(removed: Mapping[str, int]) -> int:
    """How many keys were removed or changed."""
    return sum(count for kind, count in removed.items() if kind != "waiting")
