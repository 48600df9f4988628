"""Redis as it ships is restarted under a running service, and nothing but its last second is gone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batcher.jobs.store import JobStore
from tests.answers import right_json
from tests.servers import ROLES, RedisServer, contents, needs_rights_to_load
from tests.service import Service, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]
CHANGING = ("left_s", "workers", "rate", "remaining_s")
TEXTS = [f"text {number}" for number in range(600)]


def create(made: Service, texts: list[str], key: str) -> str:
    """The path of a job; with the same key, of the same one."""
    answer = made.http.post("/jobs", json={"text": texts}, headers={"Idempotency-Key": key})
    assert answer.is_success, answer.text
    path: str = answer.headers["location"]
    return path


def results(made: Service, path: str) -> Any:
    return made.http.get(f"{path}/predictions", params={"limit": 1000}).json()


def change(made: Service, method: str, path: str, body: dict[str, object] | None = None) -> None:
    answer = made.http.request(method, f"/admin/{path}", json=body)
    assert answer.is_success, answer.text


def lasting(facts: Any) -> Any:
    """The same without seconds that are left, and without what live workers do."""
    if isinstance(facts, dict):
        return {name: lasting(value) for name, value in facts.items() if name not in CHANGING}
    return [lasting(fact) for fact in facts] if isinstance(facts, list) else facts


def kept(made: Service, *jobs: str) -> Any:
    """What clients and operators are shown that has to survive."""
    facts = {path: (made.http.get(path).json(), results(made, path)) for path in jobs}
    facts |= {path: made.http.get(f"/admin/{path}").json() for path in ("pauses", "models", "audit")}
    return lasting([facts, made.http.get("/admin/clients").json()["held"]])


def begun(start_service: Callable[..., Service]) -> tuple[Service, str, str]:
    """A service with a finished and a running job, a pause, a client that is held back, and a publication."""
    made = start_service(model="stub,topics=stub@a")
    made.start_jobs()
    finished = create(made, TEXTS[:5], "first")
    wait_until(lambda: made.http.get(finished).json()["status"] == "finished", "the first job", 60)
    change(made, "PUT", "pauses/bulk", {"waiting": "keep", "for_s": 3600})
    change(made, "POST", "clients/hold", {"client": "key:held", "what": "all", "for_s": 3600})
    change(made, "POST", "models/publish", {"model": "topics", "reference": "stub@b"})
    running = create(made, TEXTS, "second")
    wait_until(lambda: made.http.get(running).json()["status"] == "running", "the second job", 60)
    return made, finished, running


def check_end(made: Service, running: str) -> None:
    """Ends the pause, and fails unless the job then finishes with all results."""
    change(made, "DELETE", "pauses/bulk")
    wait_until(lambda: made.http.get(running).json()["status"] == "finished", "the second job", 90)
    assert results(made, running)["predictions"] == right_json(TEXTS)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_jobs_and_what_operators_decided_were_gone_after_a_restart_of_redis(
    start_service: Callable[..., Service], how: str
) -> None:
    made, finished, running = begun(start_service)
    before = kept(made, finished, running)

    made.redis.kill() if how == "kill" else made.redis.stop()
    made.redis.start()
    wait_until(lambda: made.http.get("/readyz").status_code == 200, "the service to be back", 60)
    with contextlib.suppress(AssertionError):  # rather the difference
        wait_until(lambda: kept(made, finished, running) == before, "the same as before", 60)
    assert kept(made, finished, running) == before
    assert create(made, TEXTS[:5], "first") == finished
    check_end(made, running)
    assert "warning" not in made.http.get("/readyz").json()


def test_a_redis_that_skips_its_own_data_said_nothing(
    redis_servers: Callable[..., RedisServer], start_service: Callable[..., Service], tmp_path: Path
) -> None:
    """With the line `user default off` of 0.2.0. With that of today, what it has skipped is there again."""
    needs_rights_to_load()
    rights = "resetpass allkeys allchannels +@all"
    others = "".join(f"user {role} on {rights} >{role}\n" for role in ROLES)
    users = tmp_path / "users.acl"
    users.write_text(f"user default off\n{others}")
    server = redis_servers("--aclfile", str(users), bare="its `default` has no rights", start=False)
    server.url = server.url.replace("unix://", "unix://admin:admin@")
    made = start_service(redis=server.start())
    made.start_jobs()
    job = create(made, TEXTS[:5], "first")
    wait_until(lambda: made.http.get(job).json()["status"] == "finished", "the job", 60)

    server.stop()
    server.start()
    wait_until(lambda: made.http.get("/readyz").status_code == 200, "the service to be back", 60)
    warning = wait_until(lambda: made.http.get("/readyz").json().get("warning"), "a warning", 60)
    assert "commands of its append-only file" in warning
    assert "redis.skipped" in made.api.said()
    with server.client() as client:
        skipped = JobStore(client, "default", 60).skipped_commands()
    assert skipped > 0
    assert f"millrace_redis_skipped_commands {float(skipped)}" in made.http.get("/metrics").text
    assert made.http.get(job).status_code == 404

    users.write_text(f"user default off {rights}\n{others}")
    server.stop()
    server.start()
    wait_until(lambda: made.http.get(job).json().get("status") == "finished", "the job to be back", 60)
    wait_until(lambda: "warning" not in made.http.get("/readyz").json(), "the warning to end", 60)


def test_a_replica_that_is_promoted_keeps_what_scripts_wrote_across_its_own_restart(
    redis_servers: Callable[..., RedisServer],
) -> None:
    master = redis_servers(tcp=True)
    # A second for each key: the replica is promoted and stopped while it still writes its append-only file.
    slow = ("--rdb-key-save-delay", "1000000")
    replica = redis_servers("--replicaof", "127.0.0.1", str(master.port), *slow, tcp=True)
    with master.client() as client, replica.client() as follower:
        wait_until(lambda: follower.info("replication")["master_link_status"] == "up", "the replica", 60)
        client.eval("redis.call('SET', 'k', 'v') return redis.call('RPUSH', 'l', 'v')", 0)
        client.pipeline().hset("h", "f", "v").execute()
        before = contents(client)
        wait_until(lambda: contents(follower) == before, "the replica to have all", 60)
        master.kill()
        follower.replicaof("NO", "ONE")
        follower.eval("return redis.call('SADD', 's', 'v')", 0)
    replica.stop()
    replica.start()
    with replica.client() as promoted:
        assert contents(promoted) == before | {b"s": {b"v"}}
