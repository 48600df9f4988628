"""What a process withdraws from the queue, and what the answers to that mean."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any

import pytest
import redis

from batcher.connection.outage import Outage
from batcher.core.commands import Accepted, Cancel, Enqueue, EnqueueAll, Full, State
from batcher.core.holds import Pause
from batcher.errors import Paused, QueueFull, QueueUnavailable
from batcher.hub.dispatcher import MAX_TOGETHER, OUTAGE_GRACE_S, Admission, Dispatcher, estimate_cost
from batcher.hub.pending import PendingEntry, Waiter
from batcher.messages import Failure, Lane, Prediction


class Made:
    """A dispatcher whose pipeline answers cancels only, or anything with `error`. A test answers the rest."""

    writes = 0

    def __init__(self) -> None:
        self.commands: list[Any] = []
        self.answers: list[asyncio.Future[Any]] = []
        self.error: Exception | None = None
        self.now = 100.0
        self.outage = Outage(now=lambda: self.now)
        pipeline: Any = self
        admission = Admission({"interactive": 1000, "bulk": 1000})
        self.dispatcher = Dispatcher(pipeline, "t", "api", self.outage, admission)

    def run(self, command: Any) -> asyncio.Future[Any]:
        self.commands += command.requests if isinstance(command, EnqueueAll) else [command]
        answer = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        if self.error is not None:
            answer.set_exception(self.error)
        elif isinstance(command, Cancel):
            answer.set_result(len(command.ids))
        return answer

    def ask(self, lane: Lane, *ids: str) -> Any:
        deadline = asyncio.get_running_loop().time() + 60
        return self.dispatcher.hold(Waiter(deadline, lane, "-", False, ""), [(one, "text") for one in ids])


def _of(held: dict[str, PendingEntry]) -> tuple[Waiter, Collection[PendingEntry]]:
    """The only request that waits for these, and they."""
    (waiter,) = {waiter for entry in held.values() for waiter in entry.waiters}
    return waiter, held.values()


async def test_a_pause_that_refuses_withdraws_what_waits_in_its_lane() -> None:
    made = Made()
    held = made.ask("interactive", "x", "y") | made.ask("bulk", "z")
    await asyncio.sleep(0)
    made.dispatcher.pause({"interactive": Pause("refuse", time.monotonic() + 60)})
    await asyncio.sleep(0)
    assert [command.ids for command in made.commands] == [["x", "y"], ["z"], ["x", "y"]]
    assert [type(command) for command in made.commands] == [Enqueue, Enqueue, Cancel]
    assert isinstance(held["x"].outcome, Paused)
    assert isinstance(held["y"].outcome, Paused)
    assert held["z"].outcome is None
    assert made.dispatcher.pending.keys() == {"z"}


async def test_a_text_with_priority_lends_it_to_no_text_of_another_request() -> None:
    """All texts of a heavy client went first, because it asked for one of a light client again."""
    made = Made()
    now = asyncio.get_running_loop().time()
    made.dispatcher.hold(Waiter(now + 50, "interactive", "light", True), [("common", "text")])
    made.dispatcher.hold(Waiter(now + 50, "interactive", "heavy", False), [("x", "text")])
    again = [("common", "text"), ("x", "text")]
    made.dispatcher.hold(Waiter(now + 60, "interactive", "heavy", False), again)
    await asyncio.sleep(0)
    assert [(command.ids, command.first) for command in made.commands] == [
        (["common"], True),
        (["x"], False),
        (["common", "x"], False),
    ]


async def test_commands_of_one_write_are_one_round_trip() -> None:
    made = Made()
    for writes in (1, 1, 2):
        made.writes = writes
        made.ask("interactive", f"text {len(made.answers)}")
        await asyncio.sleep(0)
        made.answers[-1].set_result([Accepted([State("queued")], 0)])
        await asyncio.sleep(0)
    assert made.dispatcher.counts.round_trips == 2


async def test_finding_45_a_text_that_another_request_waits_for_does_not_lend_its_terms() -> None:
    made = Made()
    now = asyncio.get_running_loop().time()
    made.dispatcher.hold(Waiter(now + 60, "interactive", "old", True, "r1"), [("x", "text")])
    made.dispatcher.hold(Waiter(now + 61, "bulk", "new", False, ""), [("x", "text"), ("y", "text")])
    made.dispatcher.hold(Waiter(now + 1, "interactive", "short", True, ""), [("x", "text"), ("z", "text")])
    await asyncio.sleep(0)
    raised, short = made.commands[1:]
    assert (raised.ids, raised.lane, raised.trace, raised.first) == (["y", "x"], "bulk", "new", False)
    assert raised.cache == ""
    assert (short.ids, short.trace) == (["z"], "short")
    assert 900 < short.budget_ms <= 1000
    # A later pause of bulk work concerns the second request only.
    assert made.dispatcher.pending["x"].lane == "interactive"


async def test_a_request_that_brings_priority_to_a_text_does_not_shorten_its_deadline() -> None:
    made = Made()
    now = asyncio.get_running_loop().time()
    made.dispatcher.hold(Waiter(now + 60, "interactive", "patient", False, ""), [("x", "text")])
    made.dispatcher.hold(Waiter(now + 1, "interactive", "hurried", True, ""), [("x", "text")])
    await asyncio.sleep(0)
    entry = made.dispatcher.pending["x"]
    assert (entry.deadline, entry.first) == (now + 60, True)
    assert [command.first for command in made.commands] == [False, True]


async def test_finding_47_a_refused_request_leaves_a_text_that_gained_priority_to_the_others() -> None:
    made = Made()
    now = asyncio.get_running_loop().time()

    async def answer(number: int, enqueued: Any) -> None:
        await asyncio.sleep(0)
        made.answers[number].set_result([enqueued])
        await asyncio.sleep(0)

    accepted = Accepted([State("queued")], 0)
    x = made.dispatcher.hold(Waiter(now + 60, "interactive", "-", False, ""), [("x", "text")])["x"]
    made.dispatcher.hold(Waiter(now + 0.05, "interactive", "-", True, ""), [("x", "text"), ("y", "text")])
    y = made.dispatcher.hold(Waiter(now + 60, "interactive", "-", False, ""), [("y", "text")])["y"]
    await answer(0, accepted)
    await answer(1, Full(1000))
    await answer(2, accepted)
    assert x.outcome is None
    assert y.outcome is None
    # It is nowhere any more if Redis has lost it and the queue is full.
    made.dispatcher.again(x)
    await answer(3, Full(1000))
    assert isinstance(x.outcome, QueueFull)
    assert y.outcome is None


async def test_a_result_that_was_computed_while_a_request_waited_does_not_count_as_cached() -> None:
    """A later request extends the budget: the command may reach Redis once the result is in the cache."""
    made = Made()
    now = asyncio.get_running_loop().time()
    raw = Prediction(b'[{"label":"A","score":1.0}]', "r1", 3).encode()
    entries = [
        made.dispatcher.hold(Waiter(now + seconds, "interactive", "-", False, "r1"), [("x", "text")])["x"]
        for seconds in (60, 61)
    ]
    known = made.dispatcher.hold(Waiter(now + 60, "interactive", "-", False, "r1"), [("y", "text")])["y"]
    # Replies that arrive together are read at the same time of the loop.
    await asyncio.sleep(0)
    queued, cached = (Accepted([State(kind, raw)], 0) for kind in ("queued", "cached"))  # type: ignore[arg-type]
    for answer, accepted in zip(made.answers, ([queued], [cached, cached]), strict=True):
        answer.set_result(accepted)
    await asyncio.sleep(0)
    assert [entry.outcome.cached for entry in (*entries, known)] == [False, False, True]


async def test_a_text_that_gets_priority_lends_its_budget_to_no_other_text() -> None:
    made = Made()
    now = asyncio.get_running_loop().time()
    made.dispatcher.hold(Waiter(now + 60, "interactive", "-", False, ""), [("x", "text")])
    made.dispatcher.hold(Waiter(now + 1, "interactive", "-", True, ""), [("x", "text"), ("y", "text")])
    await asyncio.sleep(0)
    assert made.commands[1].ids == ["y", "x"]
    assert 900 < made.commands[1].budget_ms <= 1000


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "is full"),
        (redis.exceptions.ResponseError("Error running script: @user_script: 9: -OOM command"), "is full"),
        (redis.exceptions.NoPermissionError("no permissions to run 'evalsha'"), "refused to queue"),
    ],
)
async def test_a_full_redis_seemed_to_refuse_the_cache_in_redis_6_and_callers_did_not_hear_of_it(
    error: Exception, detail: str
) -> None:
    made = Made()
    made.error = error
    deadline = asyncio.get_running_loop().time() + 60
    refused = made.dispatcher.hold(Waiter(deadline, "interactive", "-", False, "r1"), [("x", "text")])["x"]
    await asyncio.sleep(0.01)
    found = refused.outcome
    assert isinstance(found, QueueUnavailable)
    assert f"Redis {detail}" in str(found)
    full = "is full" in detail
    assert made.dispatcher.may_look == full
    assert len(made.commands) == (1 if full else 2)
    assert made.outage.over


async def test_what_nobody_waits_for_is_cancelled_unless_it_was_asked_for_again() -> None:
    made = Made()
    held = made.ask("interactive", "x", "y", "z")
    made.dispatcher.let_go(*_of(held))
    made.ask("interactive", "y")
    await asyncio.sleep(0.01)
    assert [command.ids for command in made.commands] == [["x", "y", "z"], ["y"], ["x", "z"]]
    assert made.dispatcher.counts.cancelled == 2


async def test_what_redis_lost_is_asked_for_again_while_time_is_left() -> None:
    made = Made()
    held = made.ask("interactive", "x", "y")
    held["x"].deadline = asyncio.get_running_loop().time() + 0.01
    for entry in held.values():
        made.dispatcher.again(entry)
    await asyncio.sleep(0)
    assert [command.ids for command in made.commands] == [["x", "y"], ["y"]]
    assert made.dispatcher.counts.asked_again == 1


@pytest.mark.parametrize(
    ("error", "lost"),
    [(redis.exceptions.ResponseError("no permissions"), False), (redis.exceptions.ConnectionError(), True)],
)
async def test_redis_is_lost_if_it_does_not_answer_a_cancel_and_not_if_it_refuses(
    error: Exception, lost: bool
) -> None:
    made = Made()
    held = made.ask("interactive", "x")
    await asyncio.sleep(0)
    made.error = error
    made.dispatcher.let_go(*_of(held))
    await asyncio.sleep(0.01)
    assert [command.ids for command in made.commands] == [["x"], ["x"]]
    assert made.outage.over is not lost


async def test_requests_outlast_an_outage_that_is_not_longer_than_its_grace() -> None:
    made = Made()
    entry = made.ask("interactive", "x")["x"]
    for second in (0.0, OUTAGE_GRACE_S):
        made.now = second
        made.dispatcher.lost(redis.exceptions.ConnectionError())
        assert (entry.outcome, [*made.dispatcher.pending]) == (None, ["x"])
    made.now += 0.01
    made.dispatcher.lost(redis.exceptions.ConnectionError())
    assert isinstance(entry.outcome, QueueUnavailable)
    assert (str(entry.outcome), entry.outcome.retry_after_s) == (
        "the queue is unavailable: Redis does not answer",
        1.0,
    )
    assert not made.dispatcher.pending


async def test_the_requests_of_one_tick_share_a_command_up_to_a_size() -> None:
    made = Made()
    held = [made.ask("interactive", f"a{number}") for number in range(3)]
    await asyncio.sleep(0)
    made.answers[0].set_result([Accepted([State("queued")], 0), Full(1000), Accepted([State("queued")], 0)])
    await asyncio.sleep(0)
    assert len(made.answers) == 1
    states = [entry.outcome is not None for entries in held for entry in entries.values()]
    assert states == [False, True, False], "the lane was full for the second one only"
    cost = estimate_cost("text")
    for number in range(MAX_TOGETHER // cost + 2):
        made.ask("interactive", f"b{number}")
    await asyncio.sleep(0)
    assert len(made.answers) == 3
    assert len(made.commands) == 3 + MAX_TOGETHER // cost + 2


async def test_what_redis_refuses_for_several_requests_is_asked_for_one_by_one() -> None:
    made = Made()
    x, y = (made.ask("interactive", one)[one] for one in "xy")
    await asyncio.sleep(0)
    made.answers[0].set_exception(redis.exceptions.OutOfMemoryError("used memory > 'maxmemory'."))
    await asyncio.sleep(0)
    assert [command.ids for command in made.commands] == [["x"], ["y"], ["x"], ["y"]]
    made.answers[1].set_exception(redis.exceptions.OutOfMemoryError("used memory > 'maxmemory'."))
    raw = Prediction(b'[{"label":"A","score":1.0}]', "r1", 3).encode()
    made.answers[2].set_result([Accepted([State("known", raw)], 0)])
    await asyncio.sleep(0)
    assert isinstance(x.outcome, QueueUnavailable)
    assert isinstance(y.outcome, Prediction)


@pytest.mark.parametrize(
    "answer",
    [
        redis.exceptions.OutOfMemoryError("used memory > 'maxmemory'."),
        redis.exceptions.NoPermissionError("no permissions to access a key"),
        [Accepted([State("known", Failure("budget_exceeded", "late").encode())], 0)] * 2,
        [Accepted([State("cached", b"unreadable")], 0)] * 2,
    ],
)
async def test_what_no_request_waits_for_any_more_is_not_enqueued_again(answer: Any) -> None:
    """It has been cancelled, and would not be again."""
    made = Made()
    deadline = asyncio.get_running_loop().time() + 60
    left, stays = (
        made.dispatcher.hold(Waiter(deadline, "interactive", "-", False, "r1"), [(one, "text")])
        for one in "xy"
    )
    await asyncio.sleep(0)
    made.dispatcher.let_go(*_of(left))
    await asyncio.sleep(0)
    if isinstance(answer, Exception):
        made.answers[0].set_exception(answer)
    else:
        made.answers[0].set_result(answer)
    await asyncio.sleep(0.01)
    assert [command.ids for command in made.commands] == [["x"], ["y"], ["x"], ["y"]]
    assert [type(command) for command in made.commands] == [Enqueue, Enqueue, Cancel, Enqueue]
    assert stays["y"].outcome is None
