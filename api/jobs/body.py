"""The body of an upload: its content type, and its blocks, which a worker thread reads while they arrive."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from anyio import fail_after, from_thread
from starlette.requests import ClientDisconnect

from api.asgi.http import CLOSE, Receive, RequestHeaders, is_json
from api.errors import Problem
from api.jobs.parsers import READERS

# The longest pause between two parts of a body, and the lowest average rate in bytes/s after that time.
BLOCK_S = 30.0
SLOWEST = 16 * 1024


def media_type(headers: RequestHeaders) -> str:
    """The type of the body; "application/json" for every JSON type. Raises Problem 415."""
    given = headers.found.get(b"content-type", b"")
    kind = "application/json" if is_json(given) else given.decode("latin-1").partition(";")[0].strip().lower()
    if kind not in READERS:
        accepted = ", ".join(READERS)
        detail = f"the content type must be one of {accepted}"
        raise Problem(415, detail, headers=(CLOSE, (b"accept", accepted.encode())))
    return kind


def blocks(receive: Receive) -> Iterator[bytes]:
    """Yields the blocks of a body in a worker thread, and fetches each from the event loop when needed.

    Raises ClientDisconnect, or Problem 408 if the client pauses for too long or sends too slowly.
    """
    began, size = monotonic(), 0

    async def fetch() -> tuple[bytes, bool]:
        try:
            with fail_after(BLOCK_S):
                message = await receive()
        except TimeoutError:
            raise Problem(408, "the body stopped arriving", headers=(CLOSE,)) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message.get("body", b""), message.get("more_body", False)

    more = True
    while more:
        block, more = from_thread.run(fetch)
        size += len(block)
        if monotonic() - began > BLOCK_S + size / SLOWEST:
            raise Problem(408, "the body arrives too slowly", headers=(CLOSE,))
        yield block
