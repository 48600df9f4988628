"""A backup of Redis as it ships is restored as docs/backup.md says, and what it has goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.answers import right_json
from tests.faults.test_redis_restart import TEXTS, change, create, kept, results
from tests.servers import RedisServer
from tests.service import Service, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


def back_up(server: RedisServer, to: Path) -> None:
    """BGSAVE, and a copy of the file."""
    with server.client() as client:
        client.bgsave()
        wait_until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], "the snapshot", 60)
        assert client.info("persistence")["rdb_last_bgsave_status"] == "ok"
    shutil.copy(server.directory / "dump.rdb", to)


def restore(server: RedisServer, backup: Path) -> None:
    """Starts without the append-only file, which would be read instead, and writes it anew."""
    shutil.copy(backup, server.directory / "dump.rdb")
    server.start("--appendonly", "no")
    with server.client() as client:
        client.config_set("appendonly", "yes")
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the file", 60)
        assert client.info("persistence")["aof_last_bgrewrite_status"] == "ok"
    server.stop()
    server.start()


def test_jobs_and_what_operators_decided_are_in_a_backup(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    made = start_service(model="stub,topics=stub@a")
    made.start_jobs()
    finished = create(made, TEXTS[:5], "first")
    wait_until(lambda: made.http.get(finished).json()["status"] == "finished", "the first job", 60)
    change(made, "PUT", "pauses/bulk", {"waiting": "keep", "for_s": 3600})
    change(made, "POST", "clients/hold", {"client": "key:held", "what": "all", "for_s": 3600})
    change(made, "POST", "models/publish", {"model": "topics", "reference": "stub@b"})
    running = create(made, TEXTS, "second")
    wait_until(lambda: made.http.get(running).json()["status"] == "running", "the second job", 60)
    before = kept(made, finished, running)
    back_up(made.redis, tmp_path / "backup.rdb")
    later = create(made, TEXTS[:7], "after the backup")

    made.redis.kill()
    shutil.rmtree(made.redis.directory / "appendonlydir", ignore_errors=True)
    for path in [*made.redis.directory.glob("*.aof"), made.redis.directory / "dump.rdb"]:
        path.unlink()
    restore(made.redis, tmp_path / "backup.rdb")

    wait_until(lambda: made.http.get("/readyz").status_code == 200, "the service to be back", 60)
    wait_until(lambda: kept(made, finished, running) == before, "the same as in the backup", 60)
    assert made.http.get(later).status_code == 404
    change(made, "DELETE", "pauses/bulk")
    wait_until(lambda: made.http.get(running).json()["status"] == "finished", "the second job", 90)
    assert results(made, running)["predictions"] == right_json(TEXTS)
