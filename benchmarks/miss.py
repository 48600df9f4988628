"""The miss road: unique texts of mixed length through the whole service, and the same model with no server.

python -m benchmarks.miss [--model random|default|DIR] [--engines openvino:bf16,...] [--loads 32x8,...]

Each engine and precision is measured in turn as limit, service, limit: the limit is the mean of the two runs,
so that a machine that becomes slower or faster meanwhile flatters neither side, for the best of several pass
sizes, which take turns by the half second, so that none is best for having met a good moment.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from batcher.messages import BatchNote, decode_notes
from benchmarks import report
from benchmarks.net import Tally, closed_loop
from benchmarks.service import Service, service
from benchmarks.texts import stream, texts
from model_store import load
from model_store.layout import share_out

ARTEFACTS = Path("~/.cache/millrace").expanduser()
RANDOM = Path("bench-results/distilbert-base-random")
PASS_TOKENS = (256, 512, 768, 1024)
TURN_S = 0.5
# (of what, to what, at least), among engine:precision
GOALS = (("openvino:bf16", "torch:f32", 2.2), ("openvino:int8", "torch:f32", 3.5))
OF_LIMIT = 0.90
PADDING = 0.05
GOAL_LOAD = "32x8"


def limit(model: str, engine: Any, precision: Any, seconds: float) -> list[float]:
    """Texts/s of the model alone for each of PASS_TOKENS, texts as they come."""
    classifier = load(model, engine=engine, precision=precision, artefact_dir=ARTEFACTS)
    tokens = classifier.tokenize(texts(600, seed=21))
    streams = []
    for size in PASS_TOKENS:
        plan = share_out([len(text) for text in tokens], classifier.info.layout, size)
        batches = [[tokens[index] for index in chosen] for chosen in plan]
        for batch in batches[:6]:
            classifier.classify(batch)
        streams.append(cycle(batches))
    done, spent = [0] * len(streams), [0.0] * len(streams)
    while sum(spent) < seconds:
        for number, batches_of_size in enumerate(streams):
            began = time.perf_counter()
            while (turn := time.perf_counter() - began) < TURN_S:
                batch = next(batches_of_size)
                classifier.classify(batch)
                done[number] += len(batch)
            spent[number] += turn
    return [count / seconds for count, seconds in zip(done, spent, strict=True)]


def _limit_apart(model: str, engine: str, precision: str, seconds: float) -> list[float]:
    """The limit in a process of its own, as a worker would be."""
    words = ["--limit", "--model", model, "--engines", f"{engine}:{precision}", "--seconds", str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.miss", *words], check=True, capture_output=True, text=True
    )
    rates: list[float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def _load(mill: Service, users: int, size: int, seconds: float, source: Any) -> Tally:
    def ask() -> list[str]:
        return [next(source) for _ in range(size)]

    asyncio.run(closed_loop(mill.port, users, 2, ask))
    return asyncio.run(closed_loop(mill.port, users, seconds, ask))


def _batches(mill: Service) -> tuple[int, int, Sequence[BatchNote]]:
    """Passes and texts so far, and the last passes."""
    with mill.redis() as client:
        (name,) = client.keys("*:worker:*")
        batches, count, recent = client.hmget(name, "batches", "texts", "recent")
    return int(batches), int(count), decode_notes(recent.decode())


def measure(model: str, pair: str, loads: list[str], seconds: float) -> dict[str, Any]:
    """One engine and precision: its limit before and after, and each load between."""
    engine, precision = pair.split(":")
    report.progress(f"{pair}: limit")
    limits = [_limit_apart(model, engine, precision, seconds)]
    found: dict[str, Any] = {}
    with service(model, engine=engine, precision=precision, default_budget_s=60) as mill:
        source = stream(31)
        for load_name in loads:
            users, size = map(int, load_name.split("x"))
            report.progress(f"{pair}: {users} users, {size} texts each, {seconds:g} s")
            before = _batches(mill)
            tally = _load(mill, users, size, seconds, source)
            time.sleep(0.7)
            after = _batches(mill)
            # The very last ones found the backlog at its end.
            notes = after[2][:-2]
            found[load_name] = {
                "texts_per_s": tally.texts_per_s,
                "p50_ms": tally.quantile_ms(0.5),
                "p99_ms": tally.quantile_ms(0.99),
                "waste": 1 - sum(note.tokens for note in notes) / sum(note.computed for note in notes),
                "batch": (after[1] - before[1]) / max(after[0] - before[0], 1),
                "statuses": tally.statuses,
            }
    limits.append(_limit_apart(model, engine, precision, seconds))
    best = max(fmean(both) for both in zip(*limits, strict=True))
    return {"limit": best, "pass_tokens": PASS_TOKENS, "limits": limits, "loads": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="random", help="random: the shape of distilbert-base")
    parser.add_argument("--engines", default="torch:f32,torch:bf16,openvino:bf16,openvino:int8")
    parser.add_argument("--loads", default="32x1,32x8,8x32")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--limit", action="store_true", help="print the limit of one engine and stop")
    args = parser.parse_args()
    if args.limit:
        engine, precision = args.engines.split(":")
        print(json.dumps(limit(args.model, engine, precision, args.seconds)))
        return
    model = args.model
    if model == "random":
        model = str(RANDOM)
        if not RANDOM.is_dir():
            command = ["random", "--config", "distilbert-base", "--out", model]
            subprocess.run([sys.executable, "-m", "model_store", *command], check=True)
    pairs = args.engines.split(",")
    results = {pair: measure(model, pair, args.loads.split(","), args.seconds) for pair in pairs}
    rows = [
        [
            f"{pair} {name}",
            f"{got['texts_per_s']:.0f}",
            f"{got['p50_ms']:.0f}",
            f"{got['p99_ms']:.0f}",
            f"{got['batch']:.1f}",
            f"{got['waste']:.1%}",
            f"{result['limit']:.0f}",
            f"{got['texts_per_s'] / result['limit']:.2f}",
        ]
        for pair, result in results.items()
        for name, got in result["loads"].items()
    ]
    report.table(
        ["", "texts/s", "p50 ms", "p99 ms", "texts/pass", "padding", "limit texts/s", "of limit"], rows
    )
    goals = []
    for pair, result in results.items():
        if GOAL_LOAD in result["loads"]:
            share = result["loads"][GOAL_LOAD]["texts_per_s"] / result["limit"]
            goals.append(report.goal(f"{pair} {GOAL_LOAD} of its limit", share, OF_LIMIT))
            waste = result["loads"][GOAL_LOAD]["waste"]
            goals.append(report.goal(f"{pair} {GOAL_LOAD} padding", waste, PADDING, at_most=True))
    for fast, slow, bound in GOALS:
        if fast in results and slow in results and GOAL_LOAD in results[fast]["loads"]:
            one, other = (results[name]["loads"][GOAL_LOAD]["texts_per_s"] for name in (fast, slow))
            goals.append(report.goal(f"{fast} to {slow}, {GOAL_LOAD}", one / other, bound))
    report.write(f"miss-{Path(model).name}", {"model": args.model, "results": results, "goals": goals})


if __name__ == "__main__":
    main()
