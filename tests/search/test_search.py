"""The searches of `make search`, for as long as the suite has time. A failure prints its shortest history."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
import redis

from batcher.connection import scripts
from batcher.messages import Failure
from tests.search.jobs_machine import JobsMachine
from tests.search.planted import PACKAGES, PLANTED, Fault, planted
from tests.search.queue_machine import QueueMachine
from tests.search.queue_model import Model, Worker
from tests.search.rounds import search
from tests.servers import RedisServer

# How many histories the suite has time for: fakeredis, real, and of both compared.
MACHINES = {QueueMachine: (10, 60, 10), JobsMachine: (5, 30, 5)}


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = redis_server.client()
    yield client
    client.close()


@pytest.fixture(params=MACHINES, ids=lambda one: one.__name__)
def machine(request: pytest.FixtureRequest) -> type:
    chosen: type = request.param
    return chosen


def test_no_history_loses_a_text_or_answers_it_wrongly(machine: type) -> None:
    search(machine, [fakeredis.FakeRedis(version=(7,))], MACHINES[machine][0])


@pytest.mark.redis
def test_no_history_of_a_real_server_does(machine: type, redis_client: redis.Redis) -> None:
    search(machine, [redis_client], MACHINES[machine][1])


@pytest.mark.redis
def test_a_real_server_does_the_same_as_the_fake_one(machine: type, redis_client: redis.Redis) -> None:
    search(machine, [redis_client, fakeredis.FakeRedis(version=(7,))], MACHINES[machine][2])


# The others take longer to find: `make search SEARCH=--planted`.
SOON = (
    "a join forgets the requests that wait already",
    "a heartbeat is refused while memory is full",
    "finding 03: another job's results",
    "a deleted job holds its bytes",
)


@pytest.mark.parametrize("fault", PLANTED, ids=lambda one: one.name)
def test_a_planted_fault_has_its_place(fault: Fault) -> None:
    package = PACKAGES[fault.machine]
    correct = scripts.lua_source(fault.script, package)
    with planted(fault):
        assert scripts.lua_source(fault.script, package) != correct


@pytest.mark.redis
@pytest.mark.parametrize(
    "fault", [fault for fault in PLANTED if fault.name in SOON], ids=lambda one: one.name
)
def test_a_planted_fault_is_found(redis_client: redis.Redis, fault: Fault) -> None:
    machine = QueueMachine if fault.machine == "queue" else JobsMachine
    with planted(fault), pytest.raises((AssertionError, ExceptionGroup, redis.exceptions.OutOfMemoryError)):
        search(machine, [redis_client], 500, seed=1, shrink=False)


def test_a_text_that_was_given_up_on_stays_so_when_its_workers_are_heard_of_again() -> None:
    """The model took the result that is kept for a wrong one. Found with seed 24."""
    model = Model(workers={name: Worker(name, "r1", tried=0) for name in ("w1", "w2")})
    poison = Failure("poison", "2 workers died").encode()
    model.alone["a"] = [("w1", 5)]
    with pytest.raises(AssertionError, match="its workers live"):
        model.check_result("a", poison)
    model.alone["a"].append(("w2", 5))
    model.check_result("a", poison)
    model.workers["w2"].tried = 9
    model.check_result("a", poison)
    model.forget("a")
    with pytest.raises(AssertionError, match="its workers live"):
        model.check_result("a", poison)
