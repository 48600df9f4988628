"""Who may use the console, and what is written down about it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from api.auth import LINKS, SESSION
from tests.unit.api.admin.conftest import ADMIN, READER, AdminApi, Start, keys

PAGE = Path(__file__).parents[4] / "docs/console.md"


def admin_routes(found: Iterable[Any]) -> Iterator[APIRoute]:
    """Every route under /admin that the application has."""
    for route in found:
        if isinstance(route, APIRoute) and route.path.startswith("/admin"):
            yield route


def routes(found: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """As (method, path)."""
    for route in admin_routes(found):
        yield from ((method, filled(route.path)) for method in sorted(route.methods))


def filled(path: str) -> str:
    """A path with values for its parameters."""
    return (
        path.replace("{lane}", "bulk")
        .replace("{request_id}", "some")
        .replace("{name}", "m")
        .replace("{name:path}", "m")
    )


async def ask(api: AdminApi, method: str, path: str, **headers: str) -> httpx.Response:
    api.client.cookies.clear()  # beginning a session sets one
    return await api.client.request(method, path, headers=headers)


async def test_every_route_refuses_what_may_not_use_it(api: AdminApi) -> None:
    served = list(routes(api.app.app.routes))
    documented = re.findall(r"^\| `(\w+) (/admin[^`?]*)", PAGE.read_text(), re.MULTILINE)
    assert sorted(served) == sorted((method, filled(path)) for method, path in documented)
    for method, path in served:
        for headers in ({}, {"authorization": "Bearer guess"}, {"x-api-key": ""}):
            answer = await ask(api, method, path, **headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), (method, path)
        reading = await ask(api, method, path, **READER)
        if method == "GET" or path in (SESSION, LINKS):
            assert reading.status_code != 403, path
        else:
            assert (reading.status_code, reading.json()["code"]) == (403, "read_only"), path
        for foreign in (
            {"origin": "https://evil.example"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
            {"sec-fetch-site": "same-site"},
        ):
            answer = await ask(api, method, path, **ADMIN, **foreign)
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_site"), (method, path, foreign)
        answer = await ask(api, method, path, **ADMIN, host="rebound.example")
        assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")


async def test_keys_of_clients_and_of_operators_are_apart(start: Start) -> None:
    api = await start(api_keys=keys(web="one"))
    assert (await ask(api, "GET", "/admin/audit", authorization="Bearer one")).status_code == 401
    assert (await ask(api, "GET", "/jobs", **ADMIN)).status_code == 401
    assert (await ask(api, "GET", "/jobs", authorization="Bearer one")).status_code == 200


async def test_no_other_site_reads_with_an_operators_key_what_clients_may_read(start: Start) -> None:
    api = await start(api_keys=keys(web="one"))
    assert (await ask(api, "GET", "/stats", **ADMIN)).status_code == 200
    for foreign in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        answer = await ask(api, "GET", "/stats", **ADMIN, **foreign)
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_site"), foreign
    answer = await ask(api, "GET", "/stats", **ADMIN, host="rebound.example")
    assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("path", ["/admin", "/admin/", "/admin/nothing", "/admin/forget/"])
async def test_a_path_that_is_no_route_is_closed_too(api: AdminApi, path: str) -> None:
    assert (await ask(api, "GET", path)).status_code == 401
    assert (await ask(api, "GET", path, **ADMIN)).status_code == 404


@pytest.mark.parametrize("settings", [{}, {"open": "true"}, {"host": "::1"}])
async def test_every_client_of_a_proxy_on_this_machine_was_an_operator(
    start: Start, settings: dict[str, str]
) -> None:
    """nginx with `proxy_pass` alone, socat and `ssh -R` connect from 127.0.0.1 and add no header."""
    api = await start(admin_keys="", admin_read_keys="", **settings)
    for method, path in routes(api.app.app.routes):
        for headers in ({}, {"host": "127.0.0.1:8000"}, {"x-forwarded-for": "127.0.0.1"}):
            assert (await ask(api, method, path, **headers)).status_code == 401, (method, path)


async def test_guesses_count_towards_the_rate_of_their_address(start: Start) -> None:
    api = await start(rate_limit="2/minute")
    statuses = [(await ask(api, "GET", "/admin/audit")).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]


async def test_every_action_leaves_a_line(api: AdminApi, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert (await api.post("/forget", text="a secret text")).status_code == 200
        assert (await api.post("/refused/delete", filter={})).status_code == 200
    (newest, first) = (await api.get("/audit")).json()["audit"]
    assert newest["action"] == "delete_refused"
    assert {**first, "at": ""} == {
        "at": "",
        "operator": "admin:ops",
        "address": "127.0.0.1",
        "action": "forget",
        "what": "a text",
        "keys": 0,
    }
    logged = [vars(record) for record in caplog.records if vars(record).get("operator")]
    assert [line["action"] for line in logged] == ["admin.forget", "admin.delete_refused"]
    assert "secret" not in caplog.text + str(first)


async def test_what_up_asks_each_second_filled_the_terminal(
    api: AdminApi, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert (await api.get("/models")).status_code == 200
        assert (await api.get("/audit")).status_code == 200
    lines = [vars(record) for record in caplog.records if vars(record).get("action") == "request"]
    levels = {line["route"]: line["levelno"] for line in lines}
    assert levels == {"/admin/models": logging.DEBUG, "/admin/audit": logging.INFO}


async def test_the_list_of_actions_is_bounded(api: AdminApi) -> None:
    api.redis.rpush("{millrace:2:default}:audit", *["{}"] * 1500)
    await api.post("/refused/delete", filter={})
    assert api.redis.llen("{millrace:2:default}:audit") == 1000
    assert 0 < api.redis.ttl("{millrace:2:default}:audit") <= 90 * 86_400
    assert len((await api.get("/audit", limit=7)).json()["audit"]) == 7
