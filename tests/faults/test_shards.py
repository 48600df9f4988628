"""Shards on real servers under load: one is killed and comes back, a slot moves, a master fails over.

ROUNDS (1) is how often each of these happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

import pytest
import redis

from tests.cluster import Cluster
from tests.servers import RedisServer, leftovers, needs_server
from tests.service import wait_until
from tests.shards import NAME, RealFleet, Traffic, check, until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]
SHARDS = 3
ROUNDS = int(os.environ.get("ROUNDS", "1"))


@pytest.fixture
async def fleet() -> AsyncIterator[Callable[..., RealFleet]]:
    made: list[RealFleet] = []

    def make(**settings: object) -> RealFleet:
        made.append(RealFleet(**settings))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def end(fleet: RealFleet, clients: Iterable[redis.Redis]) -> None:
    """Ends all hubs and workers, of which no connection may be left."""
    await fleet.close()

    def connected() -> list[str]:
        return [
            one["user"]
            for client in clients
            for one in client.client_list()
            if one["user"] in ("api", "worker")
        ]

    await until(lambda: not connected(), "all connections to be closed", timeout_s=20)


async def test_a_server_that_is_killed_fails_its_own_texts_only_and_heals(
    redis_servers: Callable[..., RedisServer], fleet: Callable[..., RealFleet]
) -> None:
    servers = [redis_servers() for _ in range(SHARDS)]
    all_of_them = fleet(redis_url=" ".join(server.url for server in servers))
    hub = await all_of_them.start(workers=3)
    traffic = Traffic(hub)
    await traffic.more(5, range(SHARDS))
    for _ in range(ROUNDS):
        refused = traffic.refused[1]
        servers[1].kill()
        await until(lambda: traffic.refused[1] > refused + 3, "refusals")  # noqa: B023 - used at once
        await traffic.more(20, (0, 2))
        assert hub.shards_up == (True, False, True)
        await asyncio.to_thread(servers[1].start)
        await until(lambda: all(hub.shards_up), "the shard to be back")
        await traffic.more(5, range(SHARDS))
    await traffic.stop()
    assert traffic.wrong == []
    assert set(traffic.refused) == {1}
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for server in servers]
        for client in clients:
            wait_until(lambda: not leftovers(client), "the queue to be empty")  # noqa: B023 - used at once
        await end(all_of_them, clients)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    binary = needs_server()
    made = Cluster(binary, NAME, SHARDS, replica=True)
    yield made
    made.close()


def key_counts(clients: Sequence[redis.Redis]) -> list[int]:
    return [client.dbsize() for client in clients]


async def test_slots_move_under_load_without_a_wrong_or_lost_answer(
    cluster: Cluster, fleet: Callable[..., RealFleet]
) -> None:
    """While a slot moves, its shard stands still: neither node runs a script for it."""
    all_of_them = fleet(redis_url=cluster.url, shards=SHARDS)
    hub = await all_of_them.start(workers=2)
    await check(hub, *(f"text {number}" for number in range(60)))
    assert all(count > 0 for count in key_counts(cluster.clients[:SHARDS])), "each master has a shard"
    traffic = Traffic(hub)
    for target in (1, 2) * ROUNDS:
        await traffic.more(5, range(SHARDS))
        cluster.begin_move(2, target)
        await asyncio.sleep(0.1)
        counted = cluster.clients[target].execute_command("CLUSTER", "COUNTKEYSINSLOT", cluster.slots[2])
        assert counted == 0
        await asyncio.to_thread(cluster.end_move, 2, target)
    await traffic.more(10, range(SHARDS))
    await traffic.stop()
    assert traffic.wrong == []
    assert set(traffic.refused) <= {2}
    again = await check(hub, *(f"text {number}" for number in range(60)))
    assert len(again) == 60
    await end(all_of_them, cluster.clients)


async def test_a_master_that_fails_over_delays_its_own_texts_only(
    cluster: Cluster, fleet: Callable[..., RealFleet]
) -> None:
    all_of_them = fleet(redis_url=cluster.url, shards=SHARDS)
    hub = await all_of_them.start(workers=2)
    traffic = Traffic(hub)
    await traffic.more(5, range(SHARDS))
    for master, replica in itertools.islice(itertools.cycle([(0, SHARDS), (SHARDS, 0)]), ROUNDS):
        assert cluster.clients[master].execute_command("ROLE")[0] == b"master"
        cluster.servers[master].kill()
        await traffic.more(30, (1, 2))
        await traffic.more(5, range(SHARDS))
        assert cluster.clients[replica].execute_command("ROLE")[0] == b"master"
        await asyncio.to_thread(cluster.servers[master].start)
        await until(lambda: cluster.replicated(replica), "the old master to follow")  # noqa: B023 - used at once
    await traffic.stop()
    assert traffic.wrong == []
    assert set(traffic.refused) <= {0}
    assert all(hub.shards_up)
    await end(all_of_them, cluster.clients)
