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
