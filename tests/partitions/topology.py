"""The two kinds of Redis that fail over by themselves, each server on a separate host."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.crc import key_slot

from batcher.shards import Shard, shards_of
from tests.partitions.network import Host, Network
from tests.servers import RedisServer
from tests.service import Process, wait_until

PORT, SENTINEL_PORT = 6379, 26379
SHARDS = 3
# How long a server may be silent before it counts as down.
DOWN_MS = 1000


@dataclass(frozen=True, slots=True)
class Node:
    """A Redis server on its host; `group` has the number of those that hold the same data."""

    host: Host
    server: RedisServer
    group: int

    def is_master(self) -> bool:
        """Whether it says so now, asked over its socket, which no cut concerns."""
        with contextlib.suppress(redis.RedisError, OSError), self.server.client() as client:
            return bool(client.execute_command("ROLE")[0] == b"master")
        return False


class Topology:
    """`nodes` by name, `sentinels` (names of hosts), and how the processes of the service reach them.

    Made, then started: `close()` also removes what a failed start has left.
    """

    name: str
    url: str
    jobs_url: str

    def __init__(self, network: Network, binary: Path, options: Sequence[str] = ()) -> None:
        self._options = options
        self.nodes: dict[str, Node] = {}
        self.sentinels: list[str] = []
        self._network, self._binary = network, binary
        self._folder = tempfile.TemporaryDirectory(prefix="partitions-")
        self._processes: list[Process] = []

    @property
    def shards(self) -> Sequence[Shard]:
        return shards_of("default", [self.url], 1)

    @property
    def jobs_node(self) -> str:
        """The only server of jobs, where they are apart; else empty."""
        return ""

    def start(self) -> None:
        """Starts its servers; returns once they know each other."""
        raise NotImplementedError

    def masters(self) -> list[str]:
        """Names of the nodes that say that they are masters."""
        return [name for name, node in self.nodes.items() if node.is_master()]

    def close(self) -> None:
        for process in self._processes:
            process.close()
        for node in self.nodes.values():
            node.server.close()
        self._folder.cleanup()

    def _node(self, name: str, group: int, *options: str) -> Node:
        host = self._network.host(name)
        words = ("--bind", f"{host.address} 127.0.0.1", "--port", str(PORT), "--protected-mode", "no")
        words += ("--repl-diskless-sync-delay", "0", "--repl-timeout", "3", "--repl-ping-replica-period", "1")
        server = RedisServer(self._binary, (*words, *options), prefix=host.command()).start()
        self.nodes[name] = Node(host, server, group)
        return self.nodes[name]


class Sentinels(Topology):
    """A master, a replica, and three sentinels of which two must agree."""

    name = "sentinel"

    def start(self) -> None:
        master = self._node("redis1", 0, *self._options)
        self._node("redis2", 0, "--replicaof", f"{master.host.address} {PORT}", *self._options)
        hosts = [self._network.host(f"sentinel{number}") for number in (1, 2, 3)]
        self.sentinels = [host.name for host in hosts]
        for host in hosts:
            self._sentinel(host, master.host)
        listed = ",".join(f"{host.address}:{SENTINEL_PORT}" for host in hosts)
        self.url = self.jobs_url = f"redis+sentinel://admin:admin@{listed}/service/0"
        with master.server.client() as client:
            wait_until(lambda: _replicated(client), "the replica", 60)
        for host in hosts:
            wait_until(lambda host=host: self._complete(host), "the sentinels", 60)

    def _sentinel(self, host: Host, master: Host) -> None:
        lines = [
            f"port {SENTINEL_PORT}",
            f"bind {host.address}",
            "protected-mode no",
            f"dir {self._folder.name}",
            f"sentinel monitor service {master.address} {PORT} 2",
            f"sentinel down-after-milliseconds service {DOWN_MS}",
            "sentinel failover-timeout service 2000",
            "sentinel auth-user service admin",
            "sentinel auth-pass service admin",
        ]
        path = Path(self._folder.name) / f"{host.name}.conf"
        path.write_text("\n".join(lines) + "\n")
        words = host.command(str(self._binary), str(path), "--sentinel")
        self._processes.append(Process(host.name, words, {}, Path(self._folder.name)))

    def _complete(self, host: Host) -> bool:
        with contextlib.suppress(redis.RedisError), redis.Redis(host.address, SENTINEL_PORT) as client:
            (reply,) = client.execute_command("SENTINEL", "MASTERS")
            facts = dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else reply
            facts = {_text(key): _text(value) for key, value in facts.items()}
            return (facts["num-other-sentinels"], facts["num-slaves"]) == ("2", "1")
        return False


class Clustered(Topology):
    """Three masters with a shard each, a replica of each, and one more server for jobs."""

    name = "cluster"

    def start(self) -> None:
        words = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(DOWN_MS)]
        words += ["--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"]
        words += self._options
        for number in range(2 * SHARDS):
            self._node(f"redis{number + 1}", number % SHARDS, *words)
        jobs = self._node("redis-jobs", SHARDS)
        self.jobs_url = f"redis://admin:admin@{jobs.host.address}:{PORT}/0"
        members = [node for node in self.nodes.values() if node.group < SHARDS]
        listed = ",".join(f"{node.host.address}:{PORT}" for node in members)
        self.url = f"redis+cluster://admin:admin@{listed}"
        self._join([node.server.client() for node in members], members)

    @property
    def shards(self) -> Sequence[Shard]:
        return shards_of("default", [self.url], SHARDS)

    @property
    def jobs_node(self) -> str:
        return "redis-jobs"

    def _join(self, clients: Sequence[redis.Redis], members: Sequence[Node]) -> None:
        owner = {key_slot(shard.prefix.encode()): shard.number for shard in self.shards}
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < SHARDS:
                slots = [slot for slot in range(16384) if owner.get(slot, slot % SHARDS) == number]
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
            client.execute_command("CLUSTER", "MEET", members[0].host.address, PORT)
        known = b"cluster_known_nodes:%d" % len(clients)
        wait_until(lambda: all(_knows(client, known) for client in clients), "the nodes to meet", 60)
        for number, client in enumerate(clients[SHARDS:]):
            client.execute_command("CLUSTER", "REPLICATE", clients[number].execute_command("CLUSTER", "MYID"))
        for client in clients[:SHARDS]:
            wait_until(lambda client=client: _replicated(client), "the replicas", 60)
        for client in clients:
            client.close()


def _knows(client: redis.Redis, known: bytes) -> bool:
    reply = client.execute_command("CLUSTER", "INFO")
    return all(fact in reply for fact in (b"cluster_state:ok", b"cluster_slots_ok:16384", known))


def _replicated(client: redis.Redis) -> bool:
    state = client.info("replication").get("slave0", {})
    return bool(state) and state["state"] == "online"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
