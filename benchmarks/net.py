"""A load generator that costs little: keep-alive HTTP/1.1 over bare asyncio streams."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.report import quantile


class Connection:
    """One keep-alive connection; one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, headers: str = "") -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return int(answer[9:12]), answer, await reader.readexactly(length)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


def predict_body(texts: Sequence[str]) -> bytes:
    return json.dumps({"text": list(texts)}).encode()


@dataclass(slots=True)
class Tally:
    """What a load met. Latencies in seconds, of answered requests."""

    seconds: float
    texts: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)

    @property
    def texts_per_s(self) -> float:
        return self.texts / self.seconds

    def quantile_ms(self, share: float) -> float:
        return quantile(self.latencies_s, share) * 1000


async def closed_loop(
    port: int, users: int, seconds: float, texts: Callable[[], Sequence[str]], headers: str = ""
) -> Tally:
    """`users` who each ask again as soon as they are answered.

    Counts what is answered within `seconds` once each has been answered: neither the first requests, which
    find an empty queue, nor the last ones, which leave one.
    """
    tally = Tally(seconds)
    new, began, until = users, math.inf, math.inf

    async def user() -> None:
        nonlocal new, began, until
        connection, first = Connection(port), True
        while (start := time.perf_counter()) < until:
            asked = texts()
            status, _, _ = await connection.post("/predict", predict_body(asked), headers)
            now = time.perf_counter()
            tally.statuses[status] = tally.statuses.get(status, 0) + 1
            if status == 200 and began < now <= until:
                tally.texts += len(asked)
                tally.latencies_s.append(now - start)
            if first:
                first = False
                new -= 1
                if not new:
                    began, until = now, now + seconds
            if status == 429:
                await asyncio.sleep(1)  # as it was asked to, at least
        connection.close()

    await asyncio.gather(*(user() for _ in range(users)))
    return tally
