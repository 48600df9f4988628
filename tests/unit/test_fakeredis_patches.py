"""fakeredis as the tests use it: threads share a database, and do not disturb each other's full memory."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import fakeredis
import pytest
import redis
from fakeredis._core import _server
from fakeredis.commands_mixins.scripting_mixin import ScriptingCommandsMixin

from tests.fakeredis_patches import FullMemory


def test_threads_that_connect_at_once_share_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    create = _server.Database

    def slow(lock: Any) -> Any:
        time.sleep(0.05)  # so that the other thread connects meanwhile
        return create(lock)

    monkeypatch.setattr(_server, "Database", slow)
    server, barrier = fakeredis.FakeServer(version=(7,)), Barrier(2)

    def write(number: int) -> None:
        barrier.wait()
        fakeredis.FakeRedis(server=server).set(f"key {number}", "value")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, range(2)))
    assert fakeredis.FakeRedis(server=server).dbsize() == 2


def test_a_script_that_has_written_may_use_memory_whatever_other_threads_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory, between = FullMemory(), fakeredis.FakeRedis()
    patches = memory.patches()

    def interrupted(socket: Any, lua: Any, names: Any, command: bytes, *words: Any) -> Any:
        if command == b"SET":  # as if another thread ran a script at this moment
            between.eval("return redis.call('GET', 'other')", 0)
        return patches["_lua_redis_call"](socket, lua, names, command, *words)

    monkeypatch.setattr(ScriptingCommandsMixin, "eval", patches["eval"])
    monkeypatch.setattr(ScriptingCommandsMixin, "_lua_redis_call", interrupted)
    memory.full = True
    client = fakeredis.FakeRedis()
    client.eval("redis.call('DEL', 'none') redis.call('SET', 'key', 'value')", 0)
    assert client.get("key") == b"value"
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.eval("redis.call('SET', 'key', 'value')", 0)


def test_scripts_of_several_servers_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share an interpreter, also if one runs within another, or beside it in another thread."""
    clients = [fakeredis.FakeRedis() for _ in range(4)]
    source = "redis.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], redis.call('GET', KEYS[1])}"
    call, inner = ScriptingCommandsMixin._lua_redis_call, fakeredis.FakeRedis()

    def nested(socket: Any, lua: Any, names: Any, command: bytes, *words: Any) -> Any:
        if command == b"SET":
            assert inner.eval("return redis.call('GET', KEYS[1]) or ARGV[1]", 1, "a", "none") == b"none"
        return call(socket, lua, names, command, *words)

    monkeypatch.setattr(ScriptingCommandsMixin, "_lua_redis_call", nested)

    def write(number: int) -> list[Any]:
        return [clients[number].eval(source, 1, "key", f"{number} {time}") for time in range(50)]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(write, range(4)))
    assert found == [[[b"key", b"%d %d" % (number, time)] for time in range(50)] for number in range(4)]


def test_a_script_cannot_create_a_global_variable() -> None:
    client = fakeredis.FakeRedis()
    for source in ("leaked = 1", "function leaked() end"):
        with pytest.raises(redis.exceptions.ResponseError, match="create global variable leaked"):
            client.eval(source, 0)
    assert client.eval("return tostring(leaked)", 0) == b"nil"
