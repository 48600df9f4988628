"""What the traffic asks for, and requests whose clients leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence

import httpx

PAGES = (
    "/readyz",
    "/livez",
    "/metrics",
    "/stats",
    "/models",
    "/jobs?limit=5",
    "/admin/models",
    "/admin/history",
    "/admin/usage",
    "/openapi.json",
    "/",
    "/v1/models",
    "/info",
)
# Path, body and status of what is refused.
BAD: Sequence[tuple[str, bytes, int]] = (
    ("/predict", b'{"text": "no list"}', 422),
    ("/predict", b"no json", 422),
    ("/predict", b'{"text": [1]}', 422),
    ("/predict", json.dumps({"text": ["x" * 20_001]}).encode(), 413),
    ("/predict", json.dumps({"text": ["x"] * 1025}).encode(), 413),
    ("/models/nothing/predict", b'{"text": ["x"]}', 404),
    ("/nothing", b"{}", 404),
    ("/jobs", b'{"text": []}', 422),
    ("/jobs/0123456789abcdef0123456789abcdef/events", b"", 405),
)


def request(path: str, body: bytes, kind: str = "application/json", *, lacking: int = 0) -> bytes:
    """A POST of `body` whose last `lacking` bytes are never sent."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n"
    return f"{head}content-length: {len(body) + lacking}\r\n\r\n".encode() + body


async def leave(url: httpx.URL, sent: bytes, after_s: float) -> None:
    """Leaves that long after the request was sent. httpx would keep the connection of each."""
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(sent)
    await asyncio.sleep(after_s)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def batch_lines(texts: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        body = {"model": "stub", "input": text}
        request = {"custom_id": f"n{number}", "method": "POST", "url": "/v1/classify", "body": body}
        yield json.dumps(request) + "\n"
