"""Finding 9, with processes: Redis fails over, and the old master keeps its connections."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from batcher.connection.clients import connect
from batcher.jobs.store import JobStore
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.service import Service, wait_until

JOB = "a" * 32

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


def test_finding_09_a_failover_that_leaves_connections_open_is_survived_without_restart(
    start_service: Callable[..., Service],
    redis_servers: Callable[..., RedisServer],
    proxies: Callable[[str], Proxy],
) -> None:
    """A managed Redis moves its name; the demoted server answers READONLY on open connections."""
    old, new = redis_servers(tcp=True), redis_servers(tcp=True)
    name = proxies(old.url)
    made = start_service(redis=old, redis_url=name.url, lease_ms=1000)
    jobs = made.start_jobs()
    assert made.predict("known").status_code == 200
    with old.client() as was, new.client() as becomes:
        becomes.replicaof("127.0.0.1", old.port)
        wait_until(lambda: becomes.info("replication")["master_link_status"] == "up", "the replica")
        becomes.replicaof("NO", "ONE")
        was.replicaof("127.0.0.1", new.port)
    wait_until(lambda: made.http.get("/readyz").status_code == 503, "the loss to be noticed")
    refused = made.predict("unknown meanwhile")
    assert (refused.status_code, refused.json()["code"]) == (503, "redis_unavailable")
    assert made.predict("known").headers["x-cache"] == "HIT"
    wait_until(lambda: "redis.lost" in made.workers[0].said(), "the worker to notice")
    name.point(new.url)
    made.wait_ready()
    assert made.predict("unknown before").status_code == 200
    handed_in = made.http.post("/jobs", json={"text": [f"text {number}" for number in range(50)]})
    assert handed_in.status_code == 202, handed_in.text
    path = handed_in.headers["location"]
    wait_until(lambda: made.http.get(path).json()["status"] == "finished", "the job", 60)
    assert all(process.running for process in (made.api, *made.workers, jobs))
    said = made.api.said()
    assert said.count("redis.lost") == said.count("redis.back") >= 1
    assert re.search("redis is unavailable: (ReadOnlyError|ResponseError: UNBLOCKED)", said), "why"


def demote(old: RedisServer, name: Proxy, new: RedisServer) -> None:
    """The name moves to `new`. `old` is the replica of a master that it never reaches, and keeps its data."""
    name.point(new.url)
    with old.client() as was:
        was.replicaof("127.0.0.1", "1")


def test_a_job_is_found_though_connections_lead_to_a_replica(
    redis_servers: Callable[..., RedisServer], proxies: Callable[[str], Proxy]
) -> None:
    """A process that only reads hears of no failover: replicas answer reads."""
    old, new = redis_servers(tcp=True), redis_servers(tcp=True)
    name = proxies(old.url)
    client = connect(name.url, timeout_s=5.0, retries=1)
    reading, later = JobStore(client, "n", 3600), JobStore(new.client(), "n", 3600)
    assert reading.record(JOB) is None
    demote(old, name, new)
    upload = later.upload(JOB)
    upload.add([b"text"])
    assert later.create(upload, "digest", 10).outcome == "created"
    found = reading.record(JOB)
    assert found is not None
    assert found.id == JOB
    client.close()


def test_all_connections_leave_a_server_that_has_refused_one_of_them(
    redis_servers: Callable[..., RedisServer], proxies: Callable[[str], Proxy]
) -> None:
    old, new = redis_servers(tcp=True), redis_servers(tcp=True)
    name = proxies(old.url)
    clients = [connect(name.url, timeout_s=5.0, retries=1) for _ in range(3)]
    for client in clients:
        client.set("where", "old")
    demote(old, name, new)
    with new.client() as becomes:
        becomes.set("where", "new")
    assert clients[0].get("where") == b"old"
    clients[1].set("written", "1")
    assert [client.get("where") for client in clients] == [b"new"] * 3
    for client in clients:
        client.close()
