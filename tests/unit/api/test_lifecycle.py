"""A port that is about to close: accepted connections are served, new ones are dropped."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from api.lifecycle import SynFilter


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        made = socket.create_server((request.param, 0), family=family)
    except OSError:
        pytest.skip(f"{request.param} is not available")
    with made:
        yield made


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can filter SYN packets")
def test_pending_connections_are_served_and_new_ones_are_dropped(listener: socket.socket) -> None:
    syn_filter, address = SynFilter(listener), listener.getsockname()[:2]
    with socket.create_connection(address, timeout=5) as pending:
        pending.sendall(b"request")
        syn_filter.drop_new()
        with pytest.raises(TimeoutError):
            socket.create_connection(address, timeout=0.2)
        assert syn_filter.backlog_waiting()
        accepted, _ = listener.accept()
        assert not syn_filter.backlog_waiting()
        with accepted:
            assert accepted.recv(100) == b"request"
            accepted.sendall(b"response")
            assert pending.recv(100) == b"response"


def test_a_closed_port_has_no_backlog(listener: socket.socket) -> None:
    syn_filter = SynFilter(listener)
    listener.close()
    syn_filter.drop_new()
    assert not syn_filter.backlog_waiting()
