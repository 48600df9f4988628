"""A backup of Redis as it ships is restored as docs/backup.md says, and what it has goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.test_redis_restart import TEXTS, begun, check_end, create, kept
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
    """Starts with it in place of what there is, then as ever."""
    shutil.copy(backup, server.directory / "restore.rdb")
    server.start()
    assert not (server.directory / "restore.rdb").exists()
    server.stop()
    server.start()


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "wrong"])
def test_jobs_and_what_operators_decided_are_in_a_backup(
    start_service: Callable[..., Service], tmp_path: Path, lost: bool
) -> None:
    made, finished, running = begun(start_service)
    before = kept(made, finished, running)
    back_up(made.redis, tmp_path / "backup.rdb")
    later = create(made, TEXTS[:7], "after the backup")

    made.redis.kill()
    if lost:
        made.redis.forget()
    (made.redis.directory / "dump.rdb").unlink()
    restore(made.redis, tmp_path / "backup.rdb")

    wait_until(lambda: made.http.get("/readyz").status_code == 200, "the service to be back", 60)
    wait_until(lambda: kept(made, finished, running) == before, "the same as in the backup", 60)
    assert made.http.get(later).status_code == 404
    check_end(made, running)
