"""A port that is about to close: who is inside is served, who comes later hears nothing."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from api.server.syn_filter import Door


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        made = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip(f"no {request.param} here")
    with made:
        yield made


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the door stays open")
def test_who_is_inside_is_served_and_who_comes_later_stays_outside(listener: socket.socket) -> None:
    door, address = Door(listener), listener.getsockname()[:2]
    with socket.create_connection(address, timeout=5) as inside:
        inside.sendall(b"asked before")
        door.shut()
        with pytest.raises(TimeoutError):
            socket.create_connection(address, timeout=0.2)
        assert door.crowded()
        taken, _ = listener.accept()
        assert not door.crowded()
        with taken:
            assert taken.recv(100) == b"asked before"
            taken.sendall(b"answered")
            assert inside.recv(100) == b"answered"


def test_a_closed_port_has_nobody_inside(listener: socket.socket) -> None:
    door = Door(listener)
    listener.close()
    door.shut()
    assert not door.crowded()
