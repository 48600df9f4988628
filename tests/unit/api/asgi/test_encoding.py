"""Compressed bodies: accepted up to the size of a body, on every route with texts."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib

import pytest
import zstandard

from api.asgi.encoding import decompressed
from api.errors import Problem
from tests.unit.api.service import Start

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
        ("gzip", b"nonsense", {400, 422}),
        ("zstd", b"nonsense", {400, 422}),
        ("zstd", PACKERS["zstd"](b"{}" * 900)[:-4], {400, 422}),
        ("br", b"{}", {415}),
        ("gzip, gzip", whole, {415}),
    ):
        answer = await service.client.post(path, content=body, headers={"content-encoding": encoding})
        assert answer.status_code in statuses, (encoding, answer.text)
    assert service.hub.asked == []
    refused = await service.client.post(path, content=b"{}", headers={"content-encoding": "br"})
    assert refused.headers["accept-encoding"] == "gzip, deflate, zstd"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_takes_no_more_memory_than_a_body(encoding: str) -> None:
    body = PACKERS[encoding](b" " * 200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(Problem) as refused:
            decompressed(encoding.encode(), body, 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert refused.value.status == 413


def test_deflate_has_two_formats() -> None:
    for pack in (zlib.compress, raw_deflate):
        assert decompressed(b"deflate", pack(b'{"text": ["a"]}'), 100) == b'{"text": ["a"]}'
