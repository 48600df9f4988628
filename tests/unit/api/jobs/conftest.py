from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.settings import ApiSettings
from tests.conftest import FakeRedis
from tests.unit.api.jobs.jobs_api import JobsApi, Start, serving
from tests.unit.fakes import FakeHub


@pytest.fixture
async def start(fake_redis: FakeRedis) -> AsyncIterator[Start]:
    """Starts an API with the given settings: `await start(max_waiting_jobs=1)`."""
    contexts = []

    async def make(hub: FakeHub | None = None, **settings: Any) -> JobsApi:
        contexts.append(serving(fake_redis, ApiSettings(**settings), hub, without=("console",)))
        return await contexts[-1].__aenter__()

    yield make
    for context in contexts:
        await context.__aexit__(None, None, None)


@pytest.fixture
async def api(start: Start) -> JobsApi:
    return await start()
