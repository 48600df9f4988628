"""Beyond saturation: goodput, how fast is shed, whether Retry-After is right, and two clients of one service.

python -m benchmarks.overload [--seconds 8] [--batch-ms 10] [--token-ms 0.2]

The stub sleeps as an engine would compute, so the machine has room for an open load of three times what the
worker can do. Arrivals are Poisson: no client waits for anybody's answer.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import report
from benchmarks.net import Connection, Tally, closed_loop, predict_body
from benchmarks.service import Service, service
from benchmarks.texts import stream

LOADS = (0.5, 1.0, 2.0, 3.0)
BUDGET_S = 2.0
WAIT = f"Prefer: wait={BUDGET_S:g}\r\n"
KEYS = {"many": "key of the client with many", "few": "key of the client with few"}
CROWD, FEW = 1000, 8
GOODPUT, SHED_MS, OBEYED, FAIR = 0.9, 20.0, 0.9, 3.0


class Arrivals:
    """Requests that come when they come. Connections are kept and reused."""

    def __init__(self, port: int, texts: Iterator[str]) -> None:
        self.answers: list[tuple[int, float, float]] = []  # status, seconds, Retry-After
        self._port, self._texts = port, texts
        self._idle: list[Connection] = []

    async def one(self, text: str | None = None) -> tuple[int, float, float]:
        connection = self._idle.pop() if self._idle else Connection(self._port)
        began = time.perf_counter()
        status, head, _ = await connection.post("/predict", predict_body([text or next(self._texts)]), WAIT)
        answer = (status, time.perf_counter() - began, _retry_after(head))
        self._idle.append(connection)
        self.answers.append(answer)
        return answer

    async def open_loop(self, rate: float, seconds: float, seed: int) -> None:
        """Poisson arrivals at `rate` a second."""
        rng = random.Random(seed)
        asked: list[asyncio.Task[Any]] = []
        began = due = time.perf_counter()
        while due < began + seconds:
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            asked.append(asyncio.create_task(self.one()))
            due += rng.expovariate(rate)
        await asyncio.gather(*asked)

    async def obey(self, count: int) -> float:
        """A burst; each one shed comes back when it was asked to. The share of these that then succeeds."""

        async def client() -> bool | None:
            text = next(self._texts)
            status, _, wait_s = await self.one(text)
            if status != 429:
                return None
            await asyncio.sleep(wait_s)
            return (await self.one(text))[0] == 200

        again = [came for came in await asyncio.gather(*(client() for _ in range(count))) if came is not None]
        return sum(again) / len(again) if again else 1.0

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


def _retry_after(head: bytes) -> float:
    found = head.lower().partition(b"retry-after: ")[2]
    return float(found.split(b"\r\n")[0]) if found else 0.0


async def at_load(port: int, texts: Iterator[str], rate: float, seconds: float) -> dict[str, Any]:
    """One open load for `seconds`."""
    arrivals = Arrivals(port, texts)
    began = time.perf_counter()
    await arrivals.open_loop(rate, seconds, seed=int(rate))
    spent = time.perf_counter() - began
    good = [seconds_ for status, seconds_, _ in arrivals.answers if status == 200]
    shed = [seconds_ for status, seconds_, _ in arrivals.answers if status == 429]
    arrivals.close()
    return {
        "offered": len(arrivals.answers) / seconds,
        "goodput": len(good) / spent,
        "answered": len(good),
        "shed": len(shed),
        "late": sum(status == 504 for status, _, _ in arrivals.answers),
        "other": sum(status not in (200, 429, 504) for status, _, _ in arrivals.answers),
        "past_budget": sum(seconds_ > BUDGET_S + 0.1 for seconds_ in good),
        "p50_ms": report.quantile(good, 0.5) * 1000,
        "p99_ms": report.quantile(good, 0.99) * 1000,
        "shed_p50_ms": report.quantile(shed, 0.5) * 1000,
        "shed_p99_ms": report.quantile(shed, 0.99) * 1000,
    }


async def crowded(port: int, texts: Iterator[str], seconds: float) -> tuple[Tally, Tally, Tally]:
    """The client with few requests alone, then beside a thousand of another; and those."""

    def load(name: str, users: int, length: float) -> Any:
        headers = f"Authorization: Bearer {KEYS[name]}\r\n"
        return closed_loop(port, users, length, lambda: [next(texts)], headers)

    alone = await load("few", FEW, seconds)
    many = asyncio.create_task(load("many", CROWD, seconds + 2))
    await asyncio.sleep(2)
    beside = await load("few", FEW, seconds)
    return alone, beside, await many


def overload(given: argparse.Namespace, texts: Iterator[str]) -> dict[str, Any]:
    """Every load, and the burst."""
    with service("stub", stub_batch_ms=given.batch_ms, stub_token_ms=given.token_ms) as running:
        report.progress("capacity, by a closed loop of 64")
        capacity = asyncio.run(
            closed_loop(running.port, 64, given.seconds, lambda: [next(texts)])
        ).texts_per_s
        loads = []
        for share in LOADS:
            report.progress(f"{share:g} x {capacity:.0f} texts/s for {given.seconds:g} s")
            figures = asyncio.run(at_load(running.port, texts, share * capacity, given.seconds))
            loads.append({"load": share} | figures)
            time.sleep(2)
        report.progress("a burst whose shed requests come back when they were asked to")
        obeyed = asyncio.run(_obeyed(running, texts, int(capacity * 3)))
    return {"capacity": capacity, "loads": loads, "obeyed": obeyed}


async def _obeyed(running: Service, texts: Iterator[str], count: int) -> float:
    arrivals = Arrivals(running.port, texts)
    share = await arrivals.obey(count)
    arrivals.close()
    return share


def fairness(given: argparse.Namespace, texts: Iterator[str]) -> dict[str, Any]:
    """Two clients, known by their keys."""
    digests = ",".join(hashlib.sha256(key.encode()).hexdigest() for key in KEYS.values())
    stub = {"stub_batch_ms": given.batch_ms, "stub_token_ms": given.token_ms}
    with service("stub", api_keys=digests, **stub) as running:
        report.progress(f"{FEW} at a time alone, then beside {CROWD} of another client")
        alone, beside, many = asyncio.run(crowded(running.port, texts, given.seconds))
    return {
        "alone_p50_ms": alone.quantile_ms(0.5),
        "alone_p99_ms": alone.quantile_ms(0.99),
        "beside_p50_ms": beside.quantile_ms(0.5),
        "beside_p99_ms": beside.quantile_ms(0.99),
        "beside_statuses": beside.statuses,
        "many_texts_per_s": many.texts_per_s,
        "many_p50_ms": many.quantile_ms(0.5),
        "many_statuses": many.statuses,
    }


def main() -> None:
    """Measures, shows and writes bench-results/overload.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--batch-ms", type=float, default=10.0)
    parser.add_argument("--token-ms", type=float, default=0.2)
    given = parser.parse_args()
    texts = stream(seed=7)
    found = overload(given, texts)
    two = fairness(given, texts)
    columns = [*found["loads"][0]]
    report.table(columns, [[f"{row[name]:.4g}" for name in columns] for row in found["loads"]])
    report.table([*two], [[f"{v:.4g}" if isinstance(v, float) else v for v in two.values()]])
    most = found["loads"][-1]
    capacity = max(row["goodput"] for row in found["loads"])
    goals = [
        report.goal("goodput at 3x, share of the best", most["goodput"] / capacity, GOODPUT),
        report.goal("shed p99 at 3x, ms", most["shed_p99_ms"], SHED_MS, at_most=True),
        report.goal(
            "answers past their budget", sum(r["past_budget"] for r in found["loads"]), 0, at_most=True
        ),
        report.goal("come back as asked and succeed", found["obeyed"], OBEYED),
        report.goal(
            "p99 beside a crowd / alone", two["beside_p99_ms"] / two["alone_p99_ms"], FAIR, at_most=True
        ),
    ]
    report.finish("overload", {"settings": vars(given), **found, "two_clients": two, "goals": goals})


if __name__ == "__main__":
    main()
