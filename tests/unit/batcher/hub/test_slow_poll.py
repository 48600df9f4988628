"""When a waiter's result is looked for, in case its hint was lost."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from batcher.core.commands import Outcomes, State
from batcher.hub.dispatcher import LOOK_S
from batcher.hub.pending import HubCounts, PendingEntry, Waiter
from batcher.hub.slow_poll import LOOK_MAX_S, SlowPoll

TICK_S = 0.1


def poll_of(**asked_at: float) -> tuple[SlowPoll, dict[str, PendingEntry]]:
    """A poll of entries that the queue accepted at these times."""
    pending = {
        entry: PendingEntry(entry, "text", "interactive", "", 1e9, asked_at=at, look_at=at + LOOK_S)
        for entry, at in asked_at.items()
    }
    dispatcher: Any = SimpleNamespace(pending=pending)
    pipeline: Any = None
    return SlowPoll(pipeline, dispatcher), pending


async def test_results_are_looked_for_at_growing_intervals():
    poll, _ = poll_of(x=100.0)
    ticks = [n for n in range(200) if poll.late(100.0 + (n + 0.5) * TICK_S)]
    gaps = [after - before for before, after in pairwise(ticks)]
    assert ticks[0] == round(LOOK_S / TICK_S)
    assert gaps == sorted(gaps)
    assert gaps[-1] == round(LOOK_MAX_S / TICK_S)


async def test_after_a_loss_everybody_who_has_waited_is_looked_for():
    soon = 100 + LOOK_S + 0.1
    poll, _ = poll_of(x=100.0, y=100.0, new=soon)
    assert len(poll.late(100 + LOOK_S + 0.01)) == 2
    assert poll.late(soon) == []
    poll.hints_lost = True
    assert [waiter.id for waiter in poll.late(soon)] == ["x", "y"]


async def test_finding_15_what_waits_to_be_asked_is_not_looked_for():
    """The queue knows nothing of it yet: it would count as lost, and be asked for twice."""
    poll, pending = poll_of(x=math.inf)
    poll.hints_lost = True
    assert poll.late(1e6) == []
    pending["x"].asked_at, pending["x"].look_at = 1e6, 1e6 + LOOK_S
    poll.hints_lost = False
    assert poll.late(1e6 + LOOK_S) == [pending["x"]]


@pytest.mark.parametrize("state", [State("gone"), State("known", b"junk")])
async def test_what_nobody_waits_for_any_more_counts_as_neither_found_nor_lost(state: State) -> None:
    """Its last request may leave while Redis is asked."""

    async def run(command: Outcomes) -> list[State]:
        return [state, state]

    _, pending = poll_of(left=100.0, stays=100.0)
    pending["stays"].waiters.append(Waiter(1e9, "interactive", ""))
    asked: list[str] = []
    counts = HubCounts()
    pipeline: Any = SimpleNamespace(run=run)
    dispatcher: Any = SimpleNamespace(
        counts=counts, again=lambda one: asked.append(one.id), take_result=lambda one, _: asked.append(one.id)
    )
    await SlowPoll(pipeline, dispatcher).fetch([*pending.values()])
    assert asked == ["stays"]
    assert counts.polled == (state.kind == "known")


@pytest.mark.parametrize(
    ("error", "lost"),
    [(redis.exceptions.ResponseError("no permissions"), False), (redis.exceptions.ConnectionError(), True)],
)
async def test_redis_is_lost_if_it_does_not_answer_a_poll_and_not_if_it_refuses(error, lost):
    async def run(command):
        raise error

    seen: list[Exception] = []
    pipeline: Any = SimpleNamespace(run=run)
    dispatcher: Any = SimpleNamespace(pending={}, lost=seen.append)
    await SlowPoll(pipeline, dispatcher).fetch([])
    assert seen == ([error] if lost else [])
