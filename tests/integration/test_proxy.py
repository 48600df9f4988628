"""The proxy of the tests."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.proxy import Proxy


def test_a_connection_that_comes_with_the_end_is_closed() -> None:
    """It was left to the garbage collector, which complained in a later test."""
    proxy = Proxy("127.0.0.1:1")
    busy, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go_on.wait(10)

    proxy._call(hold)
    assert busy.wait(10)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as late:
        threading.Timer(0.1, go_on.set).start()
        proxy.close()
        with contextlib.suppress(ConnectionResetError):
            assert late.recv(1) == b""
