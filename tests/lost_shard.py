"""What a master that is killed costs the texts of the others: python -m tests.lost_shard [--seconds 20]

A Redis Cluster of three masters, each with one shard, and a replica of the first one; one API, two workers
with a stub that signs. Clients of each shard send single new texts at a steady rate; then the first master is
killed (SIGKILL), and its replica takes over.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from batcher.messages import entry_id
from batcher.shards import shard_of
from benchmarks import report
from benchmarks.service import process, ready, until
from millrace.local.redis_server import find_server
from millrace.settings_loader import free_port
from tests.cluster import Cluster
from tests.dialects import PREDICT
from tests.servers import as_user
from tests.signing import SIGNED, Checker, Revision

SHARDS = 3
RATE = 20.0  # texts a second for each shard
LIMIT = 2.0
READY_S = 60.0
Answers = list[tuple[int | str, float]]  # status, or what is wrong with a 200; and time in ms
CHECKER = Checker([Revision(SIGNED)])
COLUMNS = (
    "shard",
    "p50, p99 before, ms",
    "p50, p99 while its master is lost, ms",
    "ratio of p99",
    "answers then",
)


async def send(client: httpx.AsyncClient, shard: int, seconds: float, found: Answers) -> None:
    """Sends new texts of a shard; adds status and time in ms of each."""
    sent: list[asyncio.Task[None]] = []

    async def one(text: str) -> None:
        began = time.perf_counter()
        answer = await client.post("/predict", json={"text": [text]})
        ms = 1000 * (time.perf_counter() - began)
        wrong = CHECKER.wrong(PREDICT.said(answer, [text])) if answer.status_code == 200 else []
        found.append((", ".join(wrong) or answer.status_code, ms))

    every = (f"text {number} of {time.time()}" for number in itertools.count())
    texts = (text for text in every if shard_of(entry_id(text), SHARDS) == shard)
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        if len(sent) <= RATE * now:
            sent.append(asyncio.create_task(one(next(texts))))
        await asyncio.sleep(0.002)
    await asyncio.gather(*sent)


async def load(url: str, seconds: float) -> list[Answers]:
    """Status and time of each answer, by shard."""
    found: list[Answers] = [[] for _ in range(SHARDS)]
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        await asyncio.gather(*(send(client, shard, seconds, found[shard]) for shard in range(SHARDS)))
    return found


@contextmanager
def running() -> Iterator[tuple[Cluster, str]]:
    """A cluster and the URL of a service over it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        cluster = Cluster(find_server().path, "default", SHARDS, replica=True)
        stack.callback(cluster.close)
        port = free_port()
        env = {"MILLRACE_SHARDS": str(SHARDS), "MILLRACE_MODEL": SIGNED}
        env |= {"MILLRACE_PORT": str(port), "MILLRACE_LOG_LEVEL": "error"}
        for number, name in enumerate(("api", "worker", "worker")):
            words = [sys.executable, "-m", "millrace", name]
            own = {**env, "REDIS_URL": as_user(cluster.url, name)}
            stack.enter_context(process(words, own, folder / f"{name}{number}.log"))
        until(lambda: ready(port), READY_S, folder)
        yield cluster, f"http://127.0.0.1:{port}"


def row(shard: int, before: Answers, after: Answers) -> tuple[list[str], float]:
    """The cells of a shard, and how many times as long its p99 is."""
    quantiles = []
    for found in (before, after):
        times = [ms for status, ms in found if status == 200]
        quantiles.append((report.quantile(times, 0.5), report.quantile(times, 0.99)))
    ratio = quantiles[1][1] / quantiles[0][1]
    counts = Counter(status for status, _ in after)
    cells = [f"{p50:.1f}, {p99:.1f}" for p50, p99 in quantiles]
    return [
        str(shard),
        *cells,
        f"{ratio:.2f}",
        ", ".join(f"{n} x {status}" for status, n in counts.items()),
    ], ratio


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.lost_shard", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="of load before the kill, and after it")
    args = parser.parse_args()
    with running() as (cluster, url):
        asyncio.run(load(url, 2))
        report.progress(f"{args.seconds:g} s of load, then the same with the first master killed")
        before = asyncio.run(load(url, args.seconds))
        cluster.servers[0].kill()
        after = asyncio.run(load(url, args.seconds))
    rows, ratios = zip(*(row(shard, before[shard], after[shard]) for shard in range(SHARDS)), strict=True)
    report.table(COLUMNS, rows)
    failed = sum(status != 200 for shard in after[1:] for status, _ in shard)
    goals = [
        report.goal("p99 of the other shards, times that before", max(ratios[1:]), LIMIT, at_most=True),
        report.goal("texts of the other shards that failed or got a wrong answer", failed, 0, at_most=True),
    ]
    report.finish("lost_shard", {"rows": rows, "goals": goals})


if __name__ == "__main__":
    main()
