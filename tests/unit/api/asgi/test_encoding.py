"""Compressed bodies: accepted up to the size of a body, on every route with texts or files."""

from __future__ import annotations

import gzip
import json
import random
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import zstandard

from api.asgi.http import BodyReader, Message, RequestHeaders, unpacked
from api.errors import Problem
from api.settings import ApiSettings
from tests.conftest import FakeRedis
from tests.unit.api.jobs.jobs_api import POSITIVE, JobsApi, serving
from tests.unit.api.service import Start, assert_problem

BODIES = {"/predict": {"text": ["a" * 2000]}, "/": {"inputs": "a" * 2000}, "/classify": {"input": "a" * 2000}}
PACKERS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("encoding", PACKERS)
async def test_a_compressed_body_was_refused(start: Start, path: str, encoding: str) -> None:
    service = await start()
    body = PACKERS[encoding](json.dumps(BODIES[path]).encode())
    answer = await service.client.post(path, content=body, headers={"content-encoding": encoding})
    assert answer.status_code == 200, answer.text
    assert service.hub.asked == [["a" * 2000]]


@pytest.mark.parametrize("path", BODIES)
async def test_bombs_broken_data_and_other_encodings_are_refused(start: Start, path: str) -> None:
    service = await start(max_body_bytes=100_000)
    bomb = b" " * 100_001
    whole = gzip.compress(json.dumps(BODIES[path]).encode())
    for encoding, body, statuses in (
        *((name, pack(bomb), {413, 422}) for name, pack in PACKERS.items()),
        ("gzip", whole[:-9], {400, 422}),
        ("gzip", whole + whole, {400, 422}),
        ("gzip", whole + b"more", {400, 422}),
        ("gzip", b"nonsense", {400, 422}),
        ("zstd", b"nonsense", {400, 422}),
        ("zstd", PACKERS["zstd"](json.dumps(BODIES[path]).encode())[:-1], {400, 422}),
        ("br", b"{}", {415}),
        ("gzip, gzip", whole, {415}),
    ):
        answer = await service.client.post(path, content=body, headers={"content-encoding": encoding})
        assert answer.status_code in statuses, (encoding, answer.text)
    assert service.hub.asked == []
    refused = await service.client.post(path, content=b"{}", headers={"content-encoding": "br"})
    assert refused.headers["accept-encoding"] == "gzip, deflate, zstd"


async def read(encoding: str, body: bytes, limit: int) -> bytes:
    """The body of a request with this encoding."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    headers = RequestHeaders({"headers": [(b"content-encoding", encoding.encode())]})
    return await BodyReader(limit, 60).read(headers, receive)


def test_texts_that_wait_have_all_of_their_room_and_no_more() -> None:
    reader = BodyReader(1000, 60)
    texts = ["a", "é", "\U0001f600"]
    reader._room = size = sum(map(sys.getsizeof, texts))
    for _ in range(2):
        assert reader.hold(texts) == size
        with pytest.raises(Problem) as refused:
            reader.hold([""])
        assert refused.value.status == 503
        reader.release(size)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_takes_no_more_memory_than_a_body(encoding: str) -> None:
    body = PACKERS[encoding](b" " * 200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Problem) as refused:
            await read(encoding, body, 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert refused.value.status == 413


async def test_deflate_has_two_formats() -> None:
    for pack in (zlib.compress, raw_deflate):
        assert await read("deflate", pack(b'{"text": ["a"]}'), 100) == b'{"text": ["a"]}'


@pytest.mark.parametrize("encoding", PACKERS)
def test_what_is_read_does_not_depend_on_where_blocks_end(encoding: str) -> None:
    chance = random.Random(7)
    content = [chance.randbytes(size) + b"a" * size for size in (0, 1, 5_000, 300_000)]
    body = b"".join(map(PACKERS[encoding], content))
    cuts = [0, *sorted(chance.sample(range(len(body)), 40)), len(body)]
    blocks = [body[at:to] for at, to in pairwise(cuts)]
    assert b"".join(unpacked(encoding.removeprefix("x-").encode(), blocks)) == b"".join(content)
    for end in (body[:-1], body[: len(body) // 2], body + b"\x00\x01"):
        with pytest.raises(Problem) as refused:
            list(unpacked(encoding.removeprefix("x-").encode(), [end]))
        assert refused.value.status == 422


@pytest.fixture
async def api(fake_redis: FakeRedis) -> AsyncIterator[JobsApi]:
    limits = {"max_job_body_bytes": 100_000, "max_jobs_bytes": 1_000_000}
    async with serving(fake_redis, ApiSettings(**limits, moderation_labels="POSITIVE=hate")) as made:
        yield made


@pytest.mark.parametrize("encoding", PACKERS)
async def test_jobs_and_files_refused_what_predict_accepts(api: JobsApi, encoding: str) -> None:
    pack, headers = PACKERS[encoding], {"content-encoding": encoding}
    rows = "text\n" + "\n".join(f"text {number}" for number in range(200))
    for query, kind, body in (
        ("", "application/json", json.dumps({"text": rows.split("\n")})),
        ("", "application/x-ndjson", "\n".join(map(json.dumps, rows.split("\n")))),
        ("?filename=a.csv", "", rows),
    ):
        sent = headers | {"content-type": kind}
        answer = await api.client.post(f"/jobs{query}", content=pack(body.encode()), headers=sent)
        assert answer.status_code == 202, answer.text
        assert answer.json()["total"] == (200 if query else 201)
    seen = await api.client.post("/jobs/preview?filename=a.csv", content=pack(rows.encode()), headers=headers)
    assert seen.json()["rows"][0] == ["text 0"], seen.text
    job = answer.json()["id"]
    api.finish(api.start(job), *[POSITIVE] * 200)
    joined = await api.client.post(f"/jobs/{job}/labelled", content=pack(rows.encode()), headers=headers)
    assert joined.status_code == 200, joined.text
    assert len(joined.text.splitlines()) == 201


@pytest.mark.parametrize("encoding", PACKERS)
async def test_batches_refused_what_moderations_accept(api: JobsApi, encoding: str) -> None:
    pack, headers = PACKERS[encoding], {"content-encoding": encoding}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/moderations", "body": {"input": "a"}}
    plain = api.client.build_request(
        "POST",
        "/v1/files",
        data={"purpose": "batch"},
        files={"file": ("in.jsonl", json.dumps(line).encode())},
    )
    sent = {"content-type": plain.headers["content-type"], **headers}
    uploaded = await api.client.post("/v1/files", content=pack(plain.read()), headers=sent)
    assert uploaded.status_code == 200, uploaded.text
    body = {"input_file_id": uploaded.json()["id"], "endpoint": "/v1/moderations", "completion_window": "24h"}
    created = await api.client.post("/v1/batches", content=pack(json.dumps(body).encode()), headers=headers)
    assert created.status_code == 200, created.text


@pytest.mark.parametrize("encoding", PACKERS)
async def test_nothing_is_kept_of_an_upload_that_is_broken_or_a_bomb(api: JobsApi, encoding: str) -> None:
    lines = b'"a text"\n' * 5000
    whole = PACKERS[encoding](lines)
    bomb = PACKERS[encoding](b'"a"\n' * 50_000)
    headers = {"content-encoding": encoding, "content-type": "application/x-ndjson"}
    for body, status, code in (
        (bomb, 413, "too_large"),
        (whole[:-1], 422, "invalid_request"),
        (whole + b"more", 422, "invalid_request"),
        (b"nonsense", 422, "invalid_request"),
    ):
        assert_problem(await api.client.post("/jobs", content=body, headers=headers), status, code)
    unknown = await api.client.post("/jobs", content=lines, headers=headers | {"content-encoding": "br"})
    assert_problem(unknown, 415, "unsupported_media_type")
    assert unknown.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert api.held() == []
