"""The answers of the shards of a queue to the console. One that is down is named and stops no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from api.errors import Problem
from batcher.connection.outage import FULL, REDIS_ERRORS, full, reason, refused
from batcher.errors import QueueUnavailable

T = TypeVar("T")
NO_ANSWER = "Redis does not answer"


@dataclass(frozen=True, slots=True)
class Replies(Generic[T]):
    """The replies of the shards that have answered, in their order, and the numbers of the others."""

    found: Sequence[T]
    down: Sequence[int]

    @property
    def facts(self) -> Mapping[str, Any]:
        """What an answer of the console says about the others."""
        return missing(self.down)


def missing(down: Sequence[int]) -> Mapping[str, Any]:
    """The fields of an answer of the console about shards that are down: none if all are up."""
    return {"shards_down": list(down)} if down else {}


async def gather(asked: Mapping[int, Awaitable[T]], down: Iterable[int] = ()) -> Replies[T]:
    """Waits for the replies of shards, by their number. Those that are `down` were not asked.

    Raises Problem if Redis refuses the command, and QueueUnavailable if no shard answers.
    """
    found = list[T]()
    lost = set(down)
    for number, reply in zip(asked, await _all(asked.values()), strict=True):
        if isinstance(reply, REDIS_ERRORS):
            if refused(reply):
                raise not_allowed(reply)
            lost.add(number)
        elif isinstance(reply, BaseException):
            raise reply
        else:
            found.append(reply)
    if not found:
        raise no_answer()
    return Replies(found, sorted(lost))


async def _all(replies: Iterable[Awaitable[T]]) -> list[T | BaseException]:
    return await asyncio.gather(*replies, return_exceptions=True)


def not_allowed(error: BaseException) -> Problem:
    """The problem of a command that Redis has refused."""
    if full(error):
        return Problem(503, FULL, code="redis_unavailable")
    detail = f"Redis refuses this to the user of the API: {reason(error)}"
    return Problem(503, detail, code="redis_refused")


def no_answer(detail: str = NO_ANSWER) -> QueueUnavailable:
    """The error of a command that Redis has not answered."""
    return QueueUnavailable(detail, retry_after_s=1.0)
