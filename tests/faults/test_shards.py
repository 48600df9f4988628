"""Shards on real servers under load: one is killed and comes back, a slot moves, a master fails over.

ROUNDS (1) is how often each of these happens.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest
import redis
from redis.crc import key_slot

from batcher.shards import hash_tag
from tests.mill import wait_until
from tests.servers import RedisServer, leftovers, server_binary
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


async def test_a_server_that_is_killed_fails_its_own_texts_only_and_heals(
    redis_servers: Callable[..., RedisServer], fleet: Callable[..., RealFleet]
) -> None:
    servers = [redis_servers() for _ in range(SHARDS)]
    hub = await fleet(redis_url=" ".join(server.url for server in servers)).start(workers=3)
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
    for server in servers:
        with server.client() as client:
            wait_until(lambda: not leftovers(client), "the queue to be empty")


class Cluster:
    """Masters, each with the slot of one shard, and a replica of the first."""

    def __init__(self, binary: object) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--appendonly", "no"]
        options += ["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"]
        self.servers = [RedisServer(binary, options, tcp=True).start() for _ in range(SHARDS + 1)]  # type: ignore[arg-type]
        self.clients = [server.client() for server in self.servers]
        self.slots = [key_slot(hash_tag(f"{NAME}:{k}" if k else NAME).encode()) for k in range(SHARDS)]
        owner = {slot: number for number, slot in enumerate(self.slots)}
        for number, client in enumerate(self.clients[:SHARDS]):
            slots = [slot for slot in range(16384) if owner.get(slot, slot % SHARDS) == number]
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER", "ADDSLOTS", *slots)
        for client in self.clients[1:]:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        wait_until(self.agrees, "the nodes to know each other")
        self.clients[-1].execute_command("CLUSTER", "REPLICATE", self.id(0))
        wait_until(lambda: self.replicated(0), "the replica")

    def agrees(self) -> bool:
        """Whether all nodes know each other and all slots."""
        told = [client.execute_command("CLUSTER", "INFO") for client in self.clients]
        known = b"cluster_known_nodes:%d" % len(self.clients)
        wanted = (b"cluster_state:ok", b"cluster_slots_ok:16384", known)
        return all(fact in info for info in told for fact in wanted)

    def replicated(self, master: int) -> bool:
        """Whether a replica of this master has all of its data."""
        state = self.clients[master].info("replication").get("slave0", {})
        return bool(state) and state["state"] == "online"

    def id(self, number: int) -> str:
        return self.clients[number].execute_command("CLUSTER", "MYID").decode()  # type: ignore[no-any-return]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def begin_move(self, slot: int, source: int, target: int) -> None:
        self._set_slot(target, slot, "IMPORTING", source)
        self._set_slot(source, slot, "MIGRATING", target)

    def end_move(self, slot: int, source: int, target: int) -> None:
        """Moves the keys, then the slot itself."""
        old, port = self.clients[source], self.servers[target].port
        while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            old.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        for number in (target, source, *range(SHARDS)):
            self._set_slot(number, slot, "NODE", target)

    def _set_slot(self, number: int, slot: int, how: str, other: int) -> None:
        self.clients[number].execute_command("CLUSTER", "SETSLOT", slot, how, self.id(other))

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for server in self.servers:
            server.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    binary = server_binary()
    if binary is None:
        pytest.skip("no redis-server")
    made = Cluster(binary)
    yield made
    made.close()


def key_counts(clients: Sequence[redis.Redis]) -> list[int]:
    return [client.dbsize() for client in clients]


async def test_slots_move_under_load_without_a_wrong_or_lost_answer(
    cluster: Cluster, fleet: Callable[..., RealFleet]
) -> None:
    """While a slot moves, its shard stands still: neither node runs a script for it."""
    jobs = {"redis_url": cluster.url, "shards": SHARDS}
    hub = await fleet(**jobs).start(workers=2)
    await check(hub, *(f"text {number}" for number in range(60)))
    assert all(count > 0 for count in key_counts(cluster.clients[:SHARDS])), "each master has a shard"
    traffic = Traffic(hub)
    slot = cluster.slots[2]
    for source, target in itertools.pairwise([2, *(1, 2) * ROUNDS]):
        await traffic.more(5, range(SHARDS))
        cluster.begin_move(slot, source, target)
        await asyncio.sleep(0.1)
        assert cluster.clients[target].execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 0
        await asyncio.to_thread(cluster.end_move, slot, source, target)
    await traffic.more(10, range(SHARDS))
    await traffic.stop()
    assert traffic.wrong == []
    assert set(traffic.refused) <= {2}
    again = await check(hub, *(f"text {number}" for number in range(60)))
    assert len(again) == 60


async def test_a_master_that_fails_over_delays_its_own_texts_only(
    cluster: Cluster, fleet: Callable[..., RealFleet]
) -> None:
    hub = await fleet(redis_url=cluster.url, shards=SHARDS).start(workers=2)
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
