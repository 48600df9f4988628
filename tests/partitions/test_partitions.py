"""A few cuts; `make partitions` makes hundreds of them."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from tests.chaos.history import History
from tests.partitions.cuts import Cut
from tests.partitions.network import unavailable
from tests.partitions.promises import promises
from tests.partitions.run import Made, Plan, run
from tests.partitions.traffic import Asked, Job, Record
from tests.servers import needs_server
from tests.tools import missing, use

CUT = Cut("one link", frozenset({("redis1", "redis2")}), 3.0)


def kept(made: Made) -> list[bool]:
    return [not promise.broken for promise in promises(made)]


def good() -> Made:
    """A request and a lost job beside a failover."""
    made = Made()
    made.record.asked.append(Asked(100, 101, 200, known=False))
    made.cuts, made.ready_s, made.promoted = [(200, 203, CUT)], [2.0], [(202.0, "redis2")]
    made.jobs = [
        Job("a", "/jobs/a", ["x"], 201.0, fate="lost"),
        Job("b", "/jobs/b", ["x"], 90.0, fate="finished"),
    ]
    return made


def test_a_run_without_faults_keeps_every_promise() -> None:
    assert all(kept(good()))


@pytest.mark.parametrize("number", range(6))
def test_each_promise_can_be_broken(number: int) -> None:
    made = good()
    if number == 0:
        made.record.wrong.append("another label")
    elif number == 1:
        made.record = Record(History())
        made.record.history.add_call("a text that no worker computed", 100.0, "answer")
    elif number == 2:
        made.record.asked.append(Asked(100, 110, 503, known=False))
    elif number == 3:
        made.ready_s.append(30.0)
    elif number == 4:
        made.jobs = [Job("a", "/jobs/a", ["x"], 190.0, fate="lost")]
    else:
        made.broken.append("worker1 has ended")
    assert kept(made) == [each != number for each in range(6)]


@pytest.mark.redis
@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_promises_are_kept_while_links_of_sentinels_are_cut() -> None:
    if why := await asyncio.to_thread(unavailable):
        missing("ip", why)
    use("ip", shutil.which("ip"))
    binary = await asyncio.to_thread(needs_server)
    made = await run(Plan("sentinel", cuts=1, seed=14), binary, print)
    broken = [sentence for promise in promises(made) for sentence in promise.broken]
    assert broken == []
    assert len(made.cuts) == 1
    assert any(asked.status == 200 for asked in made.record.asked)
