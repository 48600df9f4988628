"""The checker of histories sees what it should see, and nothing where all is well."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest
import redis

from batcher.core.commands import Enqueue, EnqueueAll
from batcher.messages import Failure, Prediction, entry_id, fragment
from batcher.worker.heartbeat import HeartbeatQueue
from tests.chaos.history import Call, History, Observer, Outcome
from tests.fakes import heartbeat_queue
from tests.search.planted import PLANTED, planted
from tests.servers import RedisServer

TEXT = "a text"
ID = entry_id(TEXT)
ANSWER = Prediction(fragment(("N", "P"), (0.25, 0.75)), "rev", 3).encode()
FAILURE = Failure("inference_failed", "it cannot be read").encode()


def history(*calls: tuple[float, float, Outcome | None], stored: list[tuple[float, Outcome]]) -> History:
    made = History()
    for began, ended, outcome in calls:
        made.calls.setdefault(ID, []).append(Call(began, ended, outcome))
    made.stored[ID] = stored
    return made


@pytest.mark.parametrize(
    "legal",
    [
        history((1, 3, "answer"), (2, 4, "answer"), (9, 9.1, "answer"), stored=[(2.5, "answer")]),
        history(
            (1, 3, "inference_failed"), (4, 6, "answer"), stored=[(2, "inference_failed"), (5, "answer")]
        ),
        history((1, 3, "inference_failed"), (2, 4, "inference_failed"), stored=[(2.5, "inference_failed")]),
        history((1, 3, "poison"), (30, 30.1, "poison"), stored=[(2, "poison")]),
        history((1, 3, None), (4, 5, "answer"), stored=[(3.5, "answer")]),
    ],
    ids=["shared and kept", "a failure, then an answer", "a shared failure", "poison is kept", "one left"],
)
def test_a_history_with_a_legal_order_has_no_fault(legal: History) -> None:
    assert legal.faults(10) == []


@pytest.mark.parametrize(
    ("illegal", "fault"),
    [
        (history((1, 3, "answer"), stored=[]), "which no run"),
        (history((1, 3, "answer"), stored=[(4, "answer")]), "which no run"),
        (history((1, 3, "answer"), stored=[(0.5, "answer")]), "before it was asked"),
        (
            history((1, 3, "inference_failed"), (4, 5, "inference_failed"), stored=[(2, "inference_failed")]),
            "which no run between 4.000 and 5.000",
        ),
        (history((1, 3, "poison"), (70, 71, "poison"), stored=[(2, "poison")]), "which no run"),
        (history((1, 9, "answer"), stored=[(2, "answer"), (5, "answer")]), "and again"),
        (history((1, 30, "answer"), stored=[(2, "answer")]), "took 29.0 s"),
    ],
    ids=[
        "never computed",
        "not yet computed",
        "too early",
        "an older failure",
        "old poison",
        "twice",
        "late",
    ],
)
def test_a_history_without_a_legal_order_has_one(illegal: History, fault: str) -> None:
    assert any(fault in one for one in illegal.faults(10))


def test_what_nobody_saw_is_no_fault_and_an_accident_may_cost_a_run() -> None:
    unseen = history((1, 3, "answer"), stored=[])
    unseen.unseen.append((2, 2.5))
    twice = history((1, 9, "answer"), stored=[(2, "answer"), (5, "answer")])
    twice.accidents.append(3)
    assert unseen.faults(10) == twice.faults(10) == []


def old_failures() -> AbstractContextManager[None]:
    return planted(next(fault for fault in PLANTED if fault.name.startswith("finding 04")))


@pytest.fixture
def clients(redis_server: RedisServer) -> Iterator[tuple[redis.Redis, redis.Redis]]:
    with redis_server.client() as client, redis_server.client() as watching:
        yield client, watching


def ask(worker: HeartbeatQueue, seen: History, result: bytes) -> None:
    """A caller asks; if nothing is known, the worker takes the text and sends this result."""
    began = time.time()
    enqueue = Enqueue([ID], [TEXT], [1], "a", "interactive", 10_000, 100)
    ((answer,),) = worker.run([EnqueueAll([enqueue])])
    if answer.states[0].kind == "queued":
        worker.claim(1, 10, 10)
        worker._client.set("{millrace:2:t}:failed:" + ID, "another worker", px=60_000)
        worker.complete([(ID, result)])
    else:
        result = answer.states[0].result
    seen.add_call(TEXT, began, "answer" if result == ANSWER else "inference_failed")


@pytest.mark.redis
@pytest.mark.parametrize(
    ("fault", "found"),
    [(contextlib.nullcontext, False), (old_failures, True)],
    ids=["as it is", "with a planted fault"],
)
def test_the_checker_sees_a_planted_fault_of_the_queue(
    clients: tuple[redis.Redis, redis.Redis], fault: type[AbstractContextManager[None]], found: bool
) -> None:
    """The fault is that an old failure answers a new caller."""
    client, seen = clients[0], History()
    observer = Observer(clients[1], seen)
    assert observer.watching.wait(10)
    with fault():
        worker = heartbeat_queue(client, "t", "w", lease_ms=2000, max_attempts=3, result_ms=60_000)
        for result in (FAILURE, FAILURE, ANSWER):
            ask(worker, seen, result)
    observer.close()
    faults = seen.faults(10)
    assert bool(faults) == found, faults
