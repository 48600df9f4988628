"""When a waiter's result is looked for, in case its hint was lost."""

from itertools import pairwise

from batcher.hub.pending import LOOK_MOST_S, LOOK_S, PendingEntries

TICK_S = 0.1


def hold(waiters: PendingEntries, *ids: str, asked_at: float = 100.0) -> None:
    waiters.hold([(entry, "text") for entry in ids], 1e9, "interactive", "", False, "")
    for waiter in waiters:
        waiter.asked(asked_at)


async def test_results_are_looked_for_at_growing_intervals():
    waiters = PendingEntries()
    hold(waiters, "x")
    (waiter,) = waiters
    ticks = [n for n in range(200) if waiters.late(waiter.asked_at + (n + 0.5) * TICK_S, every_entry=False)]
    gaps = [after - before for before, after in pairwise(ticks)]
    assert ticks[0] == round(LOOK_S / TICK_S)
    assert gaps == sorted(gaps)
    assert gaps[-1] == round(LOOK_MOST_S / TICK_S)


async def test_after_a_loss_everybody_who_has_waited_is_looked_for():
    waiters = PendingEntries()
    hold(waiters, "x", "y")
    assert len(waiters.late(100 + LOOK_S + 0.01, every_entry=False)) == 2
    soon = 100 + LOOK_S + 0.1
    hold(waiters, "new", asked_at=soon)
    assert waiters.late(soon, every_entry=False) == []
    assert [waiter.id for waiter in waiters.late(soon, every_entry=True)] == ["x", "y"]


async def test_finding_15_what_waits_to_be_asked_is_not_looked_for():
    """The queue knows nothing of it yet: it would count as lost, and be asked for twice."""
    waiters = PendingEntries()
    waiters.hold([("x", "text")], 1e9, "interactive", "", False, "")
    assert waiters.late(1e6, every_entry=True) == []
    (waiter,) = waiters
    waiter.asked(1e6)
    assert waiters.late(1e6 + LOOK_S, every_entry=False) == [waiter]
