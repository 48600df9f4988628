"""Cache misses: unique texts of mixed length through the whole service, and the same model with no server.

python -m benchmarks.miss [--model random|default|DIR] [--engines openvino:bf16,...] [--loads 32x8,...]

Limit and service take turns of a few seconds, for a machine's speed changes within a minute: the limit is the
mean of its turns, for the best of several pass sizes, which take turns by the half second in each of them.
`of peak` is the service's share of what large products of matrices reach on this machine in that precision.
Processor time a text is that of each process meanwhile, of the worker without forward passes.

`--against DIR` takes turns with the service of another checkout, too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import report
from benchmarks.channel import Sender, child_with_channel
from benchmarks.operations import Peaks, Shape
from benchmarks.service import service
from benchmarks.texts import stream, texts
from benchmarks.turns import PROCESSES, Turns
from model_store import load
from model_store.rows import share_out

ARTEFACTS = Path("~/.cache/millrace").expanduser()
RANDOM = Path("bench-results/distilbert-base-random")
BATCH_TOKENS = (256, 512, 768, 1024)
SIZE_S = 0.5
TURN_S = 2
# Made before the load, whose cost counts.
READY_TEXTS = 40_000
# (of what, to what, at least), among engine:precision
GOALS = (
    ("openvino:bf16", "torch:f32", 2.2),
    ("openvino:int8", "torch:f32", 3.5),
    ("openvino:int8", "openvino:bf16", 1.4),
)
OF_LIMIT = 0.90
PADDING = 0.05
# Processor time a text beside the model, in microseconds, and as a share of that of `--against`.
BESIDE_US = 120
OF_BEFORE = 0.55
GOAL_LOAD = "32x8"
BEFORE = " before"


def limit(model: str, engine: Any, precision: Any) -> None:
    """For each line of the input: texts/s of the model alone for each of BATCH_TOKENS, over the channel.

    The first message is how many operations a text takes.
    """
    channel = Sender()
    classifier = load(model, engine=engine, precision=precision, artefact_dir=ARTEFACTS)
    tokens = classifier.tokenize(texts(600, seed=21))
    channel.send(Shape.of(model).operations([len(text) for text in tokens]) / len(tokens))
    streams = []
    for size in BATCH_TOKENS:
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
def _limit_apart(
    model: str, engine: str, precision: str
) -> Iterator[tuple[float, Callable[[], list[float]]]]:
    """The limit in a separate process, as a worker would be: operations a text, and a turn for each call."""
    words = [sys.executable, "-m", "benchmarks.miss", "--limit", "--model", model]
    words += ["--engines", f"{engine}:{precision}"]
    with child_with_channel(words, stdin=subprocess.PIPE) as (apart, messages):
        assert apart.stdin is not None
        sent = apart.stdin

        def message() -> Any:
            line = messages.readline()
            if not line:
                raise SystemExit(f"The limit of {engine}:{precision} ended with status {apart.wait()}.")
            return json.loads(line)

        def turn() -> list[float]:
            try:
                sent.write("\n")
                sent.flush()
            except BrokenPipeError:
                pass  # it has ended: its last output stands above
            rates: list[float] = message()
            return rates

        operations: float = message()
        turn()  # it is ready from then on
        yield operations, turn


def measure(
    model: str, pair: str, loads: list[str], seconds: float, codes: Mapping[str, Path | None]
) -> dict[str, Any]:
    """One engine and precision: each load in turn with the limit, `seconds` of the load in all.

    Each of `codes` is a service, from the checkout in that folder; they take turns.
    """
    engine, precision = pair.split(":")
    found: dict[str, Any] = {}
    turns = max(round(seconds / TURN_S), 1)
    with ExitStack() as stack:
        report.progress(f"{pair}: loading")
        operations, alone = stack.enter_context(_limit_apart(model, engine, precision))
        settings: dict[str, Any] = {"engine": engine, "precision": precision, "default_budget_s": 60}
        services = {
            name: stack.enter_context(service(model, code=code, worker_time=True, **settings))
            for name, code in codes.items()
        }
        made = stream(31)
        source = chain(list(islice(made, READY_TEXTS)), made)
        for load_name in loads:
            users, size = map(int, load_name.split("x"))

            def ask(size: int = size) -> list[str]:
                return list(islice(source, size))

            turned = {name: Turns(running) for name, running in services.items()}
            limits = [alone()]
            for turn in range(turns):
                report.progress(f"{pair}: {users} users, {size} texts each, turn {turn + 1} of {turns}")
                for one in turned.values():
                    one.turn(users, seconds / turns, ask)
                limits.append(alone())
            limit = max(fmean(rates) for rates in zip(*limits, strict=True))
            for name, one in turned.items():
                found[f"{load_name}{name}"] = one.figures() | {"limit": limit, "limit_turns": limits}
    return {"batch_tokens": BATCH_TOKENS, "operations": operations, "loads": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="random", help="random: the shape of distilbert-base")
    parser.add_argument("--engines", default="torch:f32,torch:bf16,openvino:bf16,openvino:int8")
    parser.add_argument("--loads", default="32x1,32x8,8x32")
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("--against", type=Path, metavar="DIR", help="a checkout to take turns with")
    parser.add_argument(
        "--limit", action="store_true", help="the limit of one engine, for each line of the input"
    )
    args = parser.parse_args()
    if args.limit:
        engine, precision = args.engines.split(":")
        limit(args.model, engine, precision)
        return
    codes = {"": None} | ({BEFORE: args.against.resolve()} if args.against else {})
    model = args.model
    if model == "random":
        model = str(RANDOM.resolve())
        if not RANDOM.is_dir():
            command = ["random", "--config", "distilbert-base", "--out", model]
            subprocess.run([sys.executable, "-m", "model_store", *command], check=True)
    pairs, peaks = args.engines.split(","), Peaks.measure()
    results = {pair: measure(model, pair, args.loads.split(","), args.seconds, codes) for pair in pairs}
    rows = [
        [
            f"{pair} {name}",
            f"{got['texts_per_s']:.0f}",
            f"{peaks.share(pair.split(':')[1], got['texts_per_s'] * result['operations']):.2f}",
            f"{got['p50_ms']:.0f}",
            f"{got['p99_ms']:.0f}",
            f"{got['batch']:.1f}",
            f"{got['waste']:.1%}",
            f"{got['limit']:.0f}",
            f"{got['texts_per_s'] / got['limit']:.2f}",
            *(f"{got['us_per_text'][name]:.0f}" for name in PROCESSES),
            f"{sum(got['us_per_text'].values()):.0f}",
        ]
        for pair, result in results.items()
        for name, got in result["loads"].items()
    ]
    report.table(
        ["", "texts/s", "of peak", "p50 ms", "p99 ms", "texts/pass", "padding", "limit texts/s", "of limit"]
        + [f"{name} us" for name in (*PROCESSES, "all")],
        rows,
    )
    goals = []
    for pair, result in results.items():
        if GOAL_LOAD in result["loads"]:
            got = result["loads"][GOAL_LOAD]
            share = got["texts_per_s"] / got["limit"]
            goals.append(report.goal(f"{pair} {GOAL_LOAD} of its limit", share, OF_LIMIT))
            goals.append(report.goal(f"{pair} {GOAL_LOAD} padding", got["waste"], PADDING, at_most=True))
            goals += _beside(pair, result["loads"])
    for fast, slow, bound in GOALS:
        if fast in results and slow in results and GOAL_LOAD in results[fast]["loads"]:
            one, other = (results[name]["loads"][GOAL_LOAD]["texts_per_s"] for name in (fast, slow))
            goals.append(report.goal(f"{fast} to {slow}, {GOAL_LOAD}", one / other, bound))
    found = {"model": args.model, "peaks": peaks.per_s, "results": results, "goals": goals}
    report.finish(f"miss-{Path(model).name}", found)


def _beside(pair: str, loads: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The goals of processor time a text beside the model."""
    used = {name: sum(got["us_per_text"].values()) for name, got in loads.items()}
    what = f"{pair} {GOAL_LOAD}, us of processor time a text beside the model"
    yield report.goal(what, used[GOAL_LOAD], BESIDE_US, at_most=True)
    if before := used.get(GOAL_LOAD + BEFORE):
        share = used[GOAL_LOAD] / before
        yield report.goal(f"{pair} {GOAL_LOAD}, of that before", share, OF_BEFORE, at_most=True)


if __name__ == "__main__":
    main()
