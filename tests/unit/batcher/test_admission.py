"""How much may wait, and when those who are shed shall come back: sums alone."""

from __future__ import annotations

import pytest

from batcher.hub.admission import PROMISED_SHARE, Admission, LaneCaps

CAPS = LaneCaps(interactive=1000, bulk=5000)


@pytest.mark.parametrize(
    ("lane", "first", "rate", "cap"),
    [
        ("interactive", False, 0.0, 1000),  # nobody knows yet how fast the workers are
        ("interactive", False, 1e6, 1000),
        ("interactive", False, 100.0, 101),  # half of what they do in two seconds
        ("interactive", True, 100.0, 126),
        ("interactive", True, 1e6, 1250),
        ("bulk", False, 100.0, 5000),  # nobody waits for a job on a socket
    ],
)
def test_no_more_is_admitted_than_is_claimed_in_time(lane: str, first: bool, rate: float, cap: int) -> None:
    assert Admission(CAPS).cap(lane, first, budget_s=2.0, rate=rate) == cap  # type: ignore[arg-type]


def test_who_is_shed_comes_back_after_what_waits_and_who_was_shed_before() -> None:
    admission, rate = Admission(CAPS), 100.0 / PROMISED_SHARE
    waits = [admission.retry_after_s(1000, cost=500, rate=rate, now=50.0) for _ in range(3)]
    assert waits == [15.0, 20.0, 25.0]
    assert admission.retry_after_s(1000, cost=500, rate=rate, now=60.0) == 20.0, "ten seconds drained 1000"


def test_retry_after_is_within_bounds() -> None:
    admission = Admission(CAPS)
    assert admission.retry_after_s(1000, cost=1, rate=0.0, now=1.0) == 1.0
    assert admission.retry_after_s(1, cost=1, rate=100.0, now=1.0) == 1.0
    assert admission.retry_after_s(10**9, cost=1, rate=100.0, now=1.0) == 60.0
