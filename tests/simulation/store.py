"""A Redis for simulated schedules: the commands and the real scripts of the queue, and a clock from outside.

fakeredis takes several times as long for a schedule, and reads the clock of the machine. `test_simulation.py`
compares both, command by command.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import redis

from tests.simulation.scripts import run_script

Bytes = bytes


class Zset(dict[Bytes, float]):
    """A sorted set: the score of each member."""

    def ordered(self) -> list[tuple[float, Bytes]]:
        return sorted((score, member) for member, score in self.items())


def _encoded(value: Any) -> Bytes:
    """An argument or a score as Redis keeps it."""
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float):
        return b"%d" % value if value == math.floor(value) else b"%.17g" % value
    return b"%d" % value


def _bound(text: Bytes, low: bool) -> float:
    """The end of a range of scores; an exclusive one is moved to the next number."""
    if text.startswith(b"("):
        return math.nextafter(float(text[1:]), math.inf if low else -math.inf)
    return float(text)


class Store:
    """The keys of one server. `now` is its clock in seconds. Every command is a method of its name."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.values: dict[Bytes, Any] = {}
        self.scripts: dict[Bytes, Bytes] = {}
        self._ends: dict[Bytes, float] = {}
        self._now = now

    def run(self, words: Sequence[Any]) -> Any:
        """The reply to one command: None, an integer, bytes, a list, or an error."""
        command, *arguments = words
        return _COMMANDS[command](self, *[one if type(one) is bytes else _encoded(one) for one in arguments])

    def endless(self) -> set[Bytes]:
        """The keys that never expire."""
        return {key for key in list(self.values) if self._live(key) is not None and key not in self._ends}

    # -- scripts -----------------------------------------------------------------------------------

    def eval(self, source: Bytes, count: Bytes, key: Bytes, *arguments: Bytes) -> Any:
        self.scripts[hashlib.sha1(source).hexdigest().encode()] = source
        return run_script(self.run, source, key, arguments)

    def evalsha(self, digest: Bytes, count: Bytes, key: Bytes, *arguments: Bytes) -> Any:
        if digest not in self.scripts:
            return redis.exceptions.ResponseError("NOSCRIPT No matching script.")
        return run_script(self.run, self.scripts[digest], key, arguments)

    def script(self, flush: Bytes) -> Bytes:
        self.scripts.clear()
        return b"OK"

    # -- keys --------------------------------------------------------------------------------------

    def _live(self, key: Bytes) -> Any:
        end = self._ends.get(key)
        if end is not None and end <= self._now():
            del self._ends[key], self.values[key]
        return self.values.get(key)

    def _made(self, key: Bytes, kind: type) -> Any:
        found = self._live(key)
        if found is None:
            found = self.values[key] = kind()
        return found

    def _trim(self, key: Bytes) -> None:
        """A key without elements does not exist."""
        if not self.values[key]:
            self.delete(key)

    def delete(self, *keys: Bytes) -> int:
        found = [key for key in keys if self._live(key) is not None]
        for key in found:
            self.values.pop(key, None)
            self._ends.pop(key, None)
        return len(set(found))

    unlink = delete

    def exists(self, *keys: Bytes) -> int:
        return sum(self._live(key) is not None for key in keys)

    def pexpire(self, key: Bytes, duration_ms: Bytes) -> int:
        if self._live(key) is None:
            return 0
        self._ends[key] = self._now() + int(duration_ms) / 1000
        return 1

    def pttl(self, key: Bytes) -> int:
        if self._live(key) is None:
            return -2
        return round((self._ends[key] - self._now()) * 1000) if key in self._ends else -1

    def time(self) -> list[Bytes]:
        return [b"%d" % part for part in divmod(round(self._now() * 1_000_000), 1_000_000)]

    def info(self, section: Bytes) -> Bytes:
        return b"used_memory:1000000\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"

    def flushall(self) -> Bytes:
        self.values.clear()
        self._ends.clear()
        return b"OK"

    # -- strings -----------------------------------------------------------------------------------

    def get(self, key: Bytes) -> Bytes | None:
        value: Bytes | None = self._live(key)
        return value

    def mget(self, *keys: Bytes) -> list[Bytes | None]:
        return [self.get(key) for key in keys]

    def set(self, key: Bytes, value: Bytes, *options: Bytes) -> Bytes:
        self._live(key)
        self.values[key] = value
        if options and options[0] == b"PX":
            self._ends[key] = self._now() + int(options[1]) / 1000
        elif options != (b"KEEPTTL",):
            self._ends.pop(key, None)
        return b"OK"

    # -- hashes ------------------------------------------------------------------------------------

    def hget(self, key: Bytes, field: Bytes) -> Bytes | None:
        value: Bytes | None = (self._live(key) or {}).get(field)
        return value

    def hmget(self, key: Bytes, *fields: Bytes) -> list[Bytes | None]:
        found = self._live(key) or {}
        return [found.get(field) for field in fields]

    def hgetall(self, key: Bytes) -> list[Bytes]:
        return [part for pair in (self._live(key) or {}).items() for part in pair]

    def hexists(self, key: Bytes, field: Bytes) -> int:
        return int(field in (self._live(key) or {}))

    def hset(self, key: Bytes, *pairs: Bytes) -> int:
        found, before = self._made(key, dict), len(self._live(key) or ())
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(found) - before

    def hdel(self, key: Bytes, *fields: Bytes) -> int:
        found = self._live(key) or {}
        gone = sum(found.pop(field, None) is not None for field in fields)
        if gone:
            self._trim(key)
        return gone

    def hincrby(self, key: Bytes, field: Bytes, by: Bytes) -> int:
        found = self._made(key, dict)
        total = int(found.get(field, 0)) + int(by)
        found[field] = b"%d" % total
        return total

    # -- lists -------------------------------------------------------------------------------------

    def rpush(self, key: Bytes, *items: Bytes) -> int:
        found = self._made(key, list)
        found.extend(items)
        return len(found)

    def lpush(self, key: Bytes, *items: Bytes) -> int:
        found = self._made(key, list)
        found[:0] = items[::-1]
        return len(found)

    def lpop(self, key: Bytes, count: Bytes | None = None) -> Any:
        found = self._live(key)
        if found is None:
            return None
        taken = found[: int(count or 1)]
        del found[: int(count or 1)]
        self._trim(key)
        return taken if count is not None else taken[0]

    def llen(self, key: Bytes) -> int:
        return len(self._live(key) or ())

    def lindex(self, key: Bytes, index: Bytes) -> Bytes | None:
        found = self._live(key) or ()
        return found[int(index)] if int(index) < len(found) else None

    def lrange(self, key: Bytes, first: Bytes, last: Bytes) -> list[Bytes]:
        found = self._live(key) or []
        return list(found[int(first) :] if last == b"-1" else found[int(first) : int(last) + 1])

    def ltrim(self, key: Bytes, first: Bytes, last: Bytes) -> Bytes:
        if self._live(key) is not None:
            self.values[key] = self.lrange(key, first, last)
            self._trim(key)
        return b"OK"

    # -- sorted sets -------------------------------------------------------------------------------

    def zadd(self, key: Bytes, *pairs: Bytes) -> int:
        if only_known := pairs[0] == b"XX":
            pairs = pairs[1:]
            if self._live(key) is None:
                return 0
        found: Zset = self._made(key, Zset)
        before = len(found)
        for score, member in zip(pairs[::2], pairs[1::2], strict=True):
            if not only_known or member in found:
                found[member] = float(score)
        return len(found) - before

    zrem = hdel  # members, too, are the keys of a dictionary

    def zscore(self, key: Bytes, member: Bytes) -> Bytes | None:
        score = (self._live(key) or {}).get(member)
        return None if score is None else _encoded(score)

    def zmscore(self, key: Bytes, *members: Bytes) -> list[Bytes | None]:
        return [self.zscore(key, member) for member in members]

    def zcard(self, key: Bytes) -> int:
        return len(self._live(key) or ())

    def zpopmax(self, key: Bytes) -> list[Bytes]:
        found: Zset | None = self._live(key)
        if found is None:
            return []
        score, member = found.ordered()[-1]
        self.zrem(key, member)
        return [member, _encoded(score)]

    def _between(self, key: Bytes, low: Bytes, high: Bytes) -> list[tuple[float, Bytes]]:
        found: Zset = self._live(key) or Zset()
        least, most = _bound(low, True), _bound(high, False)
        return [pair for pair in found.ordered() if least <= pair[0] <= most]

    def zcount(self, key: Bytes, low: Bytes, high: Bytes) -> int:
        return len(self._between(key, low, high))

    def zrangebyscore(self, key: Bytes, low: Bytes, high: Bytes, *options: Bytes) -> list[Bytes]:
        found = self._between(key, low, high)
        if b"LIMIT" in options:
            offset, count = map(int, options[options.index(b"LIMIT") + 1 :][:2])
            found = found[offset : offset + count]
        return _listed(found, b"WITHSCORES" in options)

    def zrange(self, key: Bytes, first: Bytes, last: Bytes, *options: Bytes) -> list[Bytes]:
        found: Zset = self._live(key) or Zset()
        ordered = found.ordered()
        return _listed(ordered[int(first) :][: None if last == b"-1" else int(last) + 1], bool(options))

    def zremrangebyscore(self, key: Bytes, low: Bytes, high: Bytes) -> int:
        gone = [member for _, member in self._between(key, low, high)]
        return self.zrem(key, *gone) if gone else 0


# By name; `del` is a word of Python.
_COMMANDS: dict[Any, Callable[..., Any]] = {
    {"delete": "del"}.get(name, name).upper().encode(): command
    for name, command in vars(Store).items()
    if callable(command) and not name.startswith("_") and name not in ("run", "endless")
}


def _listed(pairs: Sequence[tuple[float, Bytes]], scores: bool) -> list[Bytes]:
    if not scores:
        return [member for _, member in pairs]
    return [part for score, member in pairs for part in (member, _encoded(score))]
