"""The shards of a queue: where each is, and which one a text belongs to (decision 0014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from batcher.connection.redis_url import is_cluster

T = TypeVar("T")

# The format of what the queue and its cache keep in Redis. It is part of their keys, so that processes of
# different formats share nothing (decision 0019). Raise it if older processes would misread what newer ones
# write, or the reverse.
FORMAT = 2
MAX_SHARDS = 64


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of the queue of a service: a queue with its own keys, and all that serve it.

    `name` is that of its keys, `cache_name` that of the results cached beside it.
    """

    number: int
    url: str
    name: str
    cache_name: str

    @property
    def prefix(self) -> str:
        """The prefix of its keys, and the key whose slot a cluster is asked for."""
        return hash_tag(self.name)


def hash_tag(name: str, number: int = FORMAT) -> str:
    """The beginning of all keys of one queue, which puts them in one slot of a cluster.

    Keys of format 1, that of version 0.1.0, have no `number`.
    """
    return f"{{millrace:{number}:{name}}}" if number > 1 else f"{{millrace:{name}}}"


def shards_of(name: str, urls: Sequence[str], count: int) -> tuple[Shard, ...]:
    """The shards of the service `name`: one at each of `urls`, or `count` in the cluster of the only one.

    The first shard has the keys of a queue that is not sharded, so that such a queue can grow.
    """
    if len(urls) == 1:
        urls = [urls[0]] * count
    shards = []
    for number, url in enumerate(urls):
        own = f"{name}:{number}" if number else name
        # In a cluster, cached results need the hash tag of their shard: its scripts read and write them.
        shards.append(Shard(number, url, own, hash_tag(own) if is_cluster(url) else name))
    return tuple(shards)


def shard_of(entry: str, shards: int) -> int:
    """The number of the shard that an entry belongs to, by its id (hexadecimal digits of a digest).

    Consistent (Lamping and Veach 2014): with one shard more, one of `shards + 1` entries moves, to the new
    one.
    """
    key = int(entry[:16], 16)
    at = -1
    following = 0
    while following < shards:
        at = following
        key = (key * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        following = int((at + 1) * (1 << 31) / ((key >> 33) + 1))
    return at


def by_shard(items: Sequence[T], ids: Sequence[str], shards: int) -> dict[int, list[T]]:
    """The items of each shard, in order. `ids` are those of their entries."""
    found: dict[int, list[T]] = {}
    for item, entry in zip(items, ids, strict=True):
        found.setdefault(shard_of(entry, shards), []).append(item)
    return found
