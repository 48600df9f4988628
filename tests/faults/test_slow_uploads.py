"""Finding 13 from end to end: what slow uploads of long strings cost the API, in processor time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from api.jobs.service import UPLOADS
from tests.faults.test_flood import JSON_HEAD, peers, quick, status
from tests.service import Service

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.timeout(600)]

PIECES = 50
PIECE = b'words, \\"quotes\\" and breaks\\n. '
HEAD = JSON_HEAD % (b"/jobs", b"application/json") + b"transfer-encoding: chunked\r\n\r\n"
# Kilobytes of a string before its small pieces; the reader accepts 1024 of one string.
SHORT, LONG = 10, 900


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@contextlib.asynccontextmanager
async def probing(service: Service) -> AsyncIterator[list[float]]:
    """Asks for /health and /readyz again and again; yields the seconds that each pair took."""
    took: list[float] = []

    async def probe() -> None:
        while True:
            took.append(await quick(service))
            await asyncio.sleep(0.2)

    task = asyncio.create_task(probe())
    try:
        yield took
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task  # raises what a probe found


def cpu_ms(pid: int) -> float:
    """Processor time of all threads of a process in ms. Its usual counters move in steps of 10 ms."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


async def cost(service: Service, kilobytes: int) -> float:
    """Milliseconds of processor time for each kilobyte of small pieces after `kilobytes` of the same string.

    Pieces are paced, because those that wait are read as one.
    """
    start = chunk(b'{"text": ["' + PIECE * (kilobytes * 1000 // len(PIECE)))
    async with peers(service, UPLOADS, HEAD + start) as uploads, probing(service) as took:
        await asyncio.sleep(1)  # until the starts have been read
        before = cpu_ms(service.api.pid)
        for _ in range(PIECES):
            for _, writer in uploads:
                writer.write(chunk(PIECE))
            await asyncio.sleep(0.05)
        spent = cpu_ms(service.api.pid) - before
        for _, writer in uploads:
            writer.write(chunk(b'"]}') + b"0\r\n\r\n")
        assert {await status(peer) for peer in uploads} == {202}
    each = spent / (UPLOADS * PIECES * len(PIECE) / 1000)
    print(f"after {kilobytes} kB: {each:.2f} ms/kB of small pieces, probes within {max(took) * 1000:.0f} ms")
    return each


async def test_finding_13_slow_uploads_of_long_strings_cost_their_length(
    start_service: Callable[..., Service],
) -> None:
    """Each piece was the reason to read the whole string again, so it cost more the longer the string was.

    Small differences are noise of a busy machine; what grows with the square grows in every attempt.
    """
    made = start_service(workers=1)
    await cost(made, 1)
    for _ in range(4):
        short, long = await cost(made, SHORT), await cost(made, LONG)
        if long < 2 * short:
            return
    raise AssertionError(
        f"a kilobyte costs {short:.2f} ms in a short string, and {long:.2f} ms in a long one"
    )
