"""The replies of shards to a question of the console."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from api.admin.service import Console, Replies, gather
from api.errors import Problem
from batcher.errors import QueueUnavailable

DOWN = redis.exceptions.ConnectionError("refused")


def asked(*outcomes: Any) -> dict[int, Awaitable[Any]]:
    """The shards from 1 on have these replies or errors; shard 0 was not asked."""

    async def reply(outcome: Any) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return {number: reply(outcome) for number, outcome in enumerate(outcomes, 1)}


async def test_shards_that_do_not_answer_are_named_in_order() -> None:
    assert await gather(asked("a", "b")) == Replies(["a", "b"], [])
    replies = await gather(asked(DOWN, "b", redis.exceptions.TimeoutError(), OSError(), "e"), [0])
    assert replies == Replies(["b", "e"], [0, 1, 3, 4])
    assert replies.facts == {"shards_down": [0, 1, 3, 4]}


@pytest.mark.parametrize(
    ("up", "down"), [([False], []), ([True, False], [1]), ([False, True, False], [0, 2])]
)
def test_a_single_shard_that_is_down_has_no_number(up: list[bool], down: list[int]) -> None:
    console: Any = SimpleNamespace(shards_up=lambda: up, stores=SimpleNamespace(shards=up))
    assert Console.shards_down.fget(console) == down  # type: ignore[attr-defined]


async def test_without_any_reply_redis_does_not_answer() -> None:
    with pytest.raises(QueueUnavailable, match="Redis does not answer"):
        await gather(asked(DOWN, DOWN))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (redis.exceptions.NoPermissionError("no permissions"), "redis_refused"),
        (redis.exceptions.OutOfMemoryError("used memory"), "redis_unavailable"),
        (redis.exceptions.ResponseError("MISCONF Redis is configured to save"), "redis_unavailable"),
    ],
)
async def test_a_shard_that_refuses_a_command_is_not_down(error: Exception, code: str) -> None:
    with pytest.raises(Problem) as caught:
        await gather(asked("a", DOWN, error))
    assert (caught.value.status, caught.value.code) == (503, code)


async def test_other_errors_are_those_of_the_caller() -> None:
    for error in (ValueError("wrong"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            await gather(asked("a", error, DOWN))
