"""Errors of POST /predict: each status with its code, body and headers."""

from __future__ import annotations

import json
import logging
import tracemalloc
from collections.abc import AsyncIterator
from hashlib import sha256

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Message

from api.errors import Problem
from api.predict.request import LARGE_BODY, RequestReader, read_texts
from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    EntryPoisoned,
    MillraceError,
    NoWorker,
    QueueFull,
    QueueUnavailable,
)
from batcher.messages import entry_id
from tests.unit.api.service import Service, Start, assert_problem
from tests.unit.fakes import FakeHub, prediction


@pytest.mark.parametrize(
    ("body", "kind", "loc"),
    [
        (b"", "missing", ["body"]),
        (b" \n", "missing", ["body"]),
        (b"{", "json_invalid", ["body"]),
        (b'{"text": ["a"]} x', "json_invalid", ["body"]),
        (b'{"text": ["a",]}', "json_invalid", ["body", "text", 1]),
        (b"text=a", "json_invalid", ["body"]),
        (b'{"text": ["\\ud800"]}', "string_unicode", ["body", "text", 0]),
        (b'{"text": ["a", "\\udc00\\ud800"]}', "string_unicode", ["body", "text", 1]),
        (b'{"text": ["\x00"]}', "json_invalid", ["body", "text", 0]),
        (b'{"text": ["a\nb"]}', "json_invalid", ["body", "text", 0]),
        (b'{"text": ["\xff\xfe"]}', "string_unicode", ["body", "text", 0]),
        (b"\x1f\x8b\x08", "json_invalid", ["body"]),
        (b"\xff", "string_unicode", ["body"]),
        (b"\xef\xbb\xbf{}", "missing", ["body", "text"]),
        (b"[" * 100_000, "model_type", ["body"]),
        (b'{"text": ' + b"[" * 1000, "string_type", ["body", "text", 0]),
        (b'{"text": nonsense}', "json_invalid", ["body"]),
        (b'{"text": ["a", nonsense]}', "json_invalid", ["body", "text", 1]),
        (b'{"text"}', "json_invalid", ["body"]),
        (b'{text: ["a"]}', "json_invalid", ["body"]),
        (b"[]", "model_type", ["body"]),
        (b'"a"', "model_type", ["body"]),
        (b"null", "model_type", ["body"]),
        (b"{}", "missing", ["body", "text"]),
        (b'{"texts": ["a"]}', "extra_forbidden", ["body", "texts"]),
        (b'{"text": "a"}', "list_type", ["body", "text"]),
        (b'{"text": 5}', "list_type", ["body", "text"]),
        (b'{"text": null}', "list_type", ["body", "text"]),
        (b'{"text": {"0": "a"}}', "list_type", ["body", "text"]),
        (b'{"text": []}', "too_short", ["body", "text"]),
        (b'{"text": ["a", 6]}', "string_type", ["body", "text", 1]),
        (b'{"text": [["a"]]}', "string_type", ["body", "text", 0]),
        (b'{"text": [null]}', "string_type", ["body", "text", 0]),
        (b'{"text": ["a"], "model": "x"}', "extra_forbidden", ["body", "model"]),
        (b'{"text": ["a"], "text": ["b"]}', "duplicate_key", ["body", "text"]),
        (b'{"text": ["a"], "\\u0074ext": ["b"]}', "duplicate_key", ["body", "text"]),
    ],
)
async def test_what_is_no_request_is_422(service: Service, body: bytes, kind: str, loc: list[object]) -> None:
    problem = assert_problem(await service.post(body), 422, "invalid_request")
    detail = problem["detail"]
    assert isinstance(detail, list)
    assert (detail[0]["type"], detail[0]["loc"]) == (kind, loc)
    assert detail[0]["msg"]
    assert not detail[0]["msg"].startswith(("Input", "Field", "Extra")), "the parser's words, not ours"
    assert service.hub.asked == []


LARGE = b'"' + b"x" * 15_000 + b'",'


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b'{"text": [' + LARGE * 5 + b"6]}", 422, "string_type"),
        (b'{"text": [' + LARGE * 5 + b"]}", 422, "json_invalid"),
        (b'{"text": [' + LARGE * 5 + b'"a"], "text": ["b"]}', 422, "duplicate_key"),
        (b'{"text": [' + LARGE * 5 + b'"\\ud800"]}', 422, "string_unicode"),
        (b'{"text": [' + LARGE * 5 + b'"\xff"]}', 422, "string_unicode"),
        (b'{"text": [' + b" " * 70_000 + b"]}", 422, "too_short"),
        (b'{"text": [' + b"[" * 500_000, 422, "string_type"),
        (b"{" + b",".join(b'"%d": 0' % number for number in range(50_000)) + b"}", 422, "extra_forbidden"),
        (b'{"text": [' + b'"",' * 500_000 + b'""]}', 413, "too_many_texts"),
        (b'{"text": ["' + b"x" * 70_000 + b'"]}', 413, "text_too_long"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_large_body_is_read_as_far_as_it_makes_sense(
    service: Service, body: bytes, status: int, kind: str
) -> None:
    """The number of objects created is limited, whatever the content of the body."""
    tracemalloc.start()
    answer = await service.post(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    problem = assert_problem(answer, status, "invalid_request" if status == 422 else kind)
    if status == 422:
        assert problem["detail"][0]["type"] == kind  # type: ignore[index]
    assert most < 4 * len(body) + 2**20


async def test_a_large_body_has_its_answer(service: Service) -> None:
    texts = [f"{number} " + '"é\\' * 100 for number in range(1000)]
    assert len((await service.predict(*texts)).json()["predictions"]) == 1000


async def test_the_body_may_be_right_in_unusual_ways(service: Service) -> None:
    for body in (
        b'{"text": ["text"]}',
        b'{"\\u0074ext": ["a"]}',
        b'{"text": ["\\u0000"]}',
        b'{"text":["\\"text\\""]}',
    ):
        assert (await service.post(body)).status_code == 200, body
    assert service.hub.asked == [["text"], ["a"], ["\0"], ['"text"']]


async def test_numbers_are_not_taken_for_texts(service: Service) -> None:
    problem = assert_problem(await service.post(b'{"text": [5, 6]}'), 422, "invalid_request")
    assert problem["detail"] == [
        {"type": "string_type", "loc": ["body", "text", 0], "msg": "text 0: must be a string"}
    ]
    assert problem["index"] == 0


async def test_a_refusal_never_echoes_what_was_sent(service: Service) -> None:
    for body in (b'{"text": "secret"}', b'{"text": ["a", {"secret": 1}]}', b'["secret"]', b"secret"):
        response = await service.post(body)
        assert response.status_code == 422
        assert "secret" not in response.text


async def test_the_first_of_many_errors_is_told(service: Service) -> None:
    for body in (json.dumps({"text": [1] * 1000}).encode(), b'{"' + b"x" * 1000 + b'": 1, "y": 2}'):
        response = await service.post(body)
        assert len(assert_problem(response, 422, "invalid_request")["detail"]) == 1  # type: ignore[arg-type]
        assert len(response.content) < 300


async def test_half_a_surrogate_pair_is_called_that(service: Service) -> None:
    response = await service.post(b'{"text": ["\\ud83d"]}')
    detail = assert_problem(response, 422, "invalid_request")["detail"]
    assert detail == [
        {
            "type": "string_unicode",
            "loc": ["body", "text", 0],
            "msg": "text 0: not valid Unicode: unpaired surrogate",
        }
    ]


PIECES = [b"{", b"}", b"[", b"]", b",", b":", b" ", b"5", b"null", b"nul", b'"a"', b'"text"', b'"texts":']
PIECES += [
    b'{"text": [',
    b'"a"]}',
    b'"\\u0074ext"',
    b'"\\ud800"',
    b'"\\x"',
    b'"\n"',
    b'"\xff"',
    b"\xff",
    b"\xef\xbb\xbf",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))
@example(b'{"text": "a"}')
@example(b'{"text": ["a"], "model": 1}')
@example(b'\xef\xbb\xbf{"text": ["a"]}')
@example(b'{"text": ["text", "a"]}')
@example(b'{"text": ["a", "b", "c", 5]}')
def test_what_is_said_of_a_body_does_not_depend_on_its_size(body: bytes) -> None:
    """Small bodies are parsed by another parser than large ones."""
    reader = RequestReader(max_texts=3, max_text_chars=10)

    def said(body: bytes) -> object:
        try:
            return read_texts(reader, body)
        except Problem as problem:
            return problem.status, problem.code, problem.detail

    assert said(body) == said(body + b" " * LARGE_BODY)


async def test_too_many_texts(start: Start) -> None:
    service = await start(max_texts=3)
    assert (await service.predict("a", "b", "c")).status_code == 200
    problem = assert_problem(await service.predict("a", "b", "c", "d"), 413, "too_many_texts")
    assert problem["detail"] == "the request has more than 3 texts"


async def test_too_long_a_text(start: Start) -> None:
    service = await start(max_text_chars=5)
    assert (await service.predict("éééé5")).status_code == 200
    problem = assert_problem(await service.predict("ok", "123456"), 413, "text_too_long")
    assert problem["index"] == 1


@pytest.mark.parametrize("path", ["/predict", "/jobs"])
async def test_too_large_a_body_by_its_length_is_answered_before_it_is_read(start: Start, path: str) -> None:
    service = await start(max_body_bytes=1024, max_job_body_bytes=1024)
    seen: list[str] = []

    async def receive() -> Message:
        seen.append("read")
        return {"type": "http.request", "body": b" " * 2**20, "more_body": True}

    async def send(message: Message) -> None:
        seen.append(str(message.get("status", "more" if message.get("more_body") else "end")))

    headers = [(b"content-length", b"99999999999")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    await service.app(scope, receive, send)
    assert seen == ["413", "end"]


async def test_too_large_a_body_is_refused_while_it_comes(start: Start) -> None:
    service = await start(max_body_bytes=4096)
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 1024

    response = await service.client.post("/predict", content=endless())
    assert_problem(response, 413, "too_large")
    assert response.headers["connection"] == "close"
    assert read == 5


async def test_a_body_of_exactly_the_limit_is_read(start: Start) -> None:
    service = await start(max_body_bytes=1024)
    body = b'{"text": ["a"]}'.ljust(1024)
    assert (await service.post(body)).status_code == 200
    assert_problem(await service.post(body + b" "), 413, "too_large")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data; boundary=x", "application/jsonp"]
)
async def test_another_content_type(service: Service, content_type: str) -> None:
    response = await service.post(b'{"text": ["a"]}', content_type=content_type)
    assert_problem(response, 415, "unsupported_media_type")
    assert response.headers["accept"] == "application/json"


@pytest.mark.parametrize("path", ["/predict", "/jobs"])
async def test_a_compressed_body(service: Service, path: str) -> None:
    async def post(encoding: str) -> httpx.Response:
        headers = {"content-encoding": encoding}
        return await service.client.post(path, content=b"{}", headers=headers)

    response = await post("br")
    problem = assert_problem(response, 415, "unsupported_media_type")
    assert "Content-Encoding" in str(problem["detail"])
    assert response.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert (await post("identity")).status_code != 415


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (QueueFull("much is waiting", retry_after_s=2.2), 429, "queue_full", "3"),
        (QueueFull("much is waiting"), 429, "queue_full", "1"),
        (NoWorker("none lives"), 503, "no_worker", "2"),
        (QueueUnavailable("no answer", retry_after_s=0.2), 503, "redis_unavailable", "1"),
        (BudgetExceeded("over"), 504, "budget_exceeded", "1"),
    ],
)
async def test_refused_by_the_mill(
    start: Start, error: MillraceError, status: int, code: str, retry_after: str | None
) -> None:
    service = await start(FakeHub(refusal=error))
    response = await service.predict("a")
    assert assert_problem(response, status, code)["detail"] == str(error)
    assert response.headers.get("retry-after") == retry_after


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(EntryPoisoned("it ends workers"), 422, "poison"), (EntryFailed("ValueError"), 500, "inference_failed")],
)
async def test_one_bad_text_is_named_and_its_neighbours_are_remembered(
    start: Start, error: MillraceError, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    service = await start(FakeHub(answer=lambda text: error if text == "bad" else prediction(text)))
    problem = assert_problem(await service.predict("a", "b", "bad", "bad"), status, code)
    assert problem["index"] == 2
    assert problem["detail"] == f"text 2: {error}"
    (line,) = [record.__dict__ for record in caplog.records if record.__dict__.get("code") == code]
    assert line["entry"] == entry_id("bad"), "what the list of the dead calls it"
    assert line["request_id"] == problem["request_id"]
    assert (await service.predict("a", "b")).headers["x-cache"] == "HIT"
    await service.predict("bad")
    assert service.hub.asked == [["a", "b", "bad"], ["bad"]]


async def test_what_nobody_foresaw_is_500_without_its_words(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = await start(FakeHub(refusal=RuntimeError("inner workings")))
    response = await service.predict("a")
    problem = assert_problem(response, 500, "internal")
    assert "inner workings" not in response.text
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert vars(record)["request_id"] == problem["request_id"]
    assert record.exc_info is not None
    assert record.exc_info[0] is RuntimeError


KEY = sha256(b"open sesame").hexdigest()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic open sesame"},
        {"x_api_key": "open sesame "},
    ],
)
async def test_without_a_valid_key(start: Start, headers: dict[str, str]) -> None:
    service = await start(api_keys=f"{'0' * 64},{KEY}")
    response = await service.predict("a", **headers)
    assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", [{"authorization": "bearer open sesame"}, {"x_api_key": "open sesame"}])
async def test_with_a_valid_key(start: Start, headers: dict[str, str]) -> None:
    service = await start(api_keys=f"{'0' * 64}, {KEY.upper()}")
    assert (await service.predict("a", **headers)).status_code == 200


async def test_with_keys_only_probes_and_the_description_stay_open(start: Start) -> None:
    service = await start(api_keys=KEY)
    for path in ("/health", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
        assert (await service.client.get(path)).status_code == 200, path
    assert_problem(await service.client.get("/anything"), 401, "unauthorized")
