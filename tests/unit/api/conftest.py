"""The API with a fake hub and cache behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

import pytest

from api.parts import Capability
from api.predict.handler import Deferral
from api.settings import ApiSettings
from tests import fastapi_patches
from tests.unit.api.service import Service, Start, running
from tests.unit.fakes import FakeCache, FakeHub

fastapi_patches.install()


@pytest.fixture
def without() -> Collection[Capability]:
    """What the application has no routes for. Most of the time of a short test is the making of routes."""
    return ()


@pytest.fixture
async def start(without: Collection[Capability]) -> AsyncIterator[Start]:
    """Starts an API with the given settings: `await start(max_texts=3)`."""
    contexts = []

    async def make(
        hub: FakeHub | None = None,
        cache: FakeCache | None = None,
        deferral: Deferral | None = None,
        **settings: object,
    ) -> Service:
        made = ApiSettings(**settings)  # type: ignore[arg-type]
        context = running(hub or FakeHub(), cache or FakeCache(), made, deferral, without)
        contexts.append(context)
        return await context.__aenter__()

    yield make
    for context in contexts:
        await context.__aexit__(None, None, None)


@pytest.fixture
async def service(start: Start) -> Service:
    return await start()
