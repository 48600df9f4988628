"""Responses whose body is read from Redis block by block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from api.asgi.http import unless_disconnected
from api.errors import Problem, ResponseCut
from api.jobs.body import Receiver
from api.jobs.service import JobService
from batcher.errors import MillraceError


async def streamed(
    jobs: JobService,
    receiver: Receiver,
    blocks: Iterator[bytes],
    kind: str,
    headers: Mapping[str, str] | None = None,
) -> StreamingResponse:
    """A response with these blocks, the first of which is read here: an error in it has its own status.

    After a later error, the connection is closed before the end of the body. Raises Problem, MillraceError
    and ClientDisconnect.
    """
    try:
        first = await unless_disconnected(receiver.receive, jobs.call(next, blocks, b""))
    except ClientDisconnect:
        receiver.gone = True
        raise

    async def body() -> AsyncIterator[bytes]:
        block: bytes | None = first
        try:
            while block is not None:
                yield block
                block = await jobs.call(next, blocks, None)
        except (Problem, MillraceError) as error:
            raise ResponseCut(f"the body of a response ends early: {error}") from error
        finally:
            receiver.gone = True

    return StreamingResponse(body(), media_type=kind, headers=headers)
