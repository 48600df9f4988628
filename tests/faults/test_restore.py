"""A backup of Redis as it ships is restored as docs/backup.md says, and what it has goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from millrace.errors import CommandError
from millrace.local.embedded_redis import DataDir, EmbeddedRedis
from millrace.local.redis_server import ServerBinary
from tests.faults.test_redis_restart import TEXTS, begun, check_end, create, kept
from tests.repo.manifests import K8S
from tests.servers import RedisServer, needs_server, redis_version
from tests.service import Service, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


def back_up(server: RedisServer, to: Path) -> None:
    """BGSAVE, and a copy of the file."""
    with server.client() as client:
        client.bgsave()
        wait_until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], "the snapshot", 60)
        assert client.info("persistence")["rdb_last_bgsave_status"] == "ok"
    shutil.copy(server.directory / "dump.rdb", to)


def start_script(data: Path, server: Path, status: int = 0) -> str:
    """What start.sh says, with a server of that name which ends at once. It ends with this status."""
    tools = data.parent / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "redis-server").write_text("#!/bin/sh\n")
    (tools / "redis-server").chmod(0o755)
    check = tools / "redis-check-rdb"
    if not check.exists():
        check.symlink_to(server)  # which is both programs
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "REDIS_DIR": str(data),
        "REDIS_USERS": str(data / "users"),
    }
    script = K8S / "base/redis/start.sh"
    done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stderr


def restore(server: RedisServer, backup: Path) -> None:
    """Starts with it in place of what there is, then as ever."""
    shutil.copy(backup, server.directory / "restore.rdb")
    server.start()
    assert not (server.directory / "restore.rdb").exists()
    server.stop()
    server.start()


@pytest.mark.parametrize("given", ["empty", "cut off", "damaged", "newer", "another file"])
def test_a_snapshot_that_cannot_be_read_took_the_place_of_the_data(tmp_path: Path, given: str) -> None:
    server = needs_server()
    with closing(RedisServer(server)) as made:
        made.start()
        with made.client() as client:
            client.set("key", "value " * 1000)
        back_up(made, tmp_path / "backup.rdb")
    whole = (tmp_path / "backup.rdb").read_bytes()
    files = {
        "empty": b"",
        "cut off": whole[: len(whole) // 2],
        "damaged": whole[:-12] + b"?" + whole[-11:],
        "newer": whole[:5] + b"9999" + whole[9:],
        "another file": b"<html>not found</html>",
    }
    data = tmp_path / "data"
    (data / "appendonlydir").mkdir(parents=True)
    ran = []
    for content in (files[given], whole):
        (data / "restore.rdb").write_bytes(content)
        ran.append(start_script(data, server))
    assert "restore.rdb.refused" in ran[0]
    assert (data / "restore.rdb.refused").read_bytes() == files[given]
    assert "refused" not in ran[1]
    assert (data / "appendonly.aof").read_bytes() == whole
    assert [path.name for path in data.glob("appendonlydir*")] == ["appendonlydir.before"]


def test_a_copy_without_its_manifest_was_an_empty_redis(tmp_path: Path) -> None:
    server = needs_server()
    if redis_version() < 7:
        pytest.skip("this server has one append-only file")
    with closing(RedisServer(server)) as made:
        made.start()
        with made.client() as client:
            client.set("key", "value")
            wait_until(lambda: not client.info("persistence")["aof_pending_bio_fsync"], "the file", 60)
        made.stop()
        shutil.copytree(made.directory, data := tmp_path / "data", ignore=shutil.ignore_patterns("*.sock"))
    (manifest,) = data.glob("appendonlydir/*.manifest")
    content = manifest.read_bytes()
    manifest.unlink()
    assert "has no manifest" in start_script(data, server, status=1)
    with closing(DataDir(data)) as copied, pytest.raises(CommandError, match="has no manifest"):
        EmbeddedRedis(ServerBinary(server, (7, 0)), copied)
    manifest.write_bytes(content)
    assert start_script(data, server) == ""
    for file in (manifest, *data.glob("appendonlydir/*.incr.aof")):  # killed in its first moment
        file.unlink()
    assert start_script(data, server) == ""


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
