"""What the middleware adds to every route: request ids, default headers, errors, metrics and log lines."""

from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException, Query
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount

from api.errors import Problem
from batcher.errors import QueueUnavailable
from tests.unit.api.service import Service, Start, assert_problem

SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def add_routes(app: FastAPI) -> None:
    router = APIRouter()

    @router.get("/crash")
    async def crash() -> None:
        raise RuntimeError("inner workings")

    @router.get("/problem")
    async def problem() -> None:
        raise Problem(409, "not now", code="busy", headers=((b"x-why", b"because"),))

    @router.get("/domain")
    async def domain() -> None:
        raise QueueUnavailable("away", retry_after_s=3)

    @router.get("/http")
    async def http() -> None:
        raise HTTPException(403, "no", headers={"X-Why": "because"})

    @router.get("/number")
    async def number(n: int = Query()) -> int:
        return n

    @router.get("/own")
    async def own() -> Response:
        return PlainTextResponse("x", headers={"cache-control": "max-age=60", "x-request-id": "own"})

    app.include_router(router)


async def test_unknown_paths_and_methods_have_the_shape_of_errors(service: Service) -> None:
    assert_problem(await service.client.get("/nowhere"), 404, "not_found")
    response = await service.client.get("/predict")
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert_problem(await service.client.post("/health"), 405, "method_not_allowed")


@pytest.mark.parametrize(("method", "path"), [("POST", "/jobs/"), ("GET", "/jobs/"), ("GET", "/health/")])
async def test_nobody_is_sent_to_the_host_that_a_request_names(start: Start, method: str, path: str) -> None:
    """Redirects for a trailing slash would use the Host header."""
    service = await start(allowed_hosts="*")
    response = await service.client.request(method, path, headers={"host": "evil.example"})
    assert_problem(response, 404, "not_found")
    assert "location" not in response.headers


async def test_a_wrong_method_is_told_all_the_right_ones(service: Service) -> None:
    for path, allowed in {
        "/jobs": "GET, HEAD, POST",
        f"/jobs/{'a' * 32}": "DELETE, GET, HEAD",
        "/health": "GET, HEAD",
        "/stats": "GET, HEAD",
        "/": "GET, HEAD, POST",
    }.items():
        response = await service.client.put(path)
        assert_problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allowed, path


async def test_every_answer_has_an_id_and_safe_headers(service: Service) -> None:
    for path in ("/livez", "/openapi.json", "/nowhere"):
        response = await service.client.get(path, headers={"x-request-id": "mine"})
        assert response.headers["x-request-id"] == "mine"
        assert {name: response.headers[name] for name in SECURITY} == SECURITY
    for path in ("/health", "/predict"):
        assert (await service.client.get(path)).headers["x-content-type-options"] == "nosniff"


async def test_a_route_may_set_its_own_headers(service: Service) -> None:
    add_routes(service.app.app)
    response = await service.client.get("/own")
    assert response.headers.get_list("cache-control") == ["max-age=60"]
    assert response.headers.get_list("x-request-id") == ["own"]


@pytest.mark.parametrize(
    ("path", "status", "code", "header"),
    [
        ("/problem", 409, "busy", ("x-why", "because")),
        ("/domain", 503, "redis_unavailable", ("retry-after", "3")),
        ("/http", 403, "forbidden", ("x-why", "because")),
    ],
)
async def test_errors_of_routes(
    service: Service, path: str, status: int, code: str, header: tuple[str, str]
) -> None:
    add_routes(service.app.app)
    response = await service.client.get(path)
    assert_problem(response, status, code)
    assert response.headers[header[0]] == header[1]


async def test_invalid_parameters_keep_the_detail_list(service: Service) -> None:
    add_routes(service.app.app)
    problem = assert_problem(await service.client.get("/number?n=secret"), 422, "invalid_request")
    assert problem["detail"] == [
        {
            "type": "int_parsing",
            "loc": ["query", "n"],
            "msg": "Input should be a valid integer, unable to parse string as an integer",
        }
    ]


async def test_a_crash_is_told_to_the_log_once_and_to_nobody_else(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    add_routes(service.app.app)
    response = await service.client.get("/crash")
    problem = assert_problem(response, 500, "internal")
    assert "inner workings" not in response.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (vars(record)["action"], vars(record)["request_id"]) == ("request.crashed", problem["request_id"])


async def test_one_log_line_a_request_but_known_texts_and_probes_only_for_debugging(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[tuple[str, int, int]]:
        records = [vars(record) for record in caplog.records if vars(record).get("action") == "request"]
        caplog.clear()
        assert all(0.0 < record["ms"] < 60_000 for record in records)
        return [(record["route"], record["status"], record["levelno"]) for record in records]

    with caplog.at_level(logging.DEBUG):
        await service.predict("a")
        assert lines() == [("/predict", 200, logging.INFO)]
        await service.predict("a")
        assert lines() == [("/predict", 200, logging.DEBUG)]
        await service.post(b"")
        assert lines() == [("/predict", 422, logging.INFO)]
        await service.client.get("/livez")
        assert lines() == [("/livez", 200, logging.DEBUG)]
        service.hub.reachable = False
        await service.client.get("/readyz")
        assert lines() == [("/readyz", 503, logging.DEBUG)], "the ordinary course of things"
        service.hub.alive = False
        await service.client.get("/livez")
        assert lines() == [("/livez", 503, logging.INFO)]
        await service.client.get("/nowhere")
        assert lines() == [("other", 404, logging.INFO)]


async def test_no_log_line_says_a_text(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="api"):
        await service.predict("a very private text")
        await service.post(b'{"text": "a very private text"}')
        await service.client.get("/nowhere?q=a+very+private+text")
    assert caplog.records
    for record in caplog.records:
        if record.name.startswith("api"):
            assert "private" not in str(vars(record))


async def test_the_whole_edge_works_below_a_prefix(service: Service) -> None:
    outer = Starlette(routes=[Mount("/service", service.app)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://localhost") as client:
        assert (await client.post("/service/predict", json={"text": ["a"]})).headers["x-cache"] == "MISS"
        assert (await client.get("/service/health")).json() == {"status": "healthy"}
        assert_problem(await client.get("/service/nowhere"), 404, "not_found")


async def test_declared_routes_lead_to_the_same_handlers(service: Service) -> None:
    framework = httpx.ASGITransport(service.app.app)
    async with httpx.AsyncClient(transport=framework, base_url="http://localhost") as client:
        response = await client.post("/predict", json={"text": ["a"]})
        assert (response.status_code, response.headers["x-cache"]) == (200, "MISS")
        assert response.headers.get_list("x-request-id") == [response.headers["x-request-id"]]
        assert (await client.get("/health")).json() == {"status": "healthy"}
