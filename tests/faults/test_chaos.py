"""A short chaos run; `make chaos` has long ones, and checks the history of each text as well."""

from __future__ import annotations

import pytest

from tests.chaos.run import run_chaos

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.chaos]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("shards", [1, 3])
async def test_nothing_is_lost_or_wrong_in_a_short_chaos_run(shards: int) -> None:
    ledger, broken = await run_chaos(10, seed=1, workers=2, clients=6, report=print, shards=shards)
    assert ledger.failures == []
    assert broken == []
    assert ledger.closed
    assert ledger.right, "nothing was answered"
    assert ledger.events.total() >= 3
