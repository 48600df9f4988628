"""Faults of a hub or a worker that the simulation must find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from unittest.mock import patch

from batcher.connection.outage import REDIS_ERRORS
from batcher.connection.pipeline import Pipeline
from batcher.hub.dispatcher import Dispatcher
from batcher.hub.hub import HintList
from batcher.hub.pending import PendingEntry, Waiter
from batcher.hub.slow_poll import SlowPoll
from batcher.worker.heartbeat import Heartbeat


class Fault(NamedTuple):
    """`inject` replaces a part of the product meanwhile."""

    name: str
    inject: Callable[[], AbstractContextManager[Any]]


def _forgets(self: Pipeline, error: Exception) -> None:
    """After a lost connection, commands without a reply are neither sent again nor failed."""
    self._disconnect()
    self._sent.clear()
    self._schedule()


def _leaks(self: Dispatcher, entry: PendingEntry) -> None:
    asyncio.get_running_loop().create_task(asyncio.Event().wait())


_wait = Waiter.wait


async def _without_budget(self: Waiter, budget_s: float) -> None:
    await _wait(self, 1e9)


_let_go = Dispatcher.let_go


def _keeps(self: Dispatcher, waiter: Waiter, held: Iterable[PendingEntry]) -> None:
    _let_go(self, waiter, [entry for entry in held if entry.outcome is not None])


_pop = HintList.pop


async def _mixes_up(self: HintList) -> list[tuple[str, bytes]]:
    hints = await _pop(self)
    return list(zip([entry for entry, _ in hints], [raw for _, raw in hints][::-1], strict=True))


async def _never_polls(self: SlowPoll) -> None:
    pass


def _gives_up(self: Heartbeat) -> bool:
    """A heartbeat that ends with its first error."""
    try:
        self._queue.heartbeat(self._leases.copy(), *self._records(), self._ttl_ms)
    except REDIS_ERRORS:
        return False
    return True


PLANTED = (
    Fault("a lost connection forgets commands", lambda: patch.object(Pipeline, "_lost", _forgets)),
    Fault("a cancel leaks a task", lambda: patch.object(Dispatcher, "_withdraw", _leaks)),
    Fault("a budget is not enforced", lambda: patch.object(Waiter, "wait", _without_budget)),
    Fault("a request that goes away stays", lambda: patch.object(Dispatcher, "let_go", _keeps)),
    Fault("hints are mixed up", lambda: patch.object(HintList, "pop", _mixes_up)),
    Fault("a lost hint is not looked for", lambda: patch.object(SlowPoll, "poll", _never_polls)),
    Fault("a heartbeat ends with an outage", lambda: patch.object(Heartbeat, "send", _gives_up)),
)
