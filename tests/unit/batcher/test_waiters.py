"""When a waiter's result is looked for, in case its hint was lost."""

from itertools import pairwise

from batcher.waiters import LOOK_MOST_S, LOOK_S, Waiters

TICK_S = 0.1


def hold(waiters: Waiters, *ids: str) -> None:
    waiters.hold([(entry, "text") for entry in ids], 1e9, "interactive", "", False, "")


async def test_results_are_looked_for_at_growing_intervals():
    waiters = Waiters()
    hold(waiters, "x")
    (waiter,) = waiters
    ticks = [n for n in range(200) if waiters.late(waiter.asked_at + (n + 0.5) * TICK_S, everybody=False)]
    gaps = [after - before for before, after in pairwise(ticks)]
    assert ticks[0] == round(LOOK_S / TICK_S)
    assert gaps == sorted(gaps)
    assert gaps[-1] == round(LOOK_MOST_S / TICK_S)


async def test_after_a_loss_everybody_who_has_waited_is_looked_for():
    waiters = Waiters()
    hold(waiters, "x", "y")
    now = max(waiter.asked_at for waiter in waiters)
    assert len(waiters.late(now + LOOK_S + 0.01, everybody=False)) == 2
    hold(waiters, "new")
    soon = now + LOOK_S + 0.1
    for waiter in waiters:
        if waiter.id == "new":
            waiter.asked_at, waiter.look_at = soon, soon + LOOK_S
    assert waiters.late(soon, everybody=False) == []
    assert [waiter.id for waiter in waiters.late(soon, everybody=True)] == ["x", "y"]
