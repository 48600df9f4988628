"""The hit path: what one answer costs whose three texts are all known, beside a bare echo and plain FastAPI.

    python -m benchmarks.hit [--rounds 5] [--seconds 3] [--connections 32]

Every round drives each server in turn with wrk, so that whatever else the machine does meets all of them;
the ratios are medians over rounds. `us/request` is processor time of the server alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from benchmarks import report
from benchmarks.hit_servers import SCORES, TEXTS, fill_cache
from benchmarks.service import cpu_s, process, redis_in_memory, until
from benchmarks.wrk import Wrk, wrk
from millrace.settings_loader import free_port

TITLES = {
    "echo": "bare ASGI echo",
    "plain_models": "plain FastAPI, models in and out",
    "plain_request": "plain FastAPI, Request and json",
    "millrace": "Millrace, in-process hit",
    "millrace_shared": "Millrace, in-process cache off",
}
# (what, of what, at least)
GOALS = (
    ("millrace", "echo", 0.45),
    ("millrace", "plain_models", 1.5),
    ("millrace_shared", "plain_models", 0.8),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk against one server."""

    rps: float
    p99_ms: float
    cpu_us: float


@contextmanager
def known_texts() -> Iterator[str]:
    """A Redis whose shared cache knows the texts that are asked for; its URL."""
    with tempfile.TemporaryDirectory() as folder, redis_in_memory(Path(folder)) as (url, _):
        fill_cache(url)
        yield url


@contextmanager
def served(name: str, redis_url: str) -> Iterator[tuple[int, int]]:
    """Starts one of the servers; gives its port and process id."""
    port = free_port()
    with process([sys.executable, "-m", "benchmarks.hit_servers", name, str(port), redis_url]) as pid:
        until(lambda: _answers(name, port), 20.0)
        yield port, pid


def _answers(name: str, port: int) -> bool:
    """Whether it is up. What is compared must answer the same request with the same predictions."""
    body = json.dumps({"text": TEXTS}).encode()
    request = Request(f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"})
    try:
        with urlopen(request) as answer:
            said = json.load(answer)
    except URLError:
        return False
    scores = [tuple(pair["score"] for pair in pairs) for pairs in said.get("predictions", ())]
    assert name == "echo" or scores == list(SCORES), f"{name} answers {said}"
    return True


def measure(driver: Wrk, port: int, pid: int, seconds: int, connections: int) -> Sample:
    """Drives one server for a while."""
    before = cpu_s(pid)
    driven = driver.drive(port, seconds=seconds, connections=connections)
    return Sample(driven.rps, driven.p99_ms, (cpu_s(pid) - before) * 1e6 / driven.requests)


def run(rounds: int, seconds: int, connections: int) -> dict[str, list[Sample]]:
    """The samples of each server, one a round."""
    samples: dict[str, list[Sample]] = {name: [] for name in TITLES}
    with ExitStack() as stack:
        driver = stack.enter_context(wrk(TEXTS))
        redis_url = stack.enter_context(known_texts())
        servers = {name: stack.enter_context(served(name, redis_url)) for name in TITLES}
        for turn in range(rounds + 1):
            report.progress(f"round {turn} of {rounds}" if turn else "warming up")
            for name, (port, pid) in servers.items():
                sample = measure(driver, port, pid, seconds if turn else 1, connections)
                if turn:
                    samples[name].append(sample)
    return samples


def ratio(samples: Mapping[str, Sequence[Sample]], what: str, of: str) -> float:
    """Median over rounds of requests/s of one server per request/s of another."""
    return median(a.rps / b.rps for a, b in zip(samples[what], samples[of], strict=True))


def show(samples: dict[str, list[Sample]]) -> list[dict[str, Any]]:
    """Prints the table; gives each goal with what was measured."""
    rows = []
    for name, runs in samples.items():
        rps, p99_ms, cpu_us = (
            median(getattr(run, figure) for run in runs) for figure in ("rps", "p99_ms", "cpu_us")
        )
        ratios = [f"{ratio(samples, name, of):.2f}" for of in ("echo", "plain_models")]
        rows.append([TITLES[name], f"{rps:.0f}", f"{p99_ms:.2f}", f"{cpu_us:.1f}", *ratios])
    report.table(["", "requests/s", "p99 ms", "us/request", "of echo", "of FastAPI"], rows)
    return [
        report.goal(f"{TITLES[what]} / {TITLES[of]}", ratio(samples, what, of), least)
        for what, of, least in GOALS
    ]


def main() -> None:
    """Runs everything, prints the table and writes bench-results/hit.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    args = parser.parse_args()
    samples = run(args.rounds, args.seconds, args.connections)
    figures = {name: [asdict(sample) for sample in of] for name, of in samples.items()}
    report.finish("hit", {"settings": vars(args), "goals": show(samples), "samples": figures})


if __name__ == "__main__":
    main()
