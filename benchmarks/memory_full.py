"""A long load of unknown texts on a Redis with little memory: what is answered, how much memory is used.

python -m benchmarks.memory_full [--rate 1000] [--seconds 600] [--maxmemory-mb 192]

A stub of a model, one API, one worker. Requests of ten texts start at their rate, whatever becomes of others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import redis

from batcher.connection.outage import REDIS_ERRORS
from batcher.messages import fragment
from benchmarks import report
from benchmarks.net import Connection, predict_body
from benchmarks.service import Service, service
from benchmarks.texts import stream
from model_store.stub import LABELS, StubClassifier

REQUEST_TEXTS = 10
MB = 1024**2
# Connections at most: a service that falls behind is not asked more than this at a time.
MAX_AT_ONCE = 200
# A connection that has been idle for longer is replaced: the service closes it after 75 s.
IDLE_S = 60.0
_STUB = StubClassifier()


@dataclass(slots=True)
class Soak:
    """What a soak met. `used` is the memory of Redis in bytes, once a second."""

    texts: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    late: int = 0
    latencies_s: list[float] = field(default_factory=list)
    used: list[int] = field(default_factory=list)
    remembered: int = 0

    @property
    def answered(self) -> bool:
        """Whether every request got its right answer."""
        return set(self.statuses) == {200} and not self.wrong


def right(texts: Sequence[str]) -> list[object]:
    """The predictions of the stub, as HTTP carries them."""
    rows = _STUB.classify(_STUB.tokenize(list(texts)))
    return [json.loads(fragment(LABELS, row)) for row in rows]


async def soak(running: Service, rate: float, seconds: float, progress: Callable[[str], None]) -> Soak:
    """Asks for `rate` unknown texts a second, for `seconds`."""
    met = Soak()
    source = stream(11)
    idle: list[tuple[float, Connection]] = []
    places = asyncio.Semaphore(MAX_AT_ONCE)

    async def ask(texts: list[str]) -> None:
        began = time.perf_counter()
        used_at, connection = idle.pop() if idle else (began, Connection(running.port))
        if began - used_at > IDLE_S:
            connection.close()
            connection = Connection(running.port)
        status, _, body = await connection.post("/predict", predict_body(texts))
        met.latencies_s.append(time.perf_counter() - began)
        met.statuses[status] += 1
        met.texts += len(texts)
        met.wrong += status == 200 and json.loads(body)["predictions"] != right(texts)
        idle.append((time.perf_counter(), connection))
        places.release()

    looking = asyncio.create_task(_look(running, met, progress))
    asked: set[asyncio.Task[None]] = set()
    began = due = time.perf_counter()
    while due < began + seconds:
        met.late += time.perf_counter() - due > 1
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        await places.acquire()
        task = asyncio.create_task(ask(list(islice(source, REQUEST_TEXTS))))
        asked.add(task)
        task.add_done_callback(asked.discard)
        due += REQUEST_TEXTS / rate
    await asyncio.gather(*asked)
    looking.cancel()
    for _, connection in idle:
        connection.close()
    return met


async def _look(running: Service, met: Soak, progress: Callable[[str], None]) -> None:
    """Once a second, what Redis uses."""
    with running.redis() as client:
        while True:
            try:
                used = await asyncio.to_thread(_used, client)
            except REDIS_ERRORS as error:
                progress(f"Redis did not answer: {type(error).__name__}")
            else:
                met.used.append(used)
                met.remembered = max(met.remembered, int(client.dbsize()))
                if len(met.used) % 30 == 0:
                    progress(f"{met.texts} texts, {dict(met.statuses)}, Redis {used / MB:.1f} MB")
            await asyncio.sleep(1)


def _used(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--maxmemory-mb", type=float, default=192)
    args = parser.parse_args()
    limit = int(args.maxmemory_mb * MB)
    with service("stub") as running, running.redis() as client:
        client.config_set("maxmemory", limit)
        report.progress(f"{args.rate:g} texts/s, {args.seconds:g} s, maxmemory {args.maxmemory_mb:g} MB")
        met = asyncio.run(soak(running, args.rate, args.seconds, report.progress))
    most, last = max(met.used), met.used[-1]
    latencies = [report.quantile(met.latencies_s, share) * 1e3 for share in (0.5, 0.99, 1)]
    report.table(
        ["", "texts", "statuses", "wrong", "most MB", "last MB", "keys", "p50 ms", "p99 ms", "longest ms"],
        [
            [
                "soak",
                met.texts,
                dict(met.statuses),
                met.wrong,
                *(f"{used / MB:.1f}" for used in (most, last)),
                met.remembered,
                *(f"{ms:.1f}" for ms in latencies),
            ]
        ],
    )
    refused = sum(met.statuses.values()) - met.statuses[200] + met.wrong
    goals = [
        report.goal("requests without their right answer", refused, 0, at_most=True),
        report.goal("highest used memory, as a share of maxmemory", most / limit, 0.95, at_most=True),
    ]
    report.finish(
        "memory_full",
        {
            "rate": args.rate,
            "seconds": args.seconds,
            "maxmemory_mb": args.maxmemory_mb,
            "texts": met.texts,
            "statuses": dict(met.statuses),
            "wrong": met.wrong,
            "requests_started_late": met.late,
            "used_mb": [round(used / MB, 1) for used in met.used],
            "p50_ms": latencies[0],
            "p99_ms": latencies[1],
            "longest_ms": latencies[2],
            "goals": goals,
        },
    )


if __name__ == "__main__":
    main()
