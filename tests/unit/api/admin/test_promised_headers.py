"""What docs/security.md promises of the headers of every response, for every route of the application."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from api.asgi.exceptions import METHODS
from api.asgi.problems import problem_parts
from api.dialect_names import DIALECTS
from api.errors import Problem
from tests.unit.api.admin.conftest import ADMIN, AdminApi, Start, keys
from tests.unit.fakes import FakeHub

PROMISED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
# Browsers keep these, and ask each time whether they have changed.
FILE = re.compile(r"/|/console|/static/.*").fullmatch
# Successful answers of these, which browsers do not display, have only the first.
SHORT = re.compile(
    r"(/project)?/health|/predict/?|/models/.+/predict|/project-predict|(/project)?/bulk-predict"
).fullmatch


def paths(found: Iterable[Any]) -> Iterator[str]:
    """The path of every route, those of dialects included, with something for each parameter."""
    for route in found:
        if isinstance(route, Route):
            yield re.sub(r"\{[^}]*\}", "some", route.path)


def lacking(answer: httpx.Response) -> dict[str, str | None]:
    """The promised headers that an answer lacks."""
    promised = PROMISED
    json = answer.headers.get("content-type") == "application/json"
    if answer.is_success and FILE(answer.request.url.path) and not json:
        promised = {**PROMISED, "cache-control": "no-cache"}
    elif answer.is_success and SHORT(answer.request.url.path):
        promised = {"x-content-type-options": "nosniff"}
    found = {name: answer.headers.get(name) for name in promised}
    return {name: value for name, value in found.items() if value != promised[name]}


async def every_answer(api: AdminApi, status: int, **sent: Any) -> None:
    """Each method of each path; `status` is that of at least ten."""
    statuses = list[int]()
    for path in sorted({*paths(api.app.app.routes), "/nowhere", "/admin/nowhere", "/v2/nowhere"}):
        for method in (*METHODS, "OPTIONS"):
            answer = await api.client.request(method, path, **sent)
            assert lacking(answer) == {}, (method, path, answer.status_code)
            assert answer.headers["x-request-id"], (method, path)
            statuses.append(answer.status_code)
    assert statuses.count(status) >= 10, statuses


ALL = {"compat": ",".join(DIALECTS)}


async def test_answers_of_dialects_lacked_what_security_md_promises(start: Start) -> None:
    api = await start(**ALL)
    for path in ("/v1/models", "/info", "/v2", "/v2/health/ready", "/ping", "/docs", "/console", "/stats"):
        answer = await api.client.get(path)
        assert answer.status_code == 200, path
        assert lacking(answer) == {}, path


async def test_every_route_has_them_with_an_operators_key(start: Start) -> None:
    await every_answer(await start(**ALL), 405, headers=ADMIN)


async def test_every_route_has_them_without_a_key(start: Start) -> None:
    await every_answer(await start(**ALL, api_keys=keys(web="one")), 401)


async def test_every_route_has_them_where_another_site_or_name_is_refused(start: Start) -> None:
    api = await start(**ALL)
    await every_answer(api, 403, headers={"sec-fetch-site": "cross-site"})
    await every_answer(api, 403, headers={"host": "rebound.example"})


async def test_every_route_has_them_with_a_body_that_is_too_large(start: Start) -> None:
    api = await start(**ALL, max_body_bytes=1024, max_job_body_bytes=1024)
    large = {**ADMIN, "content-type": "application/json"}
    await every_answer(api, 413, headers=large, content=b'{"text": ["' + b"x" * 4000 + b'"]}')


async def test_every_route_has_them_with_a_body_of_another_kind(start: Start) -> None:
    api = await start(**ALL)
    await every_answer(api, 415, headers={**ADMIN, "content-type": "text/html"}, content=b"<p>")
    await every_answer(api, 405, headers={**ADMIN, "content-type": "application/json"}, content=b"{")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"text": ["a"]}),
        ("/predict", {"inputs": "a"}),
        ("/v1/classify", {"model": "stub", "input": "a"}),
        ("/v1/moderations", {"input": "a"}),
        ("/admin/audit", None),
    ],
)
async def test_an_unexpected_error_has_them_too(
    start: Start, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any] | None
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    api = await start(hub=FakeHub(refusal=RuntimeError("a bug")), **ALL, moderation_labels="NEGATIVE=hate")
    monkeypatch.setattr(type(api.stores.audit), "newest", broken)
    answer = await api.client.request("GET" if body is None else "POST", path, json=body, headers=ADMIN)
    assert answer.status_code in (500, 424), answer.text  # 424 for clients of text-embeddings-inference
    assert lacking(answer) == {}


@pytest.mark.parametrize("status", [400, 408, 414, 431, 503])
def test_what_the_server_refuses_itself_has_them(status: int) -> None:
    """Before there is a request: slow heads, long ones, and too many connections."""
    headers, body = problem_parts(Problem(status, "no"), b"id")
    found = {name.decode(): value.decode() for name, value in headers}
    assert (
        lacking(httpx.Response(status, headers=found, content=body, request=httpx.Request("GET", "http://x")))
        == {}
    )
