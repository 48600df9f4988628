"""When the hub asks whether entries still wait: not for a text that may have been claimed at once."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from batcher.connection.pipeline import Pipeline
from batcher.core.commands import Waking
from batcher.hub.dispatcher import WakeUps
from batcher.hub.pending import PendingEntry


class Asked:
    """A pipeline whose commands are noted, and answered with `reply`."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.reply = Waking(0, 0)

    def run(self, command: Any) -> asyncio.Future[Any]:
        self.commands.append(command.script)
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(self.reply)
        return answer


def pending(asked_at: float) -> PendingEntry:
    future = asyncio.get_running_loop().create_future()
    return PendingEntry("a", "a", "interactive", "", future, 0.0, asked_at=asked_at)


@pytest.fixture
def asked() -> Asked:
    return Asked()


def wake_ups(asked: Asked, entries: dict[str, PendingEntry]) -> WakeUps:
    return WakeUps(cast(Pipeline, asked), entries)


async def test_a_text_that_was_just_queued_costs_no_script(asked: Asked) -> None:
    """With several shards, each text at light load cost one script more than with one."""
    later = asyncio.get_running_loop().time() + 1000
    checks = wake_ups(asked, {"a": pending(later)})
    checks.ask_for_help = lambda oldest_ms: None
    checks._check()
    assert asked.commands == []
    assert checks._scheduled


async def test_nothing_pending_costs_no_script_unless_a_sweep_found_entries(asked: Asked) -> None:
    checks = wake_ups(asked, {})
    checks.ask_for_help = lambda oldest_ms: None
    checks._check()
    assert asked.commands == []
    checks.found_waiting()
    checks._check()
    assert asked.commands == ["wake"]


async def test_finding_31_the_last_idle_worker_may_have_been_woken_in_vain(asked: Asked) -> None:
    """It had left for another shard. The text waited for the next sweep, although others could help."""
    helped: list[int] = []
    checks = wake_ups(asked, {"a": pending(0.0)})
    checks.ask_for_help = helped.append
    checks.queued(1)
    checks._check()
    await asyncio.sleep(0)
    assert (checks.idle, checks._scheduled) == (0, True)
    checks._check()
    await asyncio.sleep(0)
    assert (asked.commands, checks._scheduled) == (["wake", "wake"], False), "nothing waits"


async def test_a_text_that_found_no_idle_worker_asks_for_help_at_once(asked: Asked) -> None:
    helped: list[int] = []
    checks = wake_ups(asked, {})
    checks.ask_for_help = helped.append
    checks.queued(-1)
    assert helped == [0], "it has only just been queued"


async def test_a_text_that_waits_while_no_worker_is_idle_asks_for_help(asked: Asked) -> None:
    helped: list[int] = []
    asked.reply = Waking(-1, 30)
    checks = wake_ups(asked, {"a": pending(0.0)})
    checks.ask_for_help = helped.append
    checks._check()
    await asyncio.sleep(0)
    assert asked.commands == ["wake"]
    assert helped == [30]
    assert (checks.idle, checks._scheduled) == (-1, True)
