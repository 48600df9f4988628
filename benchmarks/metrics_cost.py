"""What watching costs: the hit road and the miss road with metrics and drift, and without, side by side.

    python -m benchmarks.metrics_cost [--rounds 40] [--token-us 100]

Both sides take turns in many short rounds whose order changes, so that whatever else the machine does meets
both. Figures are processor time of the process or thread; the result is the median over pairs. The hit road
is the edge as it is served, driven by wrk. The miss road is what a worker does to 16 texts: tokenise,
classify with a model that takes `--token-us` a token, report.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

from batcher.drift import DriftWatch, WatchedClassifier
from batcher.messages import Entry, entry_id
from batcher.metrics import WorkerMetrics
from batcher.reports import BatchReport
from benchmarks.hit import WRK_SCRIPT, redis_server, served
from benchmarks.hit_servers import TEXTS, fill_cache
from benchmarks.texts import stream
from model_store import Classifier, Tokens
from model_store.measuring import Measuring
from model_store.stub import StubClassifier

RESULTS = Path("bench-results")
GOAL = 0.03
BATCH = 16
PASSES = 10
CONNECTIONS = 16
WRK_S = 1

Run = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds a request or a batch without and with metrics; `share` is what they add."""

    road: str
    without_us: float
    with_us: float
    share: float


class Busy(StubClassifier):
    """A stub that computes instead of sleeping."""

    def __init__(self, token_us: float) -> None:
        super().__init__()
        self._token_s = token_us / 1e6

    def classify(self, batch: list[Tokens]) -> list[list[float]]:  # type: ignore[override]
        """Keeps the processor busy, then answers."""
        until = time.thread_time() + self._token_s * sum(map(len, batch))
        while time.thread_time() < until:
            pass
        return [[0.25, 0.75] for _ in batch]


@contextmanager
def hit_roads() -> Iterator[tuple[Run, Run]]:
    """Processor seconds a request, of a server without metrics and of one with them, driven by wrk."""
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server())
        fill_cache(redis_url)
        script = Path(stack.enter_context(tempfile.TemporaryDirectory()), "post.lua")
        script.write_text(WRK_SCRIPT % json.dumps(json.dumps({"text": TEXTS})))

        def road(name: str) -> Run:
            port, pid = stack.enter_context(served(name, redis_url))
            command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{WRK_S}s", "-s", str(script)]
            command.append(f"http://127.0.0.1:{port}/predict")

            def run() -> float:
                before = _cpu_s(pid)
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                assert "Non-2xx" not in said, said
                match = re.search(r"(\d+) requests in", said)
                assert match, said
                return (_cpu_s(pid) - before) / int(match[1])

            return run

        yield road("uncounted"), road("millrace")


def _cpu_s(pid: int) -> float:
    """On a processor so far; finer than the ticks of /proc/PID/stat."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def miss_road(token_us: float, *, counted: bool) -> Run:
    """Processor seconds a batch, of PASSES of them at each call."""
    texts = list(islice(stream(1), BATCH))
    entries = tuple(Entry(entry_id(text), text, "interactive", 20, 3, 9000, 1) for text in texts)
    stub = Busy(token_us)
    classifier: Classifier = stub
    observe: Callable[[BatchReport], None] = lambda report: None  # noqa: E731
    if counted:
        measuring = Measuring(StubClassifier())
        measuring.classify(measuring.tokenize(list(islice(stream(2), 500))))
        stub.info = replace(stub.info, reference=measuring.reference())
        watch = DriftWatch(stub.info)
        classifier = watched = WatchedClassifier(stub, watch)
        watched.watching = True
        observe = WorkerMetrics(stub.info, watch).observe

    def passes() -> float:
        before = time.thread_time()
        for number in range(PASSES):
            tokens = classifier.tokenize(texts)
            classifier.classify(tokens)
            total = sum(map(len, tokens))
            waits = (0.003,) * BATCH
            observe(BatchReport(number, entries, BATCH, total, total, "full", waits, 1e-4, 0.01, 0, 0, 0))
        return (time.thread_time() - before) / PASSES

    return passes


def compare(road: str, without: Run, with_: Run, rounds: int) -> Cost:
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
    return Cost(road, round(plain_us, 2), round(counted_us, 2), round(share, 4))


def main() -> None:
    """Compares both roads, prints the table and writes bench-results/metrics_cost.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--token-us", type=float, default=100.0)
    args = parser.parse_args()
    with hit_roads() as (without, with_):
        hit = compare("hit", without, with_, args.rounds)
    roads = (miss_road(args.token_us, counted=False), miss_road(args.token_us, counted=True))
    costs = [hit, compare("miss", *roads, args.rounds)]
    print("road  without us  with us   adds")
    for cost in costs:
        verdict = "met" if cost.share < GOAL else "MISSED"
        figures = f"{cost.without_us:10.1f}{cost.with_us:9.1f}{cost.share:8.2%}"
        print(f"{cost.road:<6}{figures}  (less than {GOAL:.0%}: {verdict})")
    result = {"date": time.strftime("%F"), "settings": vars(args), "costs": [asdict(cost) for cost in costs]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "metrics_cost.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
