"""fakeredis as the tests use it: threads that connect at the same time see the same data."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import fakeredis
import pytest
from fakeredis._core import _server


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
