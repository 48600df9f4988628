"""What a claim takes from the bulk lane beside interactive entries, on fakeredis and on a real Redis."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from batcher.core.commands import Enqueue, EnqueueAll
from batcher.messages import Lane
from batcher.worker.heartbeat import HeartbeatQueue
from tests.fakes import heartbeat_queue

Ask = Callable[[str, int, Lane], None]


@pytest.fixture
def queue(client: redis.Redis) -> HeartbeatQueue:
    return heartbeat_queue(client, "lane", "w", lease_ms=2000, max_attempts=3, result_ms=1000)


@pytest.fixture
def ask(queue: HeartbeatQueue) -> Ask:
    def enqueue(name: str, count: int, lane: Lane) -> None:
        ids = [f"{name}{at}" for at in range(count)]
        queue.run([EnqueueAll([Enqueue(ids, ["text"] * count, [10] * count, "api", lane, 60_000, 10**6)])])

    return enqueue


def claimed(queue: HeartbeatQueue, most_cost: int, bulk_cost: int) -> tuple[int, int]:
    """How many of each lane one claim takes."""
    lanes = [entry.lane for entry in queue.claim(256, most_cost, bulk_cost).entries]
    return lanes.count("interactive"), lanes.count("bulk")


def test_one_interactive_entry_is_not_joined_by_a_whole_pass_of_bulk(queue: HeartbeatQueue, ask: Ask) -> None:
    ask("b", 100, "bulk")
    ask("x", 1, "interactive")
    interactive, bulk = claimed(queue, 640, 20)
    assert interactive == 1
    assert bulk <= 2


def test_bulk_joins_them_up_to_its_own_measure(queue: HeartbeatQueue, ask: Ask) -> None:
    ask("b", 100, "bulk")
    ask("x", 3, "interactive")
    assert claimed(queue, 640, 400) == (3, 37)


def test_bulk_keeps_its_eighth_beside_many_who_wait(queue: HeartbeatQueue, ask: Ask) -> None:
    ask("b", 100, "bulk")
    ask("x", 200, "interactive")
    interactive, bulk = claimed(queue, 640, 20)
    assert (interactive, bulk) == (56, 8)


def test_ahead_of_the_end_of_a_pass_only_people_are_claimed(queue: HeartbeatQueue, ask: Ask) -> None:
    ask("b", 10, "bulk")
    assert claimed(queue, 640, 0) == (0, 0)
    ask("x", 2, "interactive")
    assert claimed(queue, 640, 0)[0] == 2
