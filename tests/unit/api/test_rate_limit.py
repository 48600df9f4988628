"""Sliding windows per client, without a timer."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.asgi.http import client_address, network_of
from api.rate_limit import Rate, Windows, parse_rate


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("100/second", [(100, 1)]),
        ("20/second;500/minute", [(20, 1), (500, 60)]),
        ("5 per 2 hours, 1/day", [(5, 7200), (1, 86_400)]),
        ("10/10second", [(10, 10)]),
        ("", []),
    ],
)
def test_rates_are_read(said: str, meant: list[tuple[int, float]]) -> None:
    assert [(rate.requests, rate.seconds) for rate in parse_rate(said)] == meant


@pytest.mark.parametrize("said", ["often", "0/second", "5/0 second", "5", "/second", "5/second;", "-1/day"])
def test_anything_else_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match="must be a number and a unit"):
        parse_rate(said)


@given(st.lists(st.floats(0, 30), min_size=1, max_size=60), st.integers(1, 8))
def test_no_two_windows_have_more_than_the_rate_and_the_wait_is_enough(
    gaps: list[float], requests: int
) -> None:
    windows, at, taken = Windows(Rate(requests, 10, "")), 1000.0, []
    for gap in gaps:
        at += gap
        wait_s = windows.wait_s("a", at)
        if wait_s:
            at += wait_s + 1e-6
            assert windows.wait_s("a", at) == 0, "who comes back as asked is taken"
        windows.count("a")
        taken.append(at)
    for number in {at // 10 for at in taken}:
        assert sum(at // 10 == number for at in taken) <= requests


def test_a_burst_at_the_border_of_two_windows_is_not_twice_the_rate() -> None:
    windows = Windows(Rate(10, 60, ""))
    for _ in range(10):
        assert windows.wait_s("a", 59.0) == 0
        windows.count("a")
    assert windows.wait_s("a", 61.0) == pytest.approx(5.0)
    assert windows.wait_s("b", 61.0) == 0
    assert windows.wait_s("a", 200.0) == 0


def test_finding_24_clients_that_are_counted_have_a_bound() -> None:
    windows = Windows(Rate(1, 60, ""), most_clients=100)
    for number in range(1000):
        assert windows.wait_s(str(number), 1.0) == 0
        windows.count(str(number))
    assert windows.wait_s("999", 1.0) > 0
    assert windows.wait_s("0", 1.0) == 0
    assert sum(map(len, (windows._now, windows._before))) <= 100


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unknown", "unknown"),
        ("a:b", "a:b"),
    ],
)
def test_finding_24_a_client_of_ipv6_is_its_network(address: str, client: str) -> None:
    assert network_of(address) == client
    assert client_address({"client": (address, 5)}) == client


def test_finding_24_no_timer_runs_beside_the_service() -> None:
    """A timer thread would wake up every 10 ms and visit all clients."""
    code = (
        "import threading; from api.rate_limit import RateCounter, parse_rate;"
        "RateCounter(parse_rate('5/second')).count('a');"
        "assert threading.active_count() == 1, threading.enumerate()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
