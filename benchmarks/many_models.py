"""Many models in one worker under a mixed load: the p99 of each, and the memory of the worker.

    python -m benchmarks.many_models [--models 20] [--different 20] [--seconds 30] [--rate 60]

The models have the tiny shape and random weights, of which `--different` are different ones. A quarter of
them get most of the requests, and a quarter of all requests have 8 texts instead of one. Requests arrive at
random times, `--rate` a second together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from benchmarks import report
from benchmarks.memory import resident_mib
from benchmarks.net import Connection, predict_body
from benchmarks.service import Service, service, until
from benchmarks.texts import stream

GOAL_RATIO = 3.0
BUSY_SHARE, BUSY_WEIGHT = 4, 6
MANY_TEXTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--different", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="models-") as folder:
        names = [f"m{number:02}" for number in range(args.models)]
        weights = [_random_model(Path(folder) / f"{seed}", seed) for seed in range(args.different)]
        listed = [f"{name}={weights[at % len(weights)]}" for at, name in enumerate(names)]
        memory = {}
        for count in (1, len(names)):
            report.progress(f"{count} of the models")
            with service(",".join(listed[:count]), threads=1) as running:
                until(lambda: _ready(running) == count, 120.0)  # noqa: B023
                memory[count] = resident_mib(running.pids["worker0"])
                if count == len(names):
                    report.progress(f"{args.rate:g} requests/s for {args.seconds:g} s")
                    latencies, statuses = asyncio.run(_load(running.port, names, args.seconds, args.rate))
                    memory[count] = max(memory[count], resident_mib(running.pids["worker0"]))
    p99 = {name: report.quantile(found, 0.99) * 1000 for name, found in latencies.items()}
    report.table(
        ["model", "requests", "p50 ms", "p99 ms"],
        [
            [name, len(found), f"{report.quantile(found, 0.5) * 1000:.2f}", f"{p99[name]:.2f}"]
            for name, found in latencies.items()
        ],
    )
    each = (memory[len(names)] - memory[1]) / max(len(names) - 1, 1)
    held = f"{memory[1]:.0f} MiB with one model, {memory[len(names)]:.0f} with {len(names)}: {each:.1f} each"
    print(f"worker: {held}")
    ratio = max(p99.values()) / min(p99.values())
    goals = [
        report.goal("p99 of the slowest model to that of the fastest", ratio, GOAL_RATIO, at_most=True),
        report.goal("answers other than 200", sum(statuses.values()) - statuses.get(200, 0), 0, at_most=True),
    ]
    results = {"p99_ms": p99, "statuses": statuses, "memory_mib": memory, "goals": goals}
    report.finish("many_models", {"rate": args.rate, "seconds": args.seconds, **results})


def _random_model(folder: Path, seed: int) -> Path:
    words = [sys.executable, "-m", "model_store", "random", "--config", "tiny", "--seed", str(seed)]
    subprocess.run([*words, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def _ready(running: Service) -> int:
    with urlopen(f"http://127.0.0.1:{running.port}/models", timeout=5) as answer:
        return sum(model["state"] == "ready" for model in json.load(answer)["models"])


async def _load(
    port: int, names: list[str], seconds: float, rate: float
) -> tuple[dict[str, list[float]], dict[int, int]]:
    """The latencies in seconds of each model, and how many answers had each status."""
    rng, fresh = random.Random(7), stream(7)
    weights = [BUSY_WEIGHT if at < len(names) // BUSY_SHARE else 1 for at in range(len(names))]
    latencies: dict[str, list[float]] = {name: [] for name in names}
    statuses: dict[int, int] = {}
    free: list[Connection] = []

    async def ask(name: str, texts: list[str]) -> None:
        connection = free.pop() if free else Connection(port)
        began = time.perf_counter()
        status, _, _ = await connection.post(f"/models/{name}/predict", predict_body(texts))
        latencies[name].append(time.perf_counter() - began)
        statuses[status] = statuses.get(status, 0) + 1
        free.append(connection)

    ends = time.perf_counter() + seconds
    async with asyncio.TaskGroup() as group:
        while time.perf_counter() < ends:
            count = MANY_TEXTS if rng.random() < 0.25 else 1
            (name,) = rng.choices(names, weights)
            group.create_task(ask(name, [next(fresh) for _ in range(count)]))
            await asyncio.sleep(rng.expovariate(rate))
    for connection in free:
        connection.close()
    return latencies, statuses


if __name__ == "__main__":
    main()
