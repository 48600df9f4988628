"""The queue under fleets: workers without a model, hubs without HTTP, a real Redis for each shard, on one
machine.

    python -m benchmarks.fleet [--shards 1,2,4] [--workers 1,10,100] [--hubs 1,10] [--homes 1] [--seconds 5]
                               [--loads light,half,full]

Every worker is the product's own `Worker` with an instant stub, every hub its own `ReplyHub`; many share a
process. Light load is 20 texts/s. Full load is the highest rate of a doubling search at which the queue's own
delay (from enqueue to claim, by the clock of Redis) stays under 50 ms at p99, and half load is half of that.
`idle` sends nothing; what Redis does then is subtracted from what a text costs. The work of all shards is
added up. `--homes 1` lets all workers live at the first shard, so that they serve the others only as helpers.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import redis

from batcher.messages import Prediction, entry_id
from batcher.shards import MAX_SHARDS
from benchmarks import report
from benchmarks.service import redis_in_memory

PER_PROCESS = 50
LIGHT, LEAST = 20.0, 50.0
DELAY_MS = 50.0
NAME = "fleet"
COLUMNS = (
    "shards",
    "workers",
    "hubs",
    "load",
    "texts/s",
    "p50 ms",
    "p99 ms",
    "redis us/text",
    "scripts/text",
    "bytes/text",
)
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Usage:
    """What Redis had done at one moment: processor seconds, scripts, bytes over its sockets."""

    at: float
    cpu_s: float
    scripts: int
    moved: int

    @classmethod
    def read(cls, clients: Sequence[redis.Redis]) -> Usage:
        """Asks the Redis of each shard."""
        cpu_s, calls, moved = 0.0, 0, 0
        for client in clients:
            facts: dict[str, Any] = client.info("everything")
            calls += sum(facts.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))
            cpu_s += facts["used_cpu_user_main_thread"] + facts["used_cpu_sys_main_thread"]
            moved += facts["total_net_input_bytes"] + facts["total_net_output_bytes"]
        return cls(time.monotonic(), cpu_s, calls, moved)


@dataclass(frozen=True, slots=True)
class Load:
    """One load on one fleet. `cpu_share` is of one core, all of Redis' work included.

    Without texts, the figures are those of one second instead of one text.
    """

    name: str
    texts_per_s: float
    p50_ms: float
    p99_ms: float
    redis_us: float
    scripts: float
    bytes: float
    cpu_share: float

    def cells(self) -> list[str]:
        """The columns of the table, without the size of the fleet."""
        used = f"{self.redis_us:.0f}" if self.texts_per_s else f"{self.cpu_share:.1%} of a core"
        delays = [f"{self.p50_ms:.1f}", f"{self.p99_ms:.1f}"]
        return [
            self.name,
            f"{self.texts_per_s:.0f}",
            *delays,
            used,
            f"{self.scripts:.2f}",
            f"{self.bytes:.0f}",
        ]


def run_workers(urls: Sequence[str], homes: int, first: int, count: int, pipe: Connection) -> None:
    """A process of workers, which live at the first `homes` shards. Ends when the pipe is closed."""
    from pydantic import SecretStr

    from batcher.connection.clients import connect
    from batcher.settings import WorkerSettings
    from batcher.shards import Shard, shards_of
    from batcher.worker.heartbeat import HeartbeatQueue
    from batcher.worker.loop import Worker
    from batcher.worker.queue import Queues
    from model_store.stub import StubClassifier

    settings = WorkerSettings(redis_url=SecretStr(" ".join(urls)))
    shards = shards_of(NAME, urls, 1)

    def queues(shard: Shard, worker: str) -> Queues[HeartbeatQueue]:
        commands, waiting, heartbeat = (
            HeartbeatQueue(
                connect(shard.url, timeout_s=5.0, retries=1, connections=2), settings, shard, worker
            )
            for _ in range(3)
        )
        return Queues(commands, waiting, heartbeat, shard.number)

    workers = []
    for number in range(first, first + count):
        every = [queues(shard, f"w{number}") for shard in shards]
        home = number % min(homes, len(shards))
        at_home = every[home]._replace(others=tuple(every[:home] + every[home + 1 :]))
        workers.append(Worker(StubClassifier(), at_home, settings, lambda *results: None))
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    pipe.send("started")
    pipe.poll(None)
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join(10)


def run_hubs(urls: Sequence[str], count: int, pipe: Connection) -> None:
    """A process of hubs. Answers each (rate, seconds) that comes through the pipe with delays in ms."""
    from pydantic import SecretStr

    from api.settings import ApiSettings
    from batcher.hub.hub import ReplyHub

    async def run() -> None:
        settings = ApiSettings(redis_url=SecretStr(" ".join(urls)), name=NAME)
        hubs = [ReplyHub.connect(settings) for _ in range(count)]
        await asyncio.gather(*(hub.start(10.0) for hub in hubs))
        pipe.send("started")
        number = 0
        while (order := await asyncio.to_thread(pipe.recv)) is not None:
            if order == "workers":
                pipe.send(hubs[0].snapshot.workers)
                continue
            rate, seconds = order
            asked: list[asyncio.Task[Any]] = []
            began = time.monotonic()
            while (now := time.monotonic() - began) < seconds:
                while len(asked) < rate * now:
                    text = f"text {number} of the fleet"
                    number += 1
                    hub = hubs[number % count]
                    asked.append(asyncio.create_task(hub.classify([entry_id(text)], [text], budget_s=10.0)))
                await asyncio.sleep(0.001)
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            answered = [one[0] for one in outcomes if not isinstance(one, BaseException)]
            pipe.send([one.queue_ms if isinstance(one, Prediction) else None for one in answered])
        await asyncio.gather(*(hub.stop() for hub in hubs))

    asyncio.run(run())


@contextmanager
def host(target: Any, *args: Any) -> Iterator[Connection]:
    """A process and the pipe to it, which it reports to once it has started."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=target, args=(*args, theirs), daemon=True)
    process.start()
    assert ours.recv() == "started"
    try:
        yield ours
    finally:
        ours.send(None)
        process.join(30)


def measure(
    clients: Sequence[redis.Redis], hubs: Connection, rate: float, seconds: float
) -> tuple[list[float], Usage, Usage]:
    """Sends one load. Raises RuntimeError if a text was not answered."""
    before = Usage.read(clients)
    hubs.send((rate, seconds))
    delays = hubs.recv()
    after = Usage.read(clients)
    if None in delays or len(delays) < rate * seconds * 0.9:
        raise RuntimeError(f"{len(delays)} of {rate * seconds:.0f} texts were answered")
    return delays, before, after


def load(
    clients: Sequence[redis.Redis],
    hubs: Connection,
    idle: Load | None,
    name: str,
    rate: float,
    seconds: float,
) -> Load:
    """One row of the table. The figures of `idle` are those of a second without texts."""
    delays, before, after = measure(clients, hubs, rate, seconds)
    elapsed = after.at - before.at
    per = max(len(delays), 1) if idle is not None else elapsed
    used, scripts = after.cpu_s - before.cpu_s, float(after.scripts - before.scripts)
    moved, share = float(after.moved - before.moved), used / elapsed
    if idle is not None:
        used -= idle.cpu_share * elapsed
        scripts -= idle.scripts * elapsed
        moved -= idle.bytes * elapsed
    quantiles = report.quantile(delays, 0.5), report.quantile(delays, 0.99)
    return Load(name, len(delays) / elapsed, *quantiles, used / per * 1e6, scripts / per, moved / per, share)


def holds(clients: Sequence[redis.Redis], hubs: Connection, rate: float, seconds: float) -> bool:
    """Whether the delay stays under DELAY_MS at p99."""
    try:
        delays, before, after = measure(clients, hubs, rate, seconds)
    except RuntimeError:
        return False
    late = after.at - before.at > seconds * 1.2  # the load generator could not keep up
    return not late and report.quantile(delays, 0.99) <= DELAY_MS


def highest_rate(clients: Sequence[redis.Redis], hubs: Connection, seconds: float) -> float:
    """The highest rate of a doubling search that holds, in one of two tries."""
    rate = held = LEAST
    while rate < 20_000 and any(holds(clients, hubs, rate, seconds) for _ in range(2)):
        held, rate = rate, rate * 2
    if rate == LEAST:
        report.progress(f"even {LEAST:g} texts/s are late")
    return held


def fleet(
    urls: Sequence[str], homes: int, workers: int, count: int, seconds: float, loads: Sequence[str]
) -> Iterator[Load]:
    """Every load on one size of fleet."""
    report.progress(f"{len(urls)} shards, {workers} workers, {count} hubs")
    with ExitStack() as stack:
        clients = [stack.enter_context(redis.Redis.from_url(url, protocol=2)) for url in urls]
        for client in clients:
            client.flushall()
        for first in range(0, workers, PER_PROCESS):
            stack.enter_context(host(run_workers, urls, homes, first, min(PER_PROCESS, workers - first)))
        hubs = stack.enter_context(host(run_hubs, urls, count))
        while True:
            hubs.send("workers")
            if hubs.recv() == workers:
                break
            time.sleep(0.2)
        load(clients, hubs, None, "warming up", LIGHT, 1.0)
        idle = load(clients, hubs, None, "idle", 0.0, seconds)
        if "idle" in loads:
            yield idle
        if "light" in loads:
            yield load(clients, hubs, idle, "light", LIGHT, 2 * seconds)
        if "half" in loads or "full" in loads:
            yield from heavy(clients, hubs, idle, seconds, loads)


def heavy(
    clients: Sequence[redis.Redis], hubs: Connection, idle: Load, seconds: float, loads: Sequence[str]
) -> Sequence[Load]:
    """Half and full load. At full load texts may time out, although the search met none: then at less."""
    full = highest_rate(clients, hubs, seconds / 2)
    while True:
        rates = [(name, rate) for name, rate in (("half", full / 2), ("full", full)) if name in loads]
        try:
            return [load(clients, hubs, idle, name, rate, seconds) for name, rate in rates]
        except RuntimeError as error:
            if full <= LEAST:
                raise
            report.progress(f"{full:g} texts/s: {error}")
            full /= 2


Measured = tuple[int, int, int, Load]  # of so many shards, workers and hubs


def compare_shards(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Compares what a text costs with several shards and with one, on fleets of the same size."""
    alone = {(*size, one.name): one.redis_us for shards, *size, one in measured if shards == 1}
    goals = []
    for shards, workers, hubs, one in measured:
        base = alone.get((workers, hubs, one.name))
        if shards > 1 and base and one.name == "light":  # the others are at different rates
            size = f"{workers} workers, {hubs} hubs, light load"
            what = f"Redis time a text, {shards} shards / 1 shard, {size}"
            goals.append(report.goal(what, one.redis_us / base, 1.1, at_most=True))
        if shards > 1 and one.name in ("light", "half"):
            what = f"ms of delay at p99, {shards} shards, {workers} workers, {hubs} hubs, {one.name} load"
            goals.append(report.goal(what, one.p99_ms, DELAY_MS, at_most=True))
    return goals


def compare(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Compares the figures with their goals, where the sizes were measured that a goal is about."""
    goals = compare_shards(measured)
    found = [(workers, hubs, one) for shards, workers, hubs, one in measured if shards == 1]
    fewest = min((hubs for _, hubs, _ in found), default=0)
    light = {workers: one.redis_us for workers, hubs, one in found if one.name == "light" and hubs == fewest}
    if {1, 100} <= light.keys():
        ratio = light[100] / light[1]
        goals.append(report.goal("Redis time a text, 100 workers / 1 worker", ratio, 1.3, at_most=True))
    for workers, hubs, one in found:
        if workers == 100 and one.name == "half":
            what = f"ms of delay at p99, 100 workers, {hubs} hubs, half load"
            goals.append(report.goal(what, one.p99_ms, 5, at_most=True))
        if (workers, hubs, one.name) == (1000, 100, "idle"):
            what = "share of a core for Redis, 1,000 idle workers, 100 hubs"
            goals.append(report.goal(what, one.cpu_share, 0.1, at_most=True))
    return goals


def main() -> None:
    """Runs every size, prints the table and writes bench-results/fleet.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--shards", default="1")
    parser.add_argument("--workers", default="1,10,100")
    parser.add_argument("--hubs", default="1,10")
    parser.add_argument("--homes", type=int, default=MAX_SHARDS)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--loads", default="idle,light,half,full")
    args = parser.parse_args()
    sizes = [[int(number) for number in given.split(",")] for given in (args.shards, args.workers, args.hubs)]
    found: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        urls = []
        for number in range(max(sizes[0])):
            (path := Path(folder) / str(number)).mkdir()
            urls.append(stack.enter_context(redis_in_memory(path))[0])
        for shards, workers, hubs in itertools.product(*sizes):
            loads = fleet(urls[:shards], args.homes, workers, hubs, args.seconds, args.loads.split(","))
            found += [(shards, workers, hubs, one) for one in loads]
    report.table(COLUMNS, [[*map(str, size), *one.cells()] for *size, one in found])
    goals = compare(found)
    report.finish(
        "fleet",
        {
            "settings": vars(args),
            "goals": goals,
            "loads": [
                {"shards": shards, "workers": workers, "hubs": hubs, **asdict(one)}
                for shards, workers, hubs, one in found
            ],
        },
    )


if __name__ == "__main__":
    main()
