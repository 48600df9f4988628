"""The Redis that people have: with a password, an ACL, TLS, a sentinel, a cluster of one shard, evicting."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import trustme
from pydantic import SecretStr

from batcher.errors import MillraceError
from batcher.hub.shared_cache import connect_cache
from batcher.settings import QueueSettings
from millrace.settings_loader import free_port
from tests.faults.conftest import HubAndWorkers
from tests.servers import RedisServer, needs_server, server_binary
from tests.service import ForkedProcess, Process, Service, millrace, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]
DOCS = Path(__file__).parents[2] / "docs/redis-users.md"


@pytest.fixture
def server_at() -> Iterator[Callable[..., RedisServer]]:
    """A server with a separate URL: `server_at("redis://:x@127.0.0.1:{port}/0", "--requirepass", "x")`."""
    binary = needs_server()
    started: list[RedisServer] = []

    def make(url: str, *options: str) -> RedisServer:
        server = RedisServer(binary, options, tcp=True, bare="the Redis that people have")
        server.url = url.format(port=server.port)
        started.append(server)
        return server.start()

    yield make
    for server in started:
        server.close()


async def works(server: RedisServer, folder: Path, url: str = "") -> HubAndWorkers:
    """A hub and a worker on it answer."""
    service = HubAndWorkers(server, folder)
    try:
        await service.start(redis_url=url or server.url, url=url)
        await service.check(*(f"text {number}" for number in range(20)))
        await service.empty()
    finally:
        await service.close()
    return service


async def test_with_a_password(server_at: Callable[..., RedisServer], tmp_path: Path) -> None:
    server = server_at("redis://:se%20cret@127.0.0.1:{port}/0", "--requirepass", "se cret")
    service = await works(server, tmp_path)
    assert "cret" not in service.logs()


def documented_acl() -> list[str]:
    """The rules of docs/redis-users.md, as one `user` line."""
    (line,) = re.findall(r"^user millrace (.+)$", DOCS.read_text(), re.MULTILINE)
    return line.replace("PASSWORD", "secret").split()


def test_the_documented_acl_is_enough_for_every_process(
    server_at: Callable[..., RedisServer], start_service: Callable[..., Service]
) -> None:
    """Jobs included. The server's own log of refused commands stays empty."""
    server = server_at("redis://127.0.0.1:{port}/0", "--user", "millrace", *documented_acl())
    admin = server.client()
    plain, server.url = server.url, f"redis://millrace:secret@127.0.0.1:{server.port}/0"
    made = start_service(redis=server)
    jobs = ForkedProcess("jobs", millrace("jobs"), made.environment_of("jobs"), made.folder)
    made.processes.append(jobs)
    assert made.predict("one", "two").status_code == 200
    handed_in = made.http.post("/jobs", json={"text": [f"text {number}" for number in range(50)]})
    assert handed_in.status_code == 202, handed_in.text
    path = handed_in.headers["location"]
    wait_until(lambda: made.http.get(path).json()["status"] == "finished", "the job")
    assert made.workers[0].stop() == 0
    assert jobs.stop() == 0
    refused = admin.execute_command("ACL", "LOG")
    admin.close()
    server.url = plain
    # RQ asks for its own address, to show it, and does without.
    objects = {entry[b"object"] for entry in refused}
    assert objects <= {b"client|list", b"client"}
    assert "secret" not in made.logs()


def test_the_documented_acl_lets_nobody_near_other_keys(server_at: Callable[..., RedisServer]) -> None:
    server = server_at("redis://127.0.0.1:{port}/0", "--user", "millrace", *documented_acl())
    with redis.Redis(port=server.port, username="millrace", password="secret") as client:
        for words in (("GET", "other"), ("KEYS", "*"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("SHUTDOWN",)):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)


async def test_over_tls(server_at: Callable[..., RedisServer], tmp_path: Path) -> None:
    binary = server_binary()
    assert binary is not None
    needs = await asyncio.to_thread(subprocess.run, ["ldd", binary], capture_output=True)
    if b"libssl" not in needs.stdout:
        pytest.skip(f"{binary} is built without TLS")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, ca = tmp_path / "server.pem", tmp_path / "ca.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(chain))
    authority.cert_pem.write_to_path(str(ca))
    port = free_port()
    files = ["--tls-cert-file", str(chain), "--tls-key-file", str(chain), "--tls-ca-cert-file", str(ca)]
    options = ["--tls-port", str(port), "--tls-auth-clients", "no", *files]
    server = server_at("redis://127.0.0.1:{port}/0", *options)
    await works(server, tmp_path, f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}")
    stranger = redis.Redis.from_url(f"rediss://127.0.0.1:{port}/0")
    with pytest.raises(redis.exceptions.ConnectionError):
        stranger.ping()
    stranger.close()


def cluster_of_one_shard(server_at: Callable[..., RedisServer]) -> RedisServer:
    server = server_at("redis://127.0.0.1:{port}/0", "--cluster-enabled", "yes")
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "the cluster")
    return server


async def test_as_a_cluster_of_one_shard(server_at: Callable[..., RedisServer], tmp_path: Path) -> None:
    server = cluster_of_one_shard(server_at)
    await works(server, tmp_path)
    await _remembers_many_at_once(server)


def needs_scripts_after_a_refused_one(server_at: Callable[..., RedisServer]) -> None:
    """Skips where a node of a cluster refuses every script after one that read keys of two slots."""
    with cluster_of_one_shard(server_at).client() as client:
        with pytest.raises(redis.exceptions.ResponseError):
            client.eval("return redis.call('MGET', '{a}', '{b}')", 0)
        try:
            client.eval("return redis.call('GET', '{a}')", 0)
        except redis.exceptions.ResponseError:
            pytest.skip("this server needs redis+cluster:// (docs/redis.md)")


@pytest.mark.parametrize("cluster", [False, True])
def test_the_cache_beside_the_queue_knows_what_was_answered(
    server_at: Callable[..., RedisServer], start_service: Callable[..., Service], cluster: bool
) -> None:
    if cluster:
        needs_scripts_after_a_refused_one(server_at)
    server = cluster_of_one_shard(server_at) if cluster else server_at("redis://127.0.0.1:{port}/0")
    made = start_service(redis=server, local_cache_entries=0)
    answers = [made.predict("one", "two") for _ in range(2)]
    assert [answer.headers["x-cache"] for answer in answers] == ["MISS", "HIT"]
    assert cluster or "cache.apart" not in made.logs()


def test_who_may_not_touch_the_cache_does_without(
    server_at: Callable[..., RedisServer], start_service: Callable[..., Service]
) -> None:
    rules = [rule for rule in documented_acl() if rule != "~millrace:cache:*"]
    server = server_at("redis://127.0.0.1:{port}/0", "--user", "millrace", *rules)
    plain, server.url = server.url, f"redis://millrace:secret@127.0.0.1:{server.port}/0"
    made = start_service(redis=server, local_cache_entries=0)
    answers = [made.predict("one", "two") for _ in range(2)]
    assert [(answer.status_code, answer.headers["x-cache"]) for answer in answers] == [(200, "MISS")] * 2
    server.url = plain
    with server.client() as client:
        assert client.keys("millrace:cache:*") == []


def test_a_cluster_that_is_not_named_as_one_keeps_no_jobs_and_says_so(
    server_at: Callable[..., RedisServer], start_service: Callable[..., Service]
) -> None:
    needs_scripts_after_a_refused_one(server_at)
    made = start_service(redis=cluster_of_one_shard(server_at))
    assert made.predict("one", "two").status_code == 200
    for refused in (made.http.post("/jobs", json={"text": ["one"]}), made.http.get("/jobs")):
        assert (refused.status_code, refused.json()["code"]) == (501, "no_jobs")
        assert "MILLRACE_JOBS_REDIS_URL" in refused.json()["detail"]
    jobs = made.start_jobs()
    assert jobs.wait() == 2
    assert jobs.said().count("MILLRACE_JOBS_REDIS_URL") == 1


@pytest.mark.parametrize("prefix", ["", "{rq}"])
def test_jobs_needed_a_plain_redis_beside_a_cluster(
    server_at: Callable[..., RedisServer],
    start_service: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
) -> None:
    """RQ shows them there if its keys are in one slot."""
    needs_scripts_after_a_refused_one(server_at)
    server = cluster_of_one_shard(server_at)
    plain = server.url
    server.url = plain.replace("redis://", "redis+cluster://").removesuffix("/0")
    if prefix:
        monkeypatch.setenv("RQ_KEY_PREFIX", prefix)
        monkeypatch.setattr(Service, "process_type", Process)  # a forked one has imported RQ already
    made = start_service(redis=server)
    server.url = plain
    jobs = made.start_jobs()
    run_a_job(made)
    with server.client() as client:
        shown = {key.split(b":")[0] for key in client.scan_iter() if b"rq" in key}
    assert shown == ({b"{rq}"} if prefix else set())
    assert jobs.stop() == 0


def test_jobs_of_a_cluster_may_have_another_redis(
    server_at: Callable[..., RedisServer], redis_server: RedisServer, start_service: Callable[..., Service]
) -> None:
    needs_scripts_after_a_refused_one(server_at)
    made = start_service(redis=cluster_of_one_shard(server_at), jobs_redis_url=redis_server.url)
    jobs = made.start_jobs()
    run_a_job(made)
    assert jobs.stop() == 0


def run_a_job(made: Service) -> None:
    """Submits a job, and fails unless it ends with a result for each text."""
    handed_in = made.http.post("/jobs", json={"text": [f"text {number}" for number in range(50)]})
    assert handed_in.status_code == 202, handed_in.text
    path = handed_in.headers["location"]
    wait_until(lambda: made.http.get(path).json()["status"] == "finished", "the job")
    assert made.http.get(path).json()["failed"] == 0


async def _remembers_many_at_once(server: RedisServer) -> None:
    """Keys of the cache lie in many slots, and no command takes two of them."""
    cache = connect_cache(QueueSettings(redis_url=SecretStr(server.url)))
    with server.client() as client:
        keys = client.keys("millrace:cache:*")
    revision = keys[0].split(b":")[-2].decode()
    ids = [key.split(b":")[-1].decode() for key in keys]
    assert len(ids) == 20
    assert all(await cache.get(revision, ids))
    await cache.close()


async def test_a_sentinel_fails_over(server_at: Callable[..., RedisServer], tmp_path: Path) -> None:
    """The master is killed; the replica is promoted; hub and worker find it by themselves."""
    master = server_at("redis://127.0.0.1:{port}/0")
    replica = server_at("redis://127.0.0.1:{port}/0", "--replicaof", "127.0.0.1", str(master.port))
    port = free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor service 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds service 1000\nsentinel failover-timeout service 5000\n"
    )
    sentinel = Process("sentinel", [str(server_binary()), str(configuration), "--sentinel"], {}, tmp_path)
    try:
        with replica.client() as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica")
        with redis.Redis(port=port, decode_responses=True) as client:
            wait_until(lambda: client.sentinel_master("service")["num-slaves"] == 1, "the sentinel")
        await _through_a_failover(master, f"redis+sentinel://127.0.0.1:{port}/service", tmp_path)
    finally:
        sentinel.close()


async def _through_a_failover(master: RedisServer, url: str, folder: Path) -> None:
    service = HubAndWorkers(master, folder)
    try:
        await service.start(url=url, redis_url=url)
        await service.check(*(f"text {number}" for number in range(20)))
        master.kill()
        deadline = time.monotonic() + 40
        while True:
            try:
                await service.check("after the failover", budget_s=5)
                break
            except MillraceError:
                assert time.monotonic() < deadline, service.logs()
                await asyncio.sleep(0.2)
        assert service.workers[0].running
        assert service.hub.alive
    finally:
        await service.close()


def test_a_redis_that_evicts_is_reported_at_the_start(
    start_service: Callable[..., Service], redis_servers: Callable[..., RedisServer]
) -> None:
    """In the log, once, and in /readyz, which stays 200: it works, until it evicts."""
    made = start_service(redis=redis_servers("--maxmemory-policy", "allkeys-lru"))
    ready = made.http.get("/readyz")
    assert ready.status_code == 200
    assert "maxmemory-policy is allkeys-lru" in ready.json()["warning"]
    assert made.api.said().count("redis.policy") == 1
    assert made.predict("works all the same").status_code == 200
