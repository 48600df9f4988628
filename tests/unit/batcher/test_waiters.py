"""Who waits for what: one waiter an id, however many requests share it."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.messages import Lane, Prediction
from batcher.waiters import Waiter, Waiters

RESULT = Prediction(b"[]", "rev", 3)


def hold(
    waiters: Waiters, *ids: str, deadline: float = 10.0, lane: Lane = "interactive", first: bool = False
) -> tuple[dict[str, Waiter], Sequence[str]]:
    held, ask = waiters.hold(((entry, "text") for entry in ids), deadline, lane, "", first)
    return held, [waiter.id for waiter in ask]


async def test_what_somebody_waits_for_already_is_not_asked_for_again() -> None:
    waiters = Waiters()
    one, asked = hold(waiters, "a", "b", "a")
    assert asked == ["a", "b"]
    two, asked = hold(waiters, "b", "c")
    assert asked == ["c"]
    assert one["b"] is two["b"]
    assert len(waiters) == 3


async def test_it_is_asked_for_again_when_it_is_wanted_longer_or_sooner() -> None:
    waiters = Waiters()
    hold(waiters, "a", lane="bulk")
    assert hold(waiters, "a", lane="bulk", deadline=9.0)[1] == []
    assert hold(waiters, "a", lane="bulk", deadline=11.0)[1] == ["a"]
    assert hold(waiters, "a", lane="interactive")[1] == ["a"]
    held, asked = hold(waiters, "a", first=True)
    assert asked == ["a"]
    waiter = held["a"]
    assert (waiter.deadline, waiter.lane, waiter.first, waiter.waiting) == (11.0, "interactive", True, 5)


async def test_only_what_nobody_waits_for_any_more_is_unwanted() -> None:
    waiters = Waiters()
    one, _ = hold(waiters, "a", "b")
    two, _ = hold(waiters, "b")
    assert waiters.let_go(one.values()) == ["a"]
    assert one["a"].future.cancelled()
    assert "b" in waiters
    waiters.resolve(two["b"], RESULT)
    assert waiters.let_go(two.values()) == [], "it has its outcome"
    assert len(waiters) == 0


async def test_everybody_is_told() -> None:
    waiters = Waiters()
    held, _ = hold(waiters, "a", "b")
    waiters.resolve_all(RESULT)
    assert [waiter.future.result() for waiter in held.values()] == [RESULT, RESULT]
    assert hold(waiters, "a")[1] == ["a"], "who comes now asks anew"
