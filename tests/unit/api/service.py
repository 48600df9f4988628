"""A running API with a fake queue and cache: no sockets, no Redis and no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from api.lifecycle import Lifecycle
from api.main import create_app
from api.parts import Backends, Capability
from api.predict.handler import Deferral, PredictMiddleware
from api.settings import ApiSettings
from tests.unit.fakes import FakeCache, FakeHub


@dataclass
class Service:
    """A running API: its application, the fakes behind it, and a client."""

    app: PredictMiddleware
    lifecycle: Lifecycle
    hub: FakeHub
    cache: FakeCache
    client: httpx.AsyncClient

    async def predict(self, *texts: str, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/predict", json={"text": texts}, headers=names)

    async def post(self, content: bytes, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/predict", content=content, headers=names)


Start = Callable[..., Awaitable[Service]]


@asynccontextmanager
async def running(
    hub: FakeHub,
    cache: FakeCache,
    settings: ApiSettings,
    deferral: Deferral | None = None,
    without: Collection[Capability] = (),
) -> AsyncIterator[Service]:
    lifecycle = Lifecycle()
    backends = Backends(hub, cache, deferral=deferral)
    app = create_app(settings, backends, lifecycle=lifecycle, without=without)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.7", 1234))
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield Service(app, lifecycle, hub, cache, client)


async def until(true: Callable[[], Any]) -> None:
    """Lets the event loop run until the condition is true."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came true")


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    """Checks that the response is this error, in the format of all errors."""
    assert response.status_code == status, response.text
    body: dict[str, object] = response.json()
    assert body["code"] == code
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["detail"]
    return body
