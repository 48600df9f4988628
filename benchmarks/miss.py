"""The miss road: unique texts of mixed length through the whole service, and the same model with no server.

python -m benchmarks.miss [--model random|default|DIR] [--engines openvino:bf16,...] [--loads 32x8,...]

Limit and service take turns of a few seconds, for a machine's speed changes within a minute: the limit is the
mean of its turns, for the best of several pass sizes, which take turns by the half second in each of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any

import uvloop

from batcher.messages import BatchNote, decode_notes
from benchmarks import report
from benchmarks.channel import Sender, child_with_channel
from benchmarks.net import closed_loop
from benchmarks.service import Service, service
from benchmarks.texts import stream, texts
from model_store import load
from model_store.rows import share_out

ARTEFACTS = Path("~/.cache/millrace").expanduser()
RANDOM = Path("bench-results/distilbert-base-random")
PASS_TOKENS = (256, 512, 768, 1024)
SIZE_S = 0.5
TURN_S = 2
# Made before the load, whose cost counts.
READY_TEXTS = 40_000
# (of what, to what, at least), among engine:precision
GOALS = (("openvino:bf16", "torch:f32", 2.2), ("openvino:int8", "torch:f32", 3.5))
OF_LIMIT = 0.90
PADDING = 0.05
GOAL_LOAD = "32x8"


def limit(model: str, engine: Any, precision: Any) -> None:
    """For each line of the input: texts/s of the model alone for each of PASS_TOKENS, over the channel."""
    channel = Sender()
    classifier = load(model, engine=engine, precision=precision, artefact_dir=ARTEFACTS)
    tokens = classifier.tokenize(texts(600, seed=21))
    streams = []
    for size in PASS_TOKENS:
        plan = share_out([len(text) for text in tokens], classifier.info.layout, size)
        batches = [[tokens[index] for index in chosen] for chosen in plan]
        for batch in batches[:6]:
            classifier.classify(batch)
        streams.append(cycle(batches))
    for _ in sys.stdin:
        rates = []
        for batches_of_size in streams:
            done, began = 0, time.perf_counter()
            while (spent := time.perf_counter() - began) < SIZE_S:
                batch = next(batches_of_size)
                classifier.classify(batch)
                done += len(batch)
            rates.append(done / spent)
        channel.send(rates)


@contextmanager
def _limit_apart(model: str, engine: str, precision: str) -> Iterator[Callable[[], list[float]]]:
    """The limit in a process of its own, as a worker would be: a turn for each call."""
    words = [sys.executable, "-m", "benchmarks.miss", "--limit", "--model", model]
    words += ["--engines", f"{engine}:{precision}"]
    with child_with_channel(words, stdin=subprocess.PIPE) as (apart, messages):
        assert apart.stdin is not None
        sent = apart.stdin

        def turn() -> list[float]:
            try:
                sent.write("\n")
                sent.flush()
            except BrokenPipeError:
                pass  # it has ended: its last words stand above
            line = messages.readline()
            if not line:
                raise SystemExit(f"The limit of {engine}:{precision} ended with status {apart.wait()}.")
            rates: list[float] = json.loads(line)
            return rates

        turn()  # it is ready from then on
        yield turn


def _batches(mill: Service) -> tuple[int, int, Sequence[BatchNote]]:
    """Passes and texts so far, and the last passes."""
    with mill.redis() as client:
        (name,) = client.keys("*:worker:*")
        batches, count, recent = client.hmget(name, "batches", "texts", "recent")
    return int(batches), int(count), decode_notes(recent.decode())


def measure(model: str, pair: str, loads: list[str], seconds: float) -> dict[str, Any]:
    """One engine and precision: each load in turn with the limit, `seconds` of the load in all."""
    engine, precision = pair.split(":")
    found: dict[str, Any] = {}
    turns = max(round(seconds / TURN_S), 1)
    with ExitStack() as stack:
        report.progress(f"{pair}: loading")
        alone = stack.enter_context(_limit_apart(model, engine, precision))
        mill = stack.enter_context(service(model, engine=engine, precision=precision, default_budget_s=60))
        made = stream(31)
        source = chain(list(islice(made, READY_TEXTS)), made)
        for load_name in loads:
            users, size = map(int, load_name.split("x"))

            def ask(size: int = size) -> list[str]:
                return list(islice(source, size))

            before = _batches(mill)
            tallies, limits = [], [alone()]
            for turn in range(turns):
                report.progress(f"{pair}: {users} users, {size} texts each, turn {turn + 1} of {turns}")
                tallies.append(uvloop.run(closed_loop(mill.port, users, seconds / turns, ask)))
                limits.append(alone())
            after = _batches(mill)
            # The very last ones found the backlog at its end.
            notes = after[2][:-2]
            latencies_s = [spent for tally in tallies for spent in tally.latencies_s]
            found[load_name] = {
                "texts_per_s": fmean(tally.texts_per_s for tally in tallies),
                "limit": max(fmean(rates) for rates in zip(*limits, strict=True)),
                "p50_ms": report.quantile(latencies_s, 0.5) * 1000,
                "p99_ms": report.quantile(latencies_s, 0.99) * 1000,
                "waste": 1 - sum(note.tokens for note in notes) / sum(note.computed for note in notes),
                "batch": (after[1] - before[1]) / max(after[0] - before[0], 1),
                "statuses": sum((Counter(tally.statuses) for tally in tallies), Counter[int]()),
                "turns": [tally.texts_per_s for tally in tallies],
                "limit_turns": limits,
            }
    return {"pass_tokens": PASS_TOKENS, "loads": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="random", help="random: the shape of distilbert-base")
    parser.add_argument("--engines", default="torch:f32,torch:bf16,openvino:bf16,openvino:int8")
    parser.add_argument("--loads", default="32x1,32x8,8x32")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument(
        "--limit", action="store_true", help="the limit of one engine, for each line of the input"
    )
    args = parser.parse_args()
    if args.limit:
        engine, precision = args.engines.split(":")
        limit(args.model, engine, precision)
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
            f"{got['limit']:.0f}",
            f"{got['texts_per_s'] / got['limit']:.2f}",
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
            got = result["loads"][GOAL_LOAD]
            share = got["texts_per_s"] / got["limit"]
            goals.append(report.goal(f"{pair} {GOAL_LOAD} of its limit", share, OF_LIMIT))
            goals.append(report.goal(f"{pair} {GOAL_LOAD} padding", got["waste"], PADDING, at_most=True))
    for fast, slow, bound in GOALS:
        if fast in results and slow in results and GOAL_LOAD in results[fast]["loads"]:
            one, other = (results[name]["loads"][GOAL_LOAD]["texts_per_s"] for name in (fast, slow))
            goals.append(report.goal(f"{fast} to {slow}, {GOAL_LOAD}", one / other, bound))
    report.finish(f"miss-{Path(model).name}", {"model": args.model, "results": results, "goals": goals})


if __name__ == "__main__":
    main()
