"""The search of `make search`, for as long as the suite has time. A failure prints its shortest history."""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest
import redis

from tests.search.planted import PLANTED, Fault, planted
from tests.search.queue_machine import search
from tests.servers import RedisServer


@pytest.fixture
def redis_client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    client = redis_server.client()
    yield client
    client.close()


def test_no_history_loses_a_text_or_answers_it_wrongly() -> None:
    search([fakeredis.FakeRedis(version=(7,))], 20)


@pytest.mark.redis
def test_no_history_of_a_real_server_does(redis_client: redis.Redis) -> None:
    search([redis_client], 160)


@pytest.mark.redis
def test_a_real_server_does_the_same_as_the_pretended_one(redis_client: redis.Redis) -> None:
    search([redis_client, fakeredis.FakeRedis(version=(7,))], 20)


# The others take longer to find: `make search SEARCH=--planted`.
SOON = ("a cancel keeps the cost", "a claim ignores leases", "a join forgets who waits already")


@pytest.mark.redis
@pytest.mark.parametrize(
    "fault", [fault for fault in PLANTED if fault.name in SOON], ids=lambda one: one.name
)
def test_a_planted_fault_is_found(redis_client: redis.Redis, fault: Fault) -> None:
    with planted(fault), pytest.raises((AssertionError, ExceptionGroup)):
        search([redis_client], 500, seed=1, shrink=False)
