"""The end of a process: accepted connections are served, and new ones are dropped."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import pytest

from api.lifecycle import Lifecycle, SynFilter
from tests.shards import until


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


@pytest.fixture
def passed_on() -> Iterator[list[int]]:
    """The signals that the server's own handlers get."""
    numbers = list[int]()

    def note(number: int, _: FrameType | None) -> None:
        numbers.append(number)

    former = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    yield numbers
    for number, handler in former.items():
        signal.signal(number, handler)


async def test_a_signal_is_passed_on_after_the_quiet_time(passed_on: list[int]) -> None:
    lifecycle = Lifecycle(catches_signals=True)
    lifecycle.start()
    signal.raise_signal(signal.SIGTERM)
    assert lifecycle.draining
    assert passed_on == []
    await until(lambda: passed_on, "the signal")
    assert passed_on == [signal.SIGTERM]


async def test_a_second_signal_does_not_wait(passed_on: list[int]) -> None:
    lifecycle = Lifecycle(catches_signals=True, quiet_s=60.0)
    lifecycle.start()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert passed_on == [signal.SIGINT]
