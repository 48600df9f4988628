"""What a paused lane accepts, and what Retry-After promises."""

from __future__ import annotations

import math
import time

import pytest

from batcher.core.holds import UNDECIDED, Pause, Waiting, in_force, later, merge_pauses, read_pauses
from batcher.errors import Paused
from batcher.hub.dispatcher import Admission


def admission(waiting: Waiting, left_s: float) -> Admission:
    made = Admission({"interactive": 1000, "bulk": 5000})
    made.rate = 100.0
    made.pauses = {"interactive": Pause(waiting, time.monotonic() + left_s)}
    return made


@pytest.mark.parametrize(
    ("waiting", "left_s", "budget_s", "admitted"),
    [
        ("keep", 30, 60, True),
        ("keep", 30, 10, False),
        ("refuse", 30, 60, False),
        ("finish", 30, 60, False),
        ("refuse", -1, 10, True),  # it has ended
    ],
)
def test_only_what_can_be_answered_in_time_is_admitted(
    waiting: Waiting, left_s: float, budget_s: float, admitted: bool
) -> None:
    made = admission(waiting, left_s)
    made.check("bulk", budget_s)
    if admitted:
        made.check("interactive", budget_s)
    else:
        with pytest.raises(Paused) as refused:
            made.check("interactive", budget_s)
        assert refused.value.retry_after_s == pytest.approx(30, abs=1)


def test_the_cap_and_retry_after_count_from_the_end_of_the_pause() -> None:
    made = admission("keep", 30)
    cap = made.cap("interactive", False, budget_s=40.0)
    assert 450 < cap < 510, "half of what the workers do in the ten seconds that are left"
    assert made.queue_full("interactive", 75, 0, 0.0).retry_after_s == pytest.approx(31, abs=0.2)
    assert made.queue_full("bulk", 75, 0, 0.0).retry_after_s == pytest.approx(1, abs=0.2)


def test_only_refused_lanes_refuse_what_waits() -> None:
    assert [lane for lane, _ in admission("refuse", 30).refusals()] == ["interactive"]
    assert not list(admission("keep", 30).refusals())
    assert not list(admission("refuse", -1).refusals())


@pytest.mark.parametrize(
    "text", ["", "bulk", "bulk keep", "bulk stop 10;", "bulk keep -1;", "bulk keep x;;", "bulk=x;"]
)
def test_what_is_unreadable_is_no_pause(text: str) -> None:
    assert read_pauses(text) == {}


def test_the_last_decision_about_a_lane_is_read_also_if_it_has_ended_a_pause() -> None:
    pauses = read_pauses("interactive refuse 60000;interactive=7;bulk=8;")
    assert (pauses["interactive"].waiting, pauses["interactive"].number) == ("refuse", 7)
    assert (pauses["bulk"].left_s, pauses["bulk"].number) == (0, 8)
    assert in_force(pauses).keys() == {"interactive"}


def test_the_greatest_number_counts_and_without_numbers_the_pause_that_ends_last() -> None:
    short, long = (Pause("keep", math.inf if long else 1.0) for long in (False, True))
    ended, again = Pause("keep", -math.inf, 2), Pause("refuse", 1.0, 3)
    for pauses, counts in (([short, long], long), ([long, ended], ended), ([ended, again, long], again)):
        for order in (pauses, pauses[::-1]):
            assert merge_pauses({"bulk": pause} for pause in order) == {"bulk": counts}


@pytest.mark.parametrize(
    ("known", "number", "found"),
    [
        (None, 1, True),
        (UNDECIDED, 1, True),
        (Pause("keep", math.inf, 1), 2, True),
        (Pause("keep", math.inf, 2), 2, False),
        (Pause("keep", -math.inf, 3), 2, False),
        (Pause("keep", math.inf), 2, False),  # a process of 0.2.0 has decided it meanwhile
        (Pause("keep", -math.inf), 2, True),
    ],
)
def test_only_later_decisions_are_passed_on(known: Pause | None, number: int, found: bool) -> None:
    decided = {"bulk": Pause("refuse", math.inf, number)}
    assert later(decided, {} if known is None else {"bulk": known}) == (decided if found else {})
