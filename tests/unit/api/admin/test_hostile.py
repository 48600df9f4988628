"""Anything in any place of a request to /admin, as a stolen key or a script gone wrong might send it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.hub.hub import ReplyHub
from tests.conftest import FakeRedis
from tests.fakes import shard_hub
from tests.unit.api.admin.conftest import ADMIN, AdminApi, Start
from tests.unit.api.admin.test_access import admin_routes

# Names that some route knows, so that what is behind the check of names is reached.
NAMES = [
    "code",
    "revision",
    "worker",
    "client",
    "since_ms",
    "until_ms",
    "limit",
    "cursor",
    "status",
    "search",
]
NAMES += [
    "first",
    "last",
    "key",
    "format",
    "minutes",
    "ids",
    "filter",
    "text",
    "tenants",
    "what",
    "for_s",
    "waiting",
]
SHARP = [
    "",
    "*",
    "-",
    "+inf",
    "(",
    "[0",
    "{millrace:2:default}:q",
    "a:b",
    "\r\nX: 1",
    "\x00",
    "%00",
    "../..",
    "=1+1",
]
JSON = {"content-type": "application/json"}
WORDS = st.one_of(st.sampled_from(SHARP), st.text(max_size=40))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)
KNOWN = st.one_of(st.sampled_from(NAMES), WORDS)
# The only 5xx: there is no worker that could publish a revision.
NOT_NOW = {"no_worker"}
REFUSALS = NOT_NOW | {
    "invalid_request",
    "not_found",
    "method_not_allowed",
    "trace_not_found",
    "model_not_found",
    "no_revision",
    "revision_not_ready",
}


@pytest.fixture
async def api(start: Start, fake_redis: FakeRedis) -> AdminApi:
    hub: Any = ReplyHub([shard_hub(fake_redis.aio, fake_redis.aio, name="default", cost=1000)])
    return await start(hub)


def path_of(route: APIRoute, word: str) -> str:
    """The path of a route with this word in place of its parameters."""
    parts = ["{" in part for part in route.path.split("/")]
    words = zip(route.path.split("/"), parts, strict=True)
    return "/".join(quote(word, safe="") or "-" if is_free else part for part, is_free in words)


@given(data=st.data(), word=WORDS, query=st.dictionaries(KNOWN, WORDS, max_size=3), body=VALUES)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_nothing_breaks_the_console(
    api: AdminApi, data: st.DataObject, word: str, query: dict[str, str], body: Any
) -> None:
    """A request is answered, or refused with a code: no crash, and no key of another kind in Redis."""
    route = data.draw(st.sampled_from(list(admin_routes(api.app.app.routes))))
    fields = data.draw(st.dictionaries(KNOWN, VALUES, max_size=3))
    method = data.draw(st.sampled_from(sorted(route.methods)))
    sent = {} if method == "GET" else {"json": _finite(data.draw(st.sampled_from([body, fields])))}
    answer = await api.client.request(method, path_of(route, word), params=query, headers=ADMIN, **sent)
    assert answer.status_code < 500 or answer.json()["code"] in NOT_NOW, answer.text
    if answer.status_code >= 400:
        assert answer.json()["code"] in REFUSALS, answer.text
    known = (b"{millrace:2:default}:", b"{millrace-jobs:default}:", b"rq:")
    assert all(key.startswith(known) for key in api.redis.keys("*"))
    assert not api.redis.exists("{millrace:2:default}:q", "{millrace:2:default}:bulk")


def _finite(value: Any) -> Any:
    """Without numbers that JSON does not have: httpx refuses to send those."""
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return {name: _finite(one) for name, one in value.items()} if isinstance(value, dict) else value


async def test_a_body_of_an_operator_had_no_limit(start: Start) -> None:
    """FastAPI reads bodies of any size."""
    api = await start(max_body_bytes=1024)
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 1024

    for content in (b" " * 2048, endless()):
        refused = await api.client.post("/admin/forget", content=content, headers={**ADMIN, **JSON})
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert read == 2
    forgotten = await api.client.post(
        "/admin/forget", content=b'{"text": "a"}'.ljust(1024), headers={**ADMIN, **JSON}
    )
    assert forgotten.status_code == 200
