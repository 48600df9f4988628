"""Schedules of hubs and workers, as many as the suite has time for. A failure prints its seed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import fakeredis
import pytest
import redis

from batcher.connection.outage import jitter
from tests.simulation import network as network_module
from tests.simulation.plan import Accident, Plan, draw
from tests.simulation.planted import PLANTED, Fault
from tests.simulation.rounds import Broken, problems_of, search
from tests.simulation.schedule import Schedule
from tests.simulation.store import Store


def test_no_schedule_breaks_a_promise() -> None:
    search(range(30))


def test_finding_31_workers_that_left_a_shard_are_not_waited_for() -> None:
    """Two workers serve shard 0 while their home is cut off. Once they are back, it still lists them as idle.

    A text of shard 0 was answered after the next sweep, half a second later. As `--shrink` left the schedule.
    """
    start, cut = Accident(1.4153, "start", "", 0.05, 0), Accident(1.522, "cut", "", 0.05, 1)
    assert problems_of(Plan(7843, hubs=1, workers=1, shards=2, caches=False, accidents=[start, cut])) == []


def test_finding_37_a_helper_that_its_home_has_forgotten_goes_on_helping() -> None:
    """The Redis of the only worker's home restarts empty. Shard 0 asked there for help: none was idle."""
    assert problems_of(draw(2026125206)) == []


# The others take longer to find: `make search SEARCH="--machine simulation --planted"`.
SOON = (
    "a lost connection forgets commands",
    "a cancel leaks a task",
    "a budget is not enforced",
    "hints are mixed up",
)


@pytest.mark.parametrize("fault", [one for one in PLANTED if one.name in SOON], ids=lambda one: one.name)
def test_a_planted_fault_is_found(fault: Fault) -> None:
    with fault.inject(), pytest.raises(Broken):
        search(range(100), shrink=False)


@pytest.fixture
def another_thread_draws() -> Iterator[None]:
    """As one that an earlier test has left."""
    stop = threading.Event()

    def draws() -> None:
        while not stop.wait(0.0001):
            jitter(0, 1)

    thread = threading.Thread(target=draws)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("another_thread_draws")
def test_a_seed_gives_the_same_schedule_again() -> None:
    for seed in (1, 2, 3):
        first, second = Schedule(draw(seed)), Schedule(draw(seed))
        first.run()
        second.run()
        assert first.trace
        assert first.trace == second.trace


class Both(Store):
    """Runs each command on fakeredis, too, whose clock is the same: its reply must be the same."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self._other: Any = fakeredis.FakeRedis(server=fakeredis.FakeServer(version=(7,)))
        self._in_script = False
        self.compared = 0

    def run(self, words: Sequence[Any]) -> Any:
        if self._in_script or words[0] == b"INFO":
            return super().run(words)
        self._in_script = True
        reply = super().run(words)
        self._in_script = False
        with patch("time.time", self._now):
            try:
                other = self._other.execute_command(*words)
            except redis.exceptions.ResponseError as error:
                other = error
        assert comparable(reply) == comparable(other), words[0]
        self.compared += 1
        return reply


def comparable(reply: Any) -> Any:
    """redis-py reads some replies, and the order of a hash is open."""
    if isinstance(reply, list):
        return sorted(map(repr, map(comparable, reply)))
    if isinstance(reply, redis.exceptions.ResponseError):
        return "an error"
    if isinstance(reply, bytes) and reply.isdigit():
        return int(reply)
    return b"OK" if reply is True else reply


def test_the_simulated_redis_replies_as_fakeredis_does() -> None:
    with patch.object(network_module, "Store", Both):
        schedule = Schedule(draw(3))
        schedule.run()
    stores: list[Any] = [network.store for network in schedule.networks]
    assert schedule.problems == []
    assert sum(store.compared for store in stores) > 100
