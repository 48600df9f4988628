"""The end of a process: accepted connections are served, and new ones are dropped."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import pytest

from api.lifecycle import TAKE_S, TAKES, Lifecycle, SynFilter
from tests.simulation.loop import SimulatedLoop


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


class Backlog(SynFilter):
    """A listener whose server accepts the last connection after `turns` looks; notes what was asked when."""

    def __init__(self, turns: int) -> None:
        self.turns = turns
        self.events = list[tuple[float, str]]()

    def note(self, event: str) -> None:
        self.events.append((round(asyncio.get_running_loop().time() - 1000.0, 6), event))

    def drop_new(self) -> None:
        self.note("drop")

    def backlog_waiting(self) -> bool:
        self.note("look")
        self.turns -= 1
        return self.turns >= 0


def ended(backlog: Backlog, *, filters: bool = True) -> list[tuple[float, str]]:
    """What happens when, in seconds, from a SIGTERM until the server's own handler gets it."""

    async def end() -> None:
        done = asyncio.Event()
        signal.signal(signal.SIGTERM, lambda *_: done.set())
        lifecycle = Lifecycle(catches_signals=True, quiet_s=5.0, syn_filter=backlog if filters else None)
        lifecycle.start()
        signal.raise_signal(signal.SIGTERM)
        assert lifecycle.draining
        assert not done.is_set()
        await done.wait()
        backlog.note("pass on")

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(end())
    return backlog.events


@pytest.mark.usefixtures("passed_on")
def test_a_signal_is_passed_on_once_the_last_connection_has_been_accepted() -> None:
    seen = ended(Backlog(turns=1))
    assert seen == [(5.0, "drop"), (5.1, "look"), (5.2, "look"), (5.2, "pass on")]


@pytest.mark.usefixtures("passed_on")
def test_a_backlog_that_is_never_empty_keeps_no_process() -> None:
    drop, *looks, last = ended(Backlog(turns=1000))
    assert drop == (5.0, "drop")
    assert looks == [(pytest.approx(5 + TAKE_S * number), "look") for number in range(1, TAKES + 1)]
    assert last == (pytest.approx(5 + TAKE_S * (TAKES + 1)), "pass on")


@pytest.mark.usefixtures("passed_on")
def test_pending_connections_have_their_time_without_a_filter_too() -> None:
    assert ended(Backlog(turns=1), filters=False) == [(5.1, "pass on")]


async def test_a_second_signal_does_not_wait(passed_on: list[int]) -> None:
    lifecycle = Lifecycle(catches_signals=True, quiet_s=60.0)
    lifecycle.start()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert passed_on == [signal.SIGINT]
