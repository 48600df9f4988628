"""Redis users for each role, as the manifests have them: each can do its work and nothing of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tests.servers import RedisServer, as_user, redis_version
from tests.service import Service, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]
P, J = "{millrace:2:default}", "{millrace-jobs:default}"
# What KEDA's Redis scaler runs (pkg/scalers/redis_scaler.go).
KEDA = """
local kind = redis.call('type', KEYS[1]).ok
local cmd = { zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen' }
return redis.call(cmd[kind], KEYS[1])
"""


@pytest.fixture
def server(redis_servers: Callable[..., RedisServer]) -> RedisServer:
    """A server on a port of the loopback."""
    return redis_servers(tcp=True)


@pytest.fixture
def client_of(server: RedisServer) -> Iterator[Callable[[str], redis.Redis]]:
    """A client of a role: `client_of("worker")`."""
    made: list[redis.Redis] = []

    def make(role: str) -> redis.Redis:
        made.append(redis.Redis.from_url(as_user(server.url, role), decode_responses=True))
        return made[-1]

    yield make
    for client in made:
        client.close()


def refused(client: redis.Redis, *words: Any) -> bool:
    """Whether Redis refuses a command for want of rights; any other answer will do as a no."""
    try:
        client.execute_command(*words)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.exceptions.ResponseError as error:
        # In a script: Redis 7.0 and older, then later ones and Valkey.
        return any(words in str(error) for words in ("can't run this command", "access", "ACL failure"))
    return False


def test_finding_01_each_redis_user_can_do_the_work_of_its_role(
    server: RedisServer, start_service: Callable[..., Service]
) -> None:
    """Texts, jobs, a deleted one, recovery, metrics: the server's log of refusals stays empty."""
    made = start_service(redis=server, local_cache_entries=0, lease_ms=300)
    jobs = made.start_jobs()
    for cached in ("MISS", "HIT"):
        answer = made.predict("one", "two")
        assert (answer.status_code, answer.headers["x-cache"]) == (200, cached)
    done = made.http.post("/jobs", json={"text": [f"text {number}" for number in range(600)]})
    assert done.status_code == 202, done.text
    path = done.headers["location"]
    wait_until(lambda: made.http.get(path).json()["status"] == "finished", "the job", 60)
    assert len(made.http.get(f"{path}/predictions", params={"limit": 600}).json()["predictions"]) == 600
    for status in (204, 404):
        assert made.http.delete(path).status_code == status
    made.workers[0].kill()
    made.start_worker()
    wait_until(lambda: made.predict("after a death").status_code == 200, "an answer of the next worker", 90)
    assert jobs.stop() == 0
    waits = made.http.post("/jobs", json={"text": ["waits"]}).headers["location"]
    assert made.http.get("/jobs").json()["jobs"][0]["status"] == "queued"
    assert made.http.delete(waits).json()["status"] == "cancelled"
    assert made.http.get("/stats").status_code == 200
    assert made.workers[-1].stop() == 0
    with server.client() as admin:
        log = admin.execute_command("ACL", "LOG")
    # RQ asks for the addresses of all clients to show its own, and does without.
    seen = {(entry[b"username"], entry[b"object"]) for entry in log}
    assert seen <= {(b"jobs", b"client|list"), (b"jobs", b"client")}


def test_finding_01_no_redis_user_can_do_the_work_of_another_role(
    client_of: Callable[[str], redis.Redis],
) -> None:
    api, worker, jobs, autoscaler = map(client_of, ("api", "worker", "jobs", "autoscaler"))
    for key in (
        "rq:job:x",
        "rq:queue:millrace-jobs:default",
        f"{J}:job:x",
        f"{J}:jobs",
        "another:application",
    ):
        for words in (("GET", key), ("HSET", key, "a", "b"), ("RPUSH", key, "a"), ("DEL", key)):
            assert refused(worker, *words), words
    for key in (
        "rq:worker:x",
        "rq:workers",
        "rq:wip:millrace-jobs:default",
        "rq:suspended",
        "another:application",
    ):
        assert refused(api, "HSET", key, "a", "b"), key
        assert refused(api, "SADD", key, "a"), key
    assert refused(api, "PUBLISH", "rq:pubsub:x", '{"command":"shutdown"}')
    assert refused(jobs, "PUBLISH", "another", "x")
    assert refused(jobs, "GET", "another:application")
    for role in (api, worker, jobs, autoscaler):
        for words in (
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("SHUTDOWN",),
            ("ACL", "LIST"),
        ):
            assert refused(role, *words), words
        assert refused(role, "EVAL", "return redis.call('GET', 'another:application')", 0)
    for role in (api, jobs):
        assert not refused(role, "SCAN", 0), "they evict from the cache"
    for role in (worker, autoscaler):
        assert refused(role, "SCAN", 0)
    if redis_version() >= 7:
        for role in (api, jobs):
            assert not refused(role, "GET", "millrace:cache:2:default:r:id")
            assert refused(role, "SET", "millrace:cache:2:default:r:id", "a forged result")


def test_keda_counts_what_waits_when_the_only_worker_dies(
    server: RedisServer, client_of: Callable[[str], redis.Redis], start_service: Callable[..., Service]
) -> None:
    """By its query, as its user. What waits is answered by the next worker within its budget."""
    made = start_service(redis=server, stub_batch_ms=3000, batch_texts=8, lease_ms=1000)
    made.start_jobs()
    job = made.http.post("/jobs", json={"text": [f"job {number}" for number in range(300)]})
    autoscaler = client_of("autoscaler")

    def waiting(*names: str) -> int:
        return sum(autoscaler.eval(KEDA, 1, f"{P}:{name}") for name in names)

    wait_until(lambda: waiting("bulk") > 0, "texts of the job", 60)
    with ThreadPoolExecutor(20) as clients:
        asked = [clients.submit(made.predict, f"text {number}", Prefer="wait=60") for number in range(20)]
        wait_until(lambda: waiting("q", "inflight") >= 20, "the requests", 60)
        made.workers[0].kill()
        assert waiting("q", "inflight", "solo") >= 20
        made.start_worker(stub_batch_ms=0)
        assert {answer.result().status_code for answer in asked} == {200}
    path = job.headers["location"]
    wait_until(lambda: made.http.get(path).json()["status"] == "finished", "the job", 60)
    assert waiting("q", "bulk", "inflight", "solo") == 0


def test_finding_01_the_autoscaler_can_count_and_nothing_else(
    server: RedisServer, client_of: Callable[[str], redis.Redis]
) -> None:
    with server.client() as admin:
        admin.rpush(f"{P}:q", "a", "b")
        admin.zadd(f"{P}:inflight", {"c": 1})
    autoscaler = client_of("autoscaler")
    assert [autoscaler.eval(KEDA, 1, f"{P}:{name}") for name in ("q", "inflight", "bulk", "solo")] == [
        2,
        1,
        0,
        0,
    ]
    assert (autoscaler.llen(f"{P}:q"), autoscaler.zcard(f"{P}:inflight")) == (2, 1)
    for words in (
        ("LRANGE", f"{P}:q", 0, -1),
        ("LPOP", f"{P}:q"),
        ("DEL", f"{P}:q"),
        ("ZRANGE", f"{P}:inflight", 0, -1),
        ("LLEN", f"{P}:first"),
        ("GET", f"{P}:entry:a"),
        ("INFO",),
        ("EVAL", "return redis.call('LPOP', KEYS[1])", 1, f"{P}:q"),
    ):
        assert refused(autoscaler, *words), words


def test_finding_01_who_has_no_password_gets_in_nowhere(server: RedisServer) -> None:
    for url in (f"redis://127.0.0.1:{server.port}/0", f"redis://api:wrong@127.0.0.1:{server.port}/0"):
        with redis.Redis.from_url(url) as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.ping()
