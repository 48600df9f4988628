"""Connections to a simulated Redis: what is sent arrives in order, late, or not at all, as the seed says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Literal

import redis

from batcher.connection.scripts import call, script_source
from batcher.core.commands import Command
from batcher.shards import Shard
from tests.simulation.loop import SimulatedLoop
from tests.simulation.store import Store

Reply = Any
Words = Sequence[Any]

LOADING = redis.exceptions.ResponseError("LOADING Redis is loading the dataset in memory")
# By how much the clock of Redis differs from that of the loop.
EPOCH_S = 1_700_000_000.0
DELAY_S = (0.0001, 0.0006)
SLOW_S = (0.02, 2.5)
# How probable it is for each message that its connection breaks, and that it is slow.
UNSTEADY = 0.03, 0.03


class Weather:
    """What the network does to a process. `breaks` and `slow` are probabilities, of each message."""

    def __init__(self) -> None:
        self.breaks = self.slow = 0.0
        self.refused_until = self.silent_until = 0.0


class Network:
    """All connections to the server of one shard.

    `trace`: each command that ran: when, for whom at which shard, and its reply.
    """

    def __init__(
        self, loop: SimulatedLoop, random: Random, shard: Shard, trace: list[tuple[Any, ...]]
    ) -> None:
        self.loop, self.random, self.shard = loop, random, shard
        self.clock_s = EPOCH_S
        self.store = Store(lambda: self.clock_s + loop.time())
        self.trace = trace
        self.links: list[Link] = []
        self.loading_until = 0.0
        self.troubled = True
        # Lists that Redis loses as soon as there is anything in them, and until when.
        self.lost_lists: dict[bytes, float] = {}
        self._weather: dict[str, Weather] = {}

    def weather(self, owner: str) -> Weather:
        return self._weather.setdefault(owner, Weather())

    def clear_up(self) -> None:
        """From now on, nothing goes wrong."""
        self.troubled = False
        self._weather.clear()

    def delay_s(self, owner: str) -> float:
        slow = self.random.random() < self.weather(owner).slow
        return self.random.uniform(*(SLOW_S if slow else DELAY_S))

    def breaks(self, owner: str) -> bool:
        return self.random.random() < self.weather(owner).breaks

    def cut(self, owner: str = "") -> None:
        """Breaks the connections of one process, or all. What is on its way is lost."""
        for link in [link for link in self.links if owner in ("", link.owner)]:
            link.cut()

    def trouble(self, owner: str, kind: Literal["cut", "silence", "unsteady"], until: float) -> None:
        """See `plan.Kind`."""
        weather = self.weather(owner)
        if kind == "cut":
            weather.refused_until = until
            self.cut(owner)
        elif kind == "silence":
            weather.silent_until = until
        else:
            weather.breaks, weather.slow = UNSTEADY

    def restart(self, *, empty: bool, loads_s: float) -> None:
        """The server restarts, and forgets its scripts."""
        self.cut()
        self.store.run([b"SCRIPT", b"FLUSH"])
        if empty:
            self.store.run([b"FLUSHALL"])
        self.loading_until = self.loop.time() + loads_s

    def key(self, name: str) -> bytes:
        return f"{self.shard.prefix}:{name}".encode()

    def note(self, owner: str, *words: object) -> None:
        self.trace.append((round(self.loop.time(), 6), owner, self.shard.number, *words))

    def run(self, owner: str, words: Words) -> Reply:
        loading = self.loop.time() < self.loading_until
        reply = LOADING if loading else self.store.run(words)
        self.note(owner, _name(words), str(reply) if isinstance(reply, Exception) else reply)
        for key, until in self.lost_lists.items():
            if self.loop.time() < until and self.store.exists(key):
                self.store.run([b"DEL", key])
        for link in [*self.links]:
            link.serve()
        return reply


class Way:
    """One direction of a connection."""

    def __init__(self, network: Network, owner: str, receive: Callable[[Any], None]) -> None:
        self._network, self._owner, self._receive = network, owner, receive
        self._items: deque[Any] = deque()
        self._last = 0.0

    def put(self, item: Any) -> None:
        loop = self._network.loop
        self._last = max(self._last, loop.time() + self._network.delay_s(self._owner))
        self._items.append(item)
        loop.call_at(self._last, self._arrive)

    def _arrive(self) -> None:
        silent_until = self._network.weather(self._owner).silent_until
        if self._network.loop.time() < silent_until:
            self._network.loop.call_at(silent_until, self._arrive)
        elif self._items:
            self._receive(self._items.popleft())

    def lose(self) -> None:
        self._items.clear()


_END = object()


class Link:
    """One connection. `on_reply` and `on_lost` are its client's."""

    def __init__(self, network: Network, owner: str) -> None:
        self.owner = owner
        self.open = True
        self.on_reply: Callable[[Reply], None] = lambda reply: None
        self.on_lost: Callable[[], None] = lambda: None
        self._network = network
        self._up, self._down = Way(network, owner, self._asked), Way(network, owner, self._answered)
        self._waiting: deque[Words] = deque()
        # What a BLPOP waits for: the list, and until when.
        self._blocked: tuple[bytes, float] | None = None
        network.links.append(self)

    # -- the client's end --------------------------------------------------------------------------

    def send(self, commands: Sequence[Words]) -> None:
        if self.open:
            self._up.put(commands)

    def close(self) -> None:
        """The client ends the connection, which the server hears of later."""
        if self.open:
            self.open = False
            self._up.put(_END)

    def _answered(self, reply: Reply) -> None:
        if self.open and reply is _END:
            self.open = False
            self.on_lost()
        elif self.open:
            self.on_reply(reply)

    # -- the server's end --------------------------------------------------------------------------

    def cut(self) -> None:
        """Neither end hears what is on its way. The client finds the connection closed."""
        self._up.lose()
        self._down.lose()
        self._forget()
        self._down.put(_END)

    def _forget(self) -> None:
        self._waiting.clear()
        self._blocked = None
        if self in self._network.links:
            self._network.links.remove(self)

    def _asked(self, commands: Any) -> None:
        if commands is _END:
            self._forget()
        elif self._network.breaks(self.owner):
            self.cut()
        else:
            self._waiting.extend(commands)
            self._work()

    def _work(self) -> None:
        while self._waiting and self._blocked is None:
            words = self._waiting.popleft()
            if words[0] == b"BLPOP":
                end = self._network.loop.time() + float(words[2])
                self._blocked = words[1], end
                self._network.loop.call_at(end, self._time_over)
                self.serve()
            else:
                self._answer(self._network.run(self.owner, words))

    def serve(self) -> None:
        """Ends the wait for a list that has an item by now."""
        if self._blocked is not None and self._network.store.exists(self._blocked[0]):
            key, _ = self._blocked
            self._blocked = None
            self._answer([key, self._network.store.run([b"LPOP", key])])
            self._network.note(self.owner, "woken", key)
            self._network.loop.call_soon(self._work)

    def _time_over(self) -> None:
        if self._blocked is not None and self._blocked[1] <= self._network.loop.time():
            self._blocked = None
            self._answer(None)
            self._work()

    def _answer(self, reply: Reply) -> None:
        self._down.put(reply)
        if self._network.breaks(self.owner):
            self.cut()


_SCRIPTS: dict[bytes, str] = {}


def _name(words: Words) -> str:
    """What a command is called in a trace."""
    if words[0] not in (b"EVAL", b"EVALSHA"):
        return bytes(words[0]).decode()
    if not _SCRIPTS:
        for command in Command.__subclasses__():
            _SCRIPTS[call(command.script, known=True)[1].encode()] = command.script
            _SCRIPTS[script_source(command.script).encode()] = command.script
    return _SCRIPTS.get(words[1], "?")
