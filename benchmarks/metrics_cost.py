"""What watching costs: the hit path and the miss path with metrics and drift, and without, side by side.

    python -m benchmarks.metrics_cost [--rounds 40] [--token-us 100]

Both sides take turns in many short rounds whose order changes, so that whatever else the machine does meets
both. Figures are processor time of the process or thread; the result is the median over pairs. The hit path
is the API as it is served, driven by wrk. The miss path is what a worker does to 16 texts: tokenise,
classify with a model that takes `--token-us` a token, report.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

from batcher.messages import Entry, entry_id
from batcher.worker.drift import DriftWatch
from batcher.worker.metrics import WorkerMetrics
from batcher.worker.stats import BatchReport
from benchmarks import report
from benchmarks.hit import known_texts, served
from benchmarks.hit_servers import TEXTS
from benchmarks.texts import stream
from benchmarks.wrk import wrk
from model_store import Tokens
from model_store.measuring import Measuring
from model_store.stub import StubClassifier

GOAL = 0.03
BATCH = 16
PASSES = 10
CONNECTIONS = 16
WRK_S = 1

Run = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds a request or a batch without and with metrics; `share` is what they add."""

    path: str
    without_us: float
    with_us: float
    share: float


class Busy(StubClassifier):
    """A stub that computes instead of sleeping."""

    def __init__(self, token_us: float) -> None:
        super().__init__()
        self._token_s = token_us / 1e6

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """Keeps the processor busy, then answers."""
        until = time.thread_time() + self._token_s * sum(map(len, batch))
        while time.thread_time() < until:
            pass
        return [[0.25, 0.75] for _ in batch]


@contextmanager
def hit_paths() -> Iterator[tuple[Run, Run]]:
    """Processor seconds a request, of a server without metrics and of one with them, driven by wrk."""
    with ExitStack() as stack:
        driver = stack.enter_context(wrk(TEXTS))
        redis_url = stack.enter_context(known_texts())

        def path(name: str) -> Run:
            port, pid = stack.enter_context(served(name, redis_url))

            def run() -> float:
                before = _cpu_s(pid)
                driven = driver.drive(port, seconds=WRK_S, connections=CONNECTIONS)
                return (_cpu_s(pid) - before) / driven.requests

            return run

        yield path("uncounted"), path("millrace")


def _cpu_s(pid: int) -> float:
    """Of the one thread that serves; finer than the ticks that `service.cpu_s` counts."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def miss_path(token_us: float, *, counted: bool) -> Run:
    """Processor seconds a batch, of PASSES of them at each call."""
    texts = list(islice(stream(1), BATCH))
    entries = tuple(Entry(entry_id(text), text, "interactive", 20, 3, 9000, 1) for text in texts)
    stub = Busy(token_us)
    observe: Callable[[BatchReport], None] = lambda report: None  # noqa: E731
    if counted:
        measuring = Measuring(StubClassifier())
        measuring.classify(measuring.tokenize(list(islice(stream(2), 500))))
        stub.info = replace(stub.info, reference=measuring.reference())
        observe = WorkerMetrics(stub.info, DriftWatch(stub.info)).observe

    def passes() -> float:
        before = time.thread_time()
        for number in range(PASSES):
            tokens = stub.tokenize(texts)
            scored = list(zip(tokens, stub.classify(tokens), strict=True))
            total = sum(map(len, tokens))
            times = (0.003,) * BATCH, 1e-4, 0.01
            observe(BatchReport(number, entries, BATCH, total, total, "full", *times, 0, scored=scored))
        return (time.thread_time() - before) / PASSES

    return passes


def compare(path: str, without: Run, with_: Run, rounds: int) -> Cost:
    """Medians over rounds, and the median of what each pair says."""
    without(), with_()
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            plain = without()
            pairs.append((plain, with_()))
        else:
            counted = with_()
            pairs.append((without(), counted))
    plain_us, counted_us = (median(side) * 1e6 for side in zip(*pairs, strict=True))
    share = median(counted / plain for plain, counted in pairs) - 1
    return Cost(path, round(plain_us, 2), round(counted_us, 2), round(share, 4))


def main() -> None:
    """Compares both paths, prints the table and writes bench-results/metrics_cost.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--token-us", type=float, default=100.0)
    args = parser.parse_args()
    with hit_paths() as (without, with_):
        hit = compare("hit", without, with_, args.rounds)
    paths = (miss_path(args.token_us, counted=False), miss_path(args.token_us, counted=True))
    costs = [hit, compare("miss", *paths, args.rounds)]
    report.table(
        ["path", "without us", "with us", "adds"],
        [[c.path, f"{c.without_us:.1f}", f"{c.with_us:.1f}", f"{c.share:.2%}"] for c in costs],
    )
    goals = [report.goal(f"share that metrics add, {c.path}", c.share, GOAL, at_most=True) for c in costs]
    report.finish("metrics_cost", {"settings": vars(args), "costs": list(map(asdict, costs)), "goals": goals})


if __name__ == "__main__":
    main()
