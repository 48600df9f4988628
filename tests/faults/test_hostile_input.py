"""Bad input: every documented operation under schemathesis, raw bodies and heads under hypothesis."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import fakeredis
import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from api import dialect_names
from api.jobs.service import JobBackend
from api.lifecycle import Lifecycle
from api.main import create_app
from api.parts import Backends
from api.predict.handler import PredictMiddleware
from api.settings import ApiSettings
from batcher.core.commands import Claim
from batcher.errors import Malformed
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore
from batcher.messages import decode_result
from tests.lazy import Lazy
from tests.unit.fakes import FakeCache, FakeHub

checked: Any = Lazy("tests.faults.documented")

CASES = int(os.environ.get("HOSTILE_CASES", "10"))
CLIENT_ERRORS = {400, 404, 405, 413, 415, 422}
FUZZ = settings(
    max_examples=CASES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    derandomize=True,
)


@cache
def edge() -> PredictMiddleware:
    """One for all tests: making one takes longer than asking it."""
    dialects = {"compat": ",".join(dialect_names.DIALECTS), "moderation_labels": "NEGATIVE=harassment"}
    chosen = ApiSettings(max_body_bytes=65536, max_text_chars=2000, allowed_hosts="*", **dialects)
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(version=(7,)))
    store, queue = JobStore(client, "t", 3600), JobQueue(client, chosen)
    lifecycle = Lifecycle()
    lifecycle.start()  # its lifespan does not run
    return create_app(chosen, Backends(FakeHub(), FakeCache(), JobBackend(store, queue)), lifecycle=lifecycle)


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """The application, which is neither started nor stopped: schemathesis does so for every call."""
    if scope["type"] == "lifespan":
        for what in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{what}.complete"})
    else:
        await edge()(scope, receive, send)


@asynccontextmanager
async def client(app: PredictMiddleware) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as made:
        yield made


def post(body: bytes, **headers: str | bytes) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client(edge()) as made:
            return await made.post("/predict", content=body, headers=headers)  # type: ignore[arg-type]

    return asyncio.run(run())


def refused(answer: httpx.Response) -> None:
    """A documented refusal, in its one shape."""
    assert answer.status_code in CLIENT_ERRORS, answer.text
    assert {"detail", "code", "request_id"} <= answer.json().keys()


BROKEN = [
    b"",
    b"\x00",
    b"{",
    b"[]",
    b"null",
    b'{"text": ["a"]',
    b'{"text": ["\xff\xfe"]}',
    b'{"text": ["\\ud800"]}',
    b'{"text": ["\xed\xa0\x80"]}',
    b'{"text": [1e999]}',
    b'{"text": [' + b"9" * 5000 + b"]}",
    b'{"text": ["a"], "text": 5}',
    b'{"text": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b'{"text": "a"}',
    b'{"text": [null]}',
    b'{"text": []}',
    b'{"text": ["a"], "model": "x"}',
    b"\xef\xbb\xbf{",
    b'{"text": ["' + b"a" * 3000 + b'"]}',
    b'{"text": [' + b",".join([b'"a"'] * 2000) + b"]}",
    b"a" * 70_000,
]


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_body_is_a_client_error(body: bytes) -> None:
    refused(post(body))


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_answered(body: bytes) -> None:
    answer = post(body)
    assert answer.status_code == 200 or answer.status_code in CLIENT_ERRORS


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@FUZZ
@given(json_values | st.fixed_dictionaries({"text": json_values}))
def test_any_json_is_refused_or_answered(value: object) -> None:
    answer = post(json.dumps(value).encode())
    assert answer.status_code == 200 or answer.status_code in CLIENT_ERRORS
    if answer.status_code == 200:
        assert isinstance(value, dict)
        assert len(answer.json()["predictions"]) == len(value["text"])


@FUZZ
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=8))
def test_any_texts_are_answered_one_for_one(texts: list[str]) -> None:
    answer = post(json.dumps({"text": texts}).encode())
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == len(texts)


@FUZZ
@given(st.binary(max_size=200))
def test_bytes_from_redis_are_a_result_or_malformed_and_never_anything_else(raw: bytes) -> None:
    for candidate in (raw, raw + b"\n" + raw, b'{"code":' + raw + b"}\n", b"1 0 2 3 4 5 " + raw + b"\n[]"):
        try:
            decode_result(candidate)
        except Malformed:
            continue


@FUZZ
@given(st.lists(st.one_of(st.binary(max_size=12), st.integers(0, 10**12)), min_size=4, max_size=4))
def test_a_claimed_entry_of_foreign_fields_is_skipped(fields: list[bytes | int]) -> None:
    encoded = [field if isinstance(field, bytes) else b"%d" % field for field in fields]
    claim = Claim("w", 1, 1, 1, 2000, 3).read([0, 0, 0, 0, b"", *encoded])
    assert len(claim.entries) + claim.skipped == 1


@pytest.mark.parametrize(
    "said", ["x" * 200, "a b", "é", "a\tb", '{"level":"error"}', "../../etc", "a;b", "<script>", "%0d%0aX: y"]
)
def test_a_request_id_that_is_not_sane_is_replaced(said: str) -> None:
    """It goes into a header, a JSON body and a log line: letters, digits, dot, dash and underscore only."""
    answer = post(b'{"text": ["a"]}', **{"x-request-id": said.encode()})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"].isalnum()
    assert answer.headers["x-request-id"] != said


def test_a_line_break_in_a_header_reaches_no_answer_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """As a server would hand it over that did not refuse it: nothing of it is echoed."""
    caplog.set_level("DEBUG")
    sent: list[dict[str, object]] = []
    head = [(b"x-request-id", b"ok\r\nSet-Cookie: stolen=1"), (b"prefer", b"wait=1\r\nX: y")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": head, "client": ("1.2.3.4", 5)}

    body = iter([{"type": "http.request", "body": b'{"text": ["a"]}', "more_body": False}])

    async def receive() -> dict[str, object]:
        for message in body:
            return message
        await asyncio.sleep(3600)
        raise AssertionError("the answer should have come by now")

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    asyncio.run(edge()(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 200
    assert not [pair for pair in sent[0]["headers"] if b"\r" in pair[1] or b"stolen" in pair[1]]  # type: ignore[attr-defined]
    assert "stolen" not in caplog.text


def test_no_answer_allows_other_origins() -> None:
    """CORS is off: no Access-Control header, and another site's preflight and request are refused."""

    async def run() -> list[httpx.Response]:
        names = {"origin": "https://elsewhere.example", "access-control-request-method": "POST"}
        async with client(edge()) as made:
            return [
                await made.options("/predict", headers=names),
                await made.post("/predict", json={"text": ["a"]}, headers=names),
                await made.get("/readyz", headers=names),
            ]

    preflight, answer, ready = asyncio.run(run())
    assert preflight.status_code == 403
    assert (answer.status_code, ready.status_code) == (403, 200)
    for response in (preflight, answer, ready):
        assert not [name for name in response.headers if name.startswith("access-control")]


@cache
def document() -> dict[str, Any]:
    """What /openapi.json says."""

    async def run() -> httpx.Response:
        async with client(edge()) as made:
            return await made.get("/openapi.json")

    found: dict[str, Any] = asyncio.run(run()).json()
    return found


def documented(*, compatible: bool) -> list[str]:
    """The operations of dialects, or the others: `POST /predict`."""
    return [
        f"{method.upper()} {path}"
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        if any(tag.startswith("compatible") for tag in operation["tags"]) == compatible
    ]


# Streams of events do not end by themselves: they are tested in tests/unit/api.
@pytest.mark.parametrize(
    "label", [one for one in documented(compatible=False) if not one.endswith(("/events", "/stats"))]
)
def test_every_documented_operation_keeps_its_word(label: str) -> None:
    checked.keeps_its_word(label, FUZZ)


@pytest.mark.parametrize("label", documented(compatible=True))
def test_dialects_keep_their_word(label: str) -> None:
    """They share most of their code, so fewer cases of each suffice."""
    checked.keeps_its_word(label, settings(FUZZ, max_examples=max(CASES // 20, 3)))


@pytest.mark.parametrize("below", ["", "/events", "/predictions", "/texts"])
def test_the_events_of_a_job_were_not_what_the_document_says(below: str) -> None:
    """Random ids find no job."""

    async def ended_job() -> str:
        async with client(edge()) as made:
            job = (await made.post("/jobs?keep_input=true", json={"text": ["a"]})).json()["id"]
            assert (await made.delete(f"/jobs/{job}")).status_code == 200
            return str(job)

    operation = checked.operation(f"GET /jobs/{{job_id}}{below}")
    answer = operation.Case(path_parameters={"job_id": asyncio.run(ended_job())}).call_and_validate()
    assert answer.status_code == 200
