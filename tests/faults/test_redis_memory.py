"""Redis with little memory under a load of unknown texts. The long form: python -m benchmarks.memory_full."""

from __future__ import annotations

import pytest

from benchmarks.memory_full import MB, soak
from benchmarks.service import service

pytestmark = [pytest.mark.redis, pytest.mark.e2e]
LIMIT = 6 * MB


@pytest.mark.timeout(240)
async def test_finding_08_unknown_texts_do_not_fill_redis_and_all_are_answered() -> None:
    """What was remembered filled it, and then nothing could be completed.

    Without a bound 15,000 texts take 7 MB beside the 1 MB of an empty Redis.
    """
    with service("stub", result_ttl_s=1) as running, running.redis() as client:
        client.config_set("maxmemory", LIMIT)
        met = await soak(running, rate=750, seconds=20, progress=print)
        left = len(client.keys("millrace:cache:*"))
    assert met.answered, met.statuses
    assert met.texts >= 15_000
    assert max(met.used) < LIMIT
    assert 2_000 < left < 12_000, "the cache is bounded, and in use"
