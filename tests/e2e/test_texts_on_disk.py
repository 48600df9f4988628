"""Finding 17: where texts lie on a disk, until when, and how they never come there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis

from millrace.errors import CommandError
from millrace.local.embedded_redis import DataDir, EmbeddedRedis
from millrace.local.redis_server import ServerBinary
from tests.e2e.conftest import Up
from tests.service import Service, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

SECRET = "a text that must not be found"


def files_with(folder: Path, text: str) -> list[str]:
    """Names of the files below a folder that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if text.encode() in path.read_bytes()]


def test_finding_17_a_rewrite_of_the_file_removes_texts_that_were_answered(
    start_service: Callable[..., Service],
) -> None:
    """As docs/data.md says: they are there until then, and BGREWRITEAOF bounds how long."""
    made = start_service()
    folder = made.redis.directory
    assert made.predict(SECRET).status_code == 200
    wait_until(lambda: files_with(folder, SECRET), "Redis to write its file")
    with made.redis.client() as client:
        client.execute_command("BGREWRITEAOF")
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the rewrite")
    wait_until(lambda: not files_with(folder, SECRET), "the old file to be removed")


def test_finding_17_with_no_disk_no_text_is_written(up: Callable[..., Up]) -> None:
    service = up("--no-disk")
    assert "nothing on disk" in service.said()
    assert service.predict(SECRET).status_code == 200
    with redis.Redis(unix_socket_path=str(service.data_dir / "redis.sock")) as client:
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("save") == {"save": ""}
    service.stop()
    assert files_with(service.data_dir, SECRET) == []
    assert not list(service.data_dir.glob("appendonly*")) + list(service.data_dir.glob("*.rdb"))


def open_to_others(folder: Path) -> list[str]:
    """What other users of the machine could read or write: the folder, and whatever is in it."""
    paths = [folder, *folder.rglob("*")]
    return [str(path) for path in paths if not path.is_symlink() and path.lstat().st_mode & 0o077]


@pytest.mark.parametrize("shards", ["1", "2"])
def test_a_data_directory_that_was_there_let_all_users_read_every_text(
    up: Callable[..., Up], tmp_path: Path, shards: str
) -> None:
    data = tmp_path / "data"
    for folder in (data, *([data / "shard-1"] if shards == "2" else [])):
        folder.mkdir(mode=0o755)
    service = up("--shards", shards, data_dir=data)
    assert service.predict(SECRET, *map(str, range(10))).status_code == 200
    wait_until(lambda: files_with(data, SECRET), "Redis to write its file")
    assert open_to_others(data) == []
    if shards == "1":
        with redis.Redis(unix_socket_path=str(data / "redis.sock")) as client:
            client.execute_command("BGREWRITEAOF")
            wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the rewrite")
        assert open_to_others(data) == []


def test_what_an_earlier_version_left_open_is_closed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "appendonlydir").mkdir(parents=True)
    for name in ("appendonlydir/appendonly.aof.1.incr.aof", "redis.log", "lock"):
        (data / name).touch(0o644)
    data.chmod(0o2775)
    DataDir(data).close()
    assert open_to_others(data) == []
    assert data.stat().st_mode & 0o7777 == 0o2700


def test_a_directory_with_files_of_others_stays_open_to_them(tmp_path: Path) -> None:
    """A data directory may be /tmp or a home, which others use, too. Our own files there are private."""
    (tmp_path / "another").touch(0o644)
    tmp_path.chmod(0o755)
    for _ in ("the first start", "another, which closed it"):
        DataDir(tmp_path).close()
        (tmp_path / "appendonlydir").mkdir(exist_ok=True)
    (tmp_path / "appendonlydir").chmod(0o700)
    assert sorted(open_to_others(tmp_path)) == sorted([str(tmp_path), str(tmp_path / "another")])


def test_a_directory_with_our_files_alone_is_closed(tmp_path: Path) -> None:
    for name in ("lock", "operator.key", "redis.sock", "redis.log", "temp-rewriteaof-bg-7.aof"):
        (tmp_path / name).touch(0o644)
    for name in ("appendonlydir", "operators", "shard-1", "shard-12"):
        (tmp_path / name).mkdir()
    tmp_path.chmod(0o755)
    DataDir(tmp_path).close()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["appendonlydir", "appendonly.aof", "dump.rdb"])
def test_finding_17_texts_of_earlier_runs_are_not_left_behind_unsaid(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    data = DataDir(tmp_path)
    with pytest.raises(CommandError, match=rf"{name} holds texts of earlier runs.*--no-disk.*remove it"):
        EmbeddedRedis(ServerBinary(Path("/x"), (7, 0)), data, on_disk=False)
    data.close()


def test_finding_24_no_process_of_up_has_a_password_in_its_arguments(up: Callable[..., Up]) -> None:
    """The process list shows the arguments of every process to every user."""
    service = up()
    words = [psutil.Process(service.pid).cmdline(), *(process.cmdline() for process in service.offspring())]
    assert len(words) >= 5
    assert not [word for line in words for word in line if "pass" in word or "://" in word]


@pytest.mark.parametrize("url", ["redis://:hunter2@127.0.0.1:1/0", "unix:///tmp/none?password=hunter2"])
def test_finding_24_a_password_is_not_taken_as_an_argument(up: Callable[..., Up], url: str) -> None:
    refused = up("--redis-url", url, ready=False)
    assert refused.wait() == 2
    assert "set REDIS_URL instead" in refused.said()
    assert "hunter2" not in refused.said()
