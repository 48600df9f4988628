"""What requests leave: a reference cycle keeps what it holds until garbage is collected, which is rare."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from api.dialect_names import DIALECTS
from api.jobs.body import Receiver
from api.jobs.service import _Streamed
from tests.cost.bodies import JSON_BODIES, compressed_bodies, json_bodies
from tests.cost.files import FILES, MULTIPART, form
from tests.cost.requests import HEADS
from tests.cost.routes import every_route
from tests.cost.stored import filled
from tests.unit.api.admin.conftest import ADMIN, AdminApi, Start
from tests.unit.garbage import LARGE, collected_by_hand, large_garbage

# The size of bodies.
SIZE = 32_000
# The file routes, with a query.
READING = ("/jobs", "/jobs?filename=a.csv", "/jobs?filename=a.json", "/jobs/preview?filename=a", "/v1/files")


def worst(path: str) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Bodies for a route, nearly all of which it refuses, and their headers."""
    if path in READING:
        for write in FILES.values():
            content = form(write(SIZE)) if path == "/v1/files" else write(SIZE)
            yield content, {"content-type": MULTIPART if path == "/v1/files" else "application/json"}
        return
    for _, body in json_bodies(JSON_BODIES[path], SIZE, lambda name: "." not in name):
        yield body, {"content-type": "application/json"}
    for packed in compressed_bodies(JSON_BODIES[path], SIZE):
        if len(packed.body) < 1_000_000:
            for body in (packed.body, packed.body[:-9]):
                yield body, {"content-type": "application/json", "content-encoding": packed.encoding}


async def status(
    api: AdminApi,
    target: str,
    body: bytes,
    headers: dict[str, str],
    *,
    leaves: bool = False,
    method: str = "POST",
) -> int:
    """Of the answer, 0 if the client `leaves` within its body. httpx would keep the body itself."""
    path, _, query = target.partition("?")
    given = {"host": "localhost", "content-length": str(len(body)), **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1234),
        "http_version": "1.1",
        "scheme": "http",
        "server": ("localhost", 80),
    }
    parts, statuses = [body], list[int]()

    async def receive() -> dict[str, object]:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": leaves}
        if not leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if "status" in message:
            statuses.append(message["status"])

    await api.app(scope, receive, send)
    return next(iter(statuses), 0)


def test_what_only_a_cycle_keeps_is_found() -> None:
    with collected_by_hand():
        cycle: list[object] = [bytes(LARGE)]
        cycle.append(cycle)
        del cycle
        (found,) = large_garbage()
    assert found.startswith("bytes of ")


async def left_by(start: Start, path: str, *, leaves: bool) -> list[str]:
    """The large objects that are garbage once the worst bodies have been sent, or half of them."""
    api = await start(compat=",".join(DIALECTS), compat_models="*", open="true")
    target = path.replace("{model:model}", "default").replace("{name:path}", "default")
    target = target.replace("{lane}", "bulk").replace("{version}", "1")
    body, headers = next(worst(path))
    await status(api, target, body, ADMIN | headers)  # the first time, scripts are unknown to Redis
    with collected_by_hand():
        for body, headers in worst(path):
            assert await status(api, target, body, ADMIN | headers, leaves=leaves) < 500
            del body
        return large_garbage()


@pytest.mark.parametrize("path", [*READING, *JSON_BODIES])
async def test_a_refused_body_stayed_in_memory_until_garbage_was_collected(start: Start, path: str) -> None:
    """A compressed body left up to 10 MiB, because frames that raised its error referred to the error."""
    left = await left_by(start, path, leaves=False)
    assert not left, "\n".join(left)


def heads(method: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Targets and headers, of which one part is large, for every route of a method."""
    for route in every_route():
        if route.method == method.replace("HEAD", "GET"):
            plain = filled(route.path, "a" * 32)
            yield filled(route.path, "x" * SIZE), {}
            for name in (*(name for name, _ in route.query), "unknown"):
                yield f"{plain}?{name}={'9' * SIZE}", {}
            for name, value in HEADS.items():
                yield plain, {name.strip(): value * (SIZE // len(value) + 1)}


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_part_of_a_head_stayed_in_memory_until_garbage_was_collected(
    start: Start, method: str
) -> None:
    api = await start(compat=",".join(DIALECTS), compat_models="*", open="true")
    for path in ("/jobs", "/jobs/none"):  # the first time, a job queue looks at what Redis is
        await status(api, path, b"", ADMIN, method="GET")
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for target, headers in heads(method):
            assert await status(api, target, b"", ADMIN | headers, leaves=True, method=method) < 500
            del target, headers
        found = large_garbage()
        assert not found, "\n".join(found)
    finally:
        gc.enable()
        gc.unfreeze()


@pytest.mark.parametrize("path", [*READING, "/admin/forget", "/predict", "/v1/classify"])
async def test_what_clients_that_left_had_sent_stayed_in_memory(start: Start, path: str) -> None:
    left = await left_by(start, path, leaves=True)
    assert not left, "\n".join(left)


async def test_an_error_that_its_own_frame_keeps_is_let_go_when_its_client_has_left(start: Start) -> None:
    """As those of groups of tasks, which the framework's responses use."""
    api = await start()

    async def leave(_: Request) -> Response:
        held, error = bytes(SIZE), ClientDisconnect()
        raise error if held else AssertionError

    api.app.app.router.routes.insert(0, Route("/left", leave))
    with collected_by_hand():
        assert await status(api, "/left", b"", ADMIN, method="GET") == 0
        found = large_garbage()
    assert not found, "\n".join(found)


async def test_the_last_block_of_results_stayed_in_memory_once_their_reader_had_left() -> None:
    read, left = asyncio.Event(), asyncio.Event()

    async def blocks() -> AsyncIterator[bytes]:
        yield bytes(100 * LARGE)
        read.set()
        await asyncio.Event().wait()

    async def receive() -> dict[str, object]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_: object) -> None: ...

    with collected_by_hand():
        sending = asyncio.create_task(
            _Streamed(blocks(), Receiver(receive), iter(()))({"type": "http"}, receive, send)
        )
        await read.wait()
        left.set()
        await sending
        found = large_garbage()
        assert not found, "\n".join(found)
