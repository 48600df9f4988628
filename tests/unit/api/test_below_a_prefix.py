"""The application below a path: mounted in another one, or behind a proxy that removes a prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from api.main import app as application
from api.main import create_app
from api.parts import Backends
from api.server.run import Proxied
from api.settings import ApiSettings
from tests.unit.api.service import Start, assert_problem
from tests.unit.fakes import FakeCache, FakeHub


@asynccontextmanager
async def asking(app: Any, address: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as made:
        yield made


async def test_redirects_and_links_lost_the_prefix_of_a_mount(start: Start) -> None:
    service = await start()
    async with asking(Starlette(routes=[Mount("/ml", service.app)])) as client:
        assert (await client.get("/ml/redoc")).headers["location"] == "/ml/docs"
        assert (await client.get("/ml/nothing")).headers["link"] == '</ml/docs>; rel="help"'
        assert (await client.post("/ml/predict", json={"text": 1})).headers[
            "link"
        ] == '</ml/docs>; rel="help"'
        assert (await client.post("/ml/classify", json={"input": "a"})).status_code == 200


async def test_redirects_and_links_lost_the_prefix_of_a_proxy(start: Start) -> None:
    service = await start(FakeHub(tenant=""))
    app = Proxied(service.app, ["127.0.0.1"])
    async with asking(app) as client:
        prefixes = {"/ml": "/ml", "/a/b/": "/a/b", "//evil.example": "", "/x y": "", "": ""}
        for given, prefix in prefixes.items():
            answer = await client.get("/redoc", headers={"x-forwarded-prefix": given})
            assert answer.headers["location"] == f"{prefix}/docs", given
        prefix = {"x-forwarded-prefix": "/predict"}
        answer = await client.post("/predict", json={"text": ["a"]}, headers=prefix)
        assert answer.status_code == 200
    async with asking(app, "10.0.0.1") as stranger:
        answer = await stranger.get("/redoc", headers={"x-forwarded-prefix": "/ml"})
        assert answer.headers["location"] == "/docs"


async def test_an_application_whose_lifespan_did_not_run_said_that_it_is_live() -> None:
    app = create_app(ApiSettings(), Backends(FakeHub(), FakeCache()))
    async with asking(create_app(ApiSettings(compat="kserve"), Backends(FakeHub(), FakeCache()))) as client:
        answer = await client.get("/")
        assert_problem(answer, 503, "not_started")
        assert "its lifespan did not run" in answer.json()["error"]
    async with asking(Starlette(routes=[Mount("/ml", app)])) as client:
        for path in ("/health", "/v2/health/live", "/v2/health/ready", "/ping", "/"):
            answer = await client.get(f"/ml{path}")
            assert answer.status_code == 503
            assert "its lifespan did not run" in answer.text
        for path in ("/ml/livez", "/ml/readyz", "/ml/health"):
            problem = assert_problem(await client.get(path), 503, "not_started")
            assert "its lifespan did not run" in str(problem["detail"])


@pytest.mark.parametrize("path", ["/predict", "/"])
async def test_requests_to_it_blamed_redis(path: str) -> None:
    app = create_app(ApiSettings(redis_url="redis://127.0.0.1:1"))
    async with asking(app) as client:
        answer = await client.post(path, json={"text": ["a"]} if path == "/predict" else {"inputs": "a"})
    assert answer.status_code == 503
    assert "its lifespan did not run" in answer.text


def test_a_server_of_another_kind_finds_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """`uvicorn --factory api.main:app`."""
    monkeypatch.setenv("MILLRACE_COMPAT", "fms")
    paths = application().app.openapi()["paths"]
    assert "/predict" in paths
