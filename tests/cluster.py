"""A real Redis Cluster for tests: each master has the slot of one shard."""

from __future__ import annotations

from pathlib import Path

import redis
from redis.crc import key_slot

from batcher.shards import shards_of
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.service import wait_until


class Cluster:
    """As many masters as `shards`; with `replica`, one of the first is the last server.

    With `proxied`, clients are led through a proxy in front of each node (`proxies`).
    """

    def __init__(
        self, binary: Path, name: str, shards: int, *, replica: bool = False, proxied: bool = False
    ) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
        options += ["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"]
        self.proxies = [Proxy("127.0.0.1:1") for _ in range(shards)] if proxied else []
        announced = [["--cluster-announce-port", str(proxy.port)] for proxy in self.proxies]
        self.servers = [
            RedisServer(binary, options + (announced[number] if announced else []), tcp=True)
            for number in range(shards + replica)
        ]
        self.clients: list[redis.Redis] = []
        self.shards = shards_of(name, ["redis+cluster://"], shards)
        self.slots = [key_slot(shard.prefix.encode()) for shard in self.shards]
        self._shards = shards
        # The number of the master that has each shard.
        self.masters = list(range(shards))
        try:
            self._start(replica)
        except BaseException:
            self.close()
            raise

    def _start(self, replica: bool) -> None:
        for server in self.servers:
            server.start()
        for proxy, server in zip(self.proxies, self.servers, strict=False):
            proxy.point(server.url)
        self.clients = [server.client() for server in self.servers]
        self._divide()
        for client in self.clients[1:]:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        wait_until(self.agrees, "the nodes to know each other")
        if replica:
            self.clients[-1].execute_command("CLUSTER", "REPLICATE", self.id(0))
            wait_until(lambda: self.replicated(0), "the replica")

    def _divide(self) -> None:
        owner = {slot: number for number, slot in enumerate(self.slots)}
        for number, client in enumerate(self.clients[: self._shards]):
            slots = [slot for slot in range(16384) if owner.get(slot, slot % self._shards) == number]
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER", "ADDSLOTS", *slots)

    def agrees(self) -> bool:
        """Whether all nodes know each other and all slots."""
        replies = [client.execute_command("CLUSTER", "INFO") for client in self.clients]
        known = b"cluster_known_nodes:%d" % len(self.clients)
        wanted = (b"cluster_state:ok", b"cluster_slots_ok:16384", known)
        return all(fact in info for info in replies for fact in wanted)

    def replicated(self, master: int) -> bool:
        """Whether a replica of this master has all of its data."""
        state = self.clients[master].info("replication").get("slave0", {})
        return bool(state) and state["state"] == "online"

    def id(self, number: int) -> str:
        return self.clients[number].execute_command("CLUSTER", "MYID").decode()  # type: ignore[no-any-return]

    @property
    def url(self) -> str:
        ports = [proxy.port for proxy in self.proxies] or [server.port for server in self.servers]
        return "redis+cluster://admin:admin@" + ",".join(f"127.0.0.1:{port}" for port in ports)

    def begin_move(self, shard: int, target: int) -> None:
        """From now on, neither node runs a script for the shard."""
        source, slot = self.masters[shard], self.slots[shard]
        self._set_slot(target, slot, "IMPORTING", source)
        self._set_slot(source, slot, "MIGRATING", target)

    def end_move(self, shard: int, target: int) -> None:
        """Moves the keys, then the slot itself."""
        source, slot = self.masters[shard], self.slots[shard]
        wait_until(lambda: self._moved(source, slot, target), "the keys of a slot to move")
        for number in (target, source, *range(self._shards)):
            self._set_slot(number, slot, "NODE", target)
        self.masters[shard] = target

    def _moved(self, source: int, slot: int, target: int) -> bool:
        """Moves keys while the target takes them: some time after a restart. Whether all have moved."""
        old, port = self.clients[source], self.servers[target].port
        admin = ("AUTH2", "admin", "admin")
        try:
            while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                old.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, *admin, "KEYS", *keys)
        except redis.ResponseError as error:
            if not any(reason in str(error) for reason in ("CLUSTERDOWN", "IOERR")):
                raise
            return False
        return True

    def _set_slot(self, number: int, slot: int, how: str, other: int) -> None:
        self.clients[number].execute_command("CLUSTER", "SETSLOT", slot, how, self.id(other))

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for thing in (*self.proxies, *self.servers):
            thing.close()
