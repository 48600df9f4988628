"""Redis as components/redis-sentinel starts it: three servers, each with a sentinel, on this machine."""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import trustme

from tests.faults.test_redis_restart import TEXTS, begun, check_end, create, kept
from tests.repo.manifests import K8S
from tests.servers import ROLES, SHIPPED, needs_server
from tests.service import Process, Service, wait_until
from tests.tools import needs

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


class Pods:
    """Three pods, at addresses that only this test uses, so that their ports are those of the cluster."""

    def __init__(self, folder: Path, *, tls: bool) -> None:
        network = f"127.{random.randrange(1, 250)}.{random.randrange(1, 250)}"
        self.hosts = [f"{network}.{number}" for number in (1, 2, 3)]
        self.folder, self.tls = folder, tls
        self.running: dict[tuple[str, str], Process] = {}
        if tls:
            authority = trustme.CA()
            authority.cert_pem.write_to_path(str(folder / "ca.crt"))
            certificate = authority.issue_cert(*self.hosts)
            certificate.private_key_pem.write_to_path(str(folder / "tls.key"))
            certificate.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))

    @property
    def url(self) -> str:
        sentinels = ",".join(f"{host}:26379" for host in self.hosts)
        scheme, options = ("rediss", f"?ssl_ca_certs={self.folder / 'ca.crt'}") if self.tls else ("redis", "")
        return f"{scheme}+sentinel://admin:admin@{sentinels}/millrace/0{options}"

    def start(self, host: str) -> None:
        """What a pod starts, with what its volume has."""
        data, run, etc = (self.folder / f"{name}-{host}" for name in ("data", "run", "etc"))
        for folder in (data, run, etc):
            folder.mkdir(exist_ok=True)
        # They are read-only in a pod; here, a sentinel has them rewritten.
        for path in (*SHIPPED.iterdir(), K8S / "components/redis-sentinel/sentinel.sh"):
            shutil.copy(path, etc)
        environment = {f"REDIS_{role.upper()}_PASSWORD": role for role in ROLES}
        environment |= {"REDIS_HOST": host, "REDIS_HOSTS": " ".join(self.hosts), "REDIS_DIR": str(data)}
        environment |= {"REDIS_USERS": str(run / "users.acl"), "REDIS_TLS": str(self.folder)}
        environment |= {"REDIS_SCHEME": "rediss" if self.tls else "redis"}
        words = ["--bind", host]
        if self.tls:  # as components/redis-tls has them
            words += ["--port", "0", "--tls-port", "6379"]
        for part, more in (("sentinel", []), ("redis", words)):
            command = ["sh", str(etc / "sentinel.sh"), part, *(more or words[:2])]
            self.running[host, part] = Process(f"{part}-{host}", command, environment, self.folder)

    def kill(self, host: str) -> None:
        """A node is lost."""
        for part in ("redis", "sentinel"):
            self.running.pop((host, part)).close()

    def client(self, host: str, port: int = 6379, user: str = "admin") -> redis.Redis:
        tls = {"ssl": True, "ssl_ca_certs": str(self.folder / "ca.crt")} if self.tls else {}
        return redis.Redis(host, port, username=user, password=user, socket_timeout=5, **tls)  # type: ignore[arg-type]

    def role(self, host: str) -> str:
        """Whose copy a server has: "master", the address of its master once it has all data, or nothing."""
        with contextlib.suppress(redis.RedisError, ssl.SSLError), self.client(host) as client:
            facts = client.info("replication")
            if facts["role"] == "master":
                return "master"
            return str(facts["master_host"]) if facts["master_link_status"] == "up" else ""
        return ""

    def follow(self, master: str) -> bool:
        """Whether all servers that run have `master`, and their sentinels know all others."""
        hosts = {host for host, _ in self.running}
        if any(self.role(host) != ("master" if host == master else master) for host in hosts):
            return False
        return all(self._known(host) == (2, 2) for host in hosts)

    def _known(self, host: str) -> tuple[int, int]:
        """How many other sentinels and replicas a sentinel knows: without them, it elects no master."""
        with contextlib.suppress(redis.RedisError, ssl.SSLError), self.client(host, 26379, "sentinel") as one:
            (facts,) = one.execute_command("SENTINEL", "MASTERS")
            said = dict(zip(facts[::2], facts[1::2], strict=True)) if isinstance(facts, list) else facts
            said = {str(name, "ascii") if isinstance(name, bytes) else name: said[name] for name in said}
            return int(said["num-other-sentinels"]), int(said["num-slaves"])
        return 0, 0

    def close(self) -> None:
        for process in self.running.values():
            process.close()


@pytest.fixture(params=["redis", "rediss"])
def pods(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pods]:
    needs_server()
    needs("redis-cli")
    made = Pods(tmp_path, tls=request.param == "rediss")
    try:
        for host in made.hosts:
            made.start(host)
        wait_until(lambda: made.follow(made.hosts[0]), "the replicas and the sentinels", 60)
        yield made
    finally:
        made.close()


def lose(pods: Pods, made: Service, lost: str) -> str:
    """Kills the node of the master, and starts it again once it is missed. Returns the next master."""
    with pods.client(lost) as client:
        assert client.wait(2, 5000) == 2, "both replicas have everything"
    pods.kill(lost)
    wait_until(lambda: "master" in [pods.role(host) for host in pods.hosts], "another master", 60)
    wait_until(lambda: made.predict(f"without {lost}").status_code == 200, "an answer", 60)
    (master,) = [host for host in pods.hosts if pods.role(host) == "master"]
    pods.start(lost)
    wait_until(lambda: pods.follow(master), "the return as a replica", 60)
    return master


def test_with_one_redis_a_lost_node_stopped_the_service(
    pods: Pods, start_service: Callable[..., Service]
) -> None:
    made, finished, running = begun(functools.partial(start_service, redis_url=pods.url))
    before = kept(made, finished, running)
    master = pods.hosts[0]
    for _ in range(2):
        master = lose(pods, made, master)
        wait_until(lambda: kept(made, finished, running) == before, "the same as before", 60)
        assert create(made, TEXTS[:5], "first") == finished
    check_end(made, running)


def test_a_server_that_was_away_took_over_with_old_data(pods: Pods) -> None:
    """All start again. The first one missed the last failover, and is not the master."""
    first, *others = pods.hosts
    pods.kill(first)
    wait_until(lambda: "master" in [pods.role(host) for host in others], "another master", 60)
    (master,) = [host for host in others if pods.role(host) == "master"]
    wait_until(lambda: all(pods.role(host) in ("master", master) for host in others), "its replica", 60)
    with pods.client(master) as client:
        client.set("since", "then")
        assert client.wait(1, 5000) == 1
        # The append-only file of a new replica is written anew.
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "its file", 60)
    for host in others:
        pods.kill(host)
    for host in pods.hosts:
        pods.start(host)
    wait_until(lambda: any(pods.follow(host) for host in others), "one of the others as the master", 90)
    for host in pods.hosts:
        with pods.client(host) as client:
            assert client.get("since") == b"then", host


def test_sentinels_take_no_orders_from_clients_without_a_password(pods: Pods) -> None:
    tls = {"ssl": True, "ssl_ca_certs": str(pods.folder / "ca.crt")} if pods.tls else {}
    with redis.Redis(pods.hosts[0], 26379, socket_timeout=5, **tls) as anyone:  # type: ignore[arg-type]
        assert anyone.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "millrace")
        for words in (
            ("SENTINEL", "FAILOVER", "millrace"),
            ("SENTINEL", "RESET", "*"),
            ("ACL", "LIST"),
            ("SHUTDOWN",),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                anyone.execute_command(*words)
