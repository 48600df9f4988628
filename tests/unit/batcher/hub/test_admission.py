"""How much may wait, and when shed requests should come back: pure functions."""

from __future__ import annotations

import pytest

from batcher.hub.dispatcher import PROMISED_SHARE, Admission
from batcher.messages import Lane

CAPS = {"interactive": 1000, "bulk": 5000}


def admission(rate: float) -> Admission:
    made = Admission(CAPS)
    made.rate = rate
    return made


@pytest.mark.parametrize(
    ("lane", "first", "rate", "cap"),
    [
        ("interactive", False, 0.0, 1000),  # the speed of the workers is not known yet
        ("interactive", False, 1e6, 1000),
        ("interactive", False, 100.0, 101),  # half of what they do in two seconds
        ("interactive", True, 100.0, 126),
        ("interactive", True, 1e6, 1250),
        ("bulk", False, 100.0, 5000),  # no client waits for a job on a socket
    ],
)
def test_no_more_is_admitted_than_is_claimed_in_time(lane: Lane, first: bool, rate: float, cap: int) -> None:
    assert admission(rate).cap(lane, first, budget_s=2.0) == cap


def test_who_is_shed_comes_back_after_what_waits_and_who_was_shed_before() -> None:
    shedding = admission(100.0 / PROMISED_SHARE)
    waits = [shedding.retry_after_s(1000, cost=500, now=50.0) for _ in range(3)]
    assert waits == [15.0, 20.0, 25.0]
    assert shedding.retry_after_s(1000, cost=500, now=60.0) == 20.0, "ten seconds drained 1000"


def test_retry_after_is_within_bounds() -> None:
    assert admission(0.0).retry_after_s(1000, cost=1, now=1.0) == 1.0
    assert admission(100.0).retry_after_s(1, cost=1, now=1.0) == 1.0
    assert admission(100.0).retry_after_s(10**9, cost=1, now=1.0) == 60.0
