"""What the Redis of `millrace up` refuses before it starts, and what it leaves behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from millrace.errors import CommandError
from millrace.local.embedded_redis import DataDir, EmbeddedRedis, default_data_dir
from millrace.local.redis_server import ServerBinary


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
    refused = r"the data directory .*/file cannot be used: File exists; choose another with --data-dir\."
    with pytest.raises(CommandError, match=refused):
        DataDir(tmp_path / "file")


def test_a_long_path_moves_the_socket_elsewhere(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 90)
    redis = EmbeddedRedis(ServerBinary(Path("/x"), (7, 0)), DataDir(long))
    assert len(os.fsencode(redis.socket)) <= 100
    redis.close()
    assert not redis.socket.parent.exists()


def test_a_long_temporary_directory_is_not_used_for_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis ended because the path of its socket was too long."""
    long = tmp_path / ("d" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    redis = EmbeddedRedis(ServerBinary(Path("/x"), (7, 0)), DataDir(long))
    assert len(os.fsencode(redis.socket)) <= 100
    redis.close()


def test_a_path_too_long_for_any_socket_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(**_: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", nowhere)
    data = DataDir(tmp_path / ("d" * 90))
    with pytest.raises(CommandError, match=r"is too long for a socket, .*: choose a shorter --data-dir\."):
        EmbeddedRedis(ServerBinary(Path("/x"), (7, 0)), data)
    data.close()


def test_a_path_with_odd_characters_survives_in_the_url(tmp_path: Path) -> None:
    redis = EmbeddedRedis(ServerBinary(Path("/x"), (7, 0)), DataDir(tmp_path / "a b?c%"))
    assert redis.url.endswith("/a%20b%3Fc%25/redis.sock")
    redis.close()


def test_last_words_are_the_last_warning(tmp_path: Path) -> None:
    redis = EmbeddedRedis(ServerBinary(Path("/x"), (7, 0)), DataDir(tmp_path))
    assert redis.why_it_ended() == ""
    redis.log.write_text("1:M 1 Jan 2026 # Can't handle RDB format version 80\n1:M 1 Jan 2026 * bye\n")
    assert redis.why_it_ended() == f"Can't handle RDB format version 80 ({redis.log})"
    redis.close()


@pytest.mark.parametrize(("version", "named"), [((7, 0, 15), True), ((8, 2, 3), False)])
def test_who_wrote_data_that_a_server_does_not_read_is_named(
    tmp_path: Path, version: tuple[int, ...], named: bool
) -> None:
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir/appendonly.aof.1.base.rdb").write_bytes(b"REDIS0012\xfa\x09redis-ver\x058.2.3")
    redis = EmbeddedRedis(ServerBinary(Path("/x"), version), DataDir(tmp_path))
    redis.log.write_text("1:M 1 Jan 2026 # Bad file format\n")
    reason, _, hint = redis.why_it_ended().partition("; ")
    assert reason == f"Bad file format ({redis.log})"
    assert hint.startswith("the data was written by Redis 8.2.3 and /x is Redis 7.0.15: put") == named
    redis.close()


@pytest.mark.parametrize(
    ("server", "asked"),
    [
        (ServerBinary(Path("/x"), (9, 1, 2), valkey=True), True),
        (ServerBinary(Path("/x"), (8, 1), valkey=True), False),
        (ServerBinary(Path("/x"), (8, 2, 3)), False),
    ],
)
def test_valkey_is_asked_to_try_what_a_newer_redis_wrote(
    tmp_path: Path, server: ServerBinary, asked: bool
) -> None:
    redis = EmbeddedRedis(server, DataDir(tmp_path))
    assert ("--rdb-version-check" in redis.command()) == asked
    redis.close()


def test_the_data_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data_dir() == Path("/somewhere/millrace")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_data_dir() == Path("~/.local/share/millrace").expanduser()


@pytest.mark.parametrize("relative", ["", "data", "./data", "../data", "~/data"])
def test_a_relative_data_home_is_ignored_instead_of_depending_on_the_working_directory(
    relative: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", relative)
    assert default_data_dir() == Path("~/.local/share/millrace").expanduser()
