"""Loads Millrace and other services with the same model, texts and users, and prints a table.

python -m benchmarks.peers [NAME ...] [--seconds 30] [--environments build/peers] [--write]

Installs each service into its own environment (1.2 GB each, torch included), starts one at a time, and loads
it with load.js from this machine. The result of each is kept below the environments, so the table has what
other runs of this commit have measured, too. What cannot be installed or does not answer is named below it.
docs/peers.md describes the method.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from benchmarks import report
from benchmarks.peers import table
from benchmarks.peers.catalogue import NOT_INSTALLED, PEERS, ROOT
from benchmarks.peers.environments import install
from benchmarks.peers.results import Conditions, Result, comparable, keep, kept
from benchmarks.peers.running import MILLRACE, Target, running

NAMES = (*MILLRACE, *(peer.name for peer in PEERS))
ANSWERS_S = 180.0
# Users, texts per request, and the share of requests with the three known texts.
LOADS = {
    "new": {"USERS": "32", "TEXTS": "8", "KNOWN": "0"},
    "known": {"USERS": "10", "TEXTS": "3", "KNOWN": "0.95"},
}


def load(target: Target, variables: Mapping[str, str], seconds: float) -> tuple[dict[str, float], str]:
    """One run of load.js: its figures, and the first answer that did not count.

    Figures: texts and requests per second with complete answers, their median and p99 in ms, and the share of
    other answers.
    """
    with tempfile.TemporaryDirectory(prefix="peers-") as work:
        summary = Path(work) / "summary.json"
        values = {**variables, "SECONDS": f"{seconds:g}", "URL": target.url, "FORM": target.form}
        options = [word for name, value in values.items() for word in ("-e", f"{name}={value}")]
        k6 = [
            str(Path(sys.executable).parent / "k6"),
            "run",
            "--quiet",
            "--no-usage-report",
            "--log-format=raw",
        ]
        script = str(Path(__file__).with_name("load.js"))
        words = [*k6, *options, "-e", f"SUMMARY={summary}", script]
        done = subprocess.run(words, check=True, stderr=subprocess.PIPE, text=True)
        metrics = json.loads(summary.read_text())["metrics"]
    # Without a single answer, k6 has no such metrics.
    none = {"values": {"rate": 0.0, "med": 0.0, "p(99)": 0.0}}
    rates = {name: metrics.get(name, none)["values"]["rate"] for name in ("texts", "requests", "errors")}
    took = metrics.get("took", none)["values"]
    return {**rates, "med": took["med"], "p99": took["p(99)"]}, next(iter(done.stderr.splitlines()), "")


def warm_up(target: Target, variables: Mapping[str, str], seconds: float) -> None:
    """Loads the service until it answers. Raises RuntimeError if no answer is complete in three minutes."""
    deadline = time.monotonic() + ANSWERS_S
    while True:
        target.check()
        figures, said = load(target, variables, seconds)
        if figures["requests"]:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"no complete answer in {ANSWERS_S:g} s {said}".rstrip())


def measure(target: Target, seconds: float) -> dict[str, dict[str, float]]:
    """The figures of each load, after a tenth of the time to warm up."""
    found = {}
    for name, variables in LOADS.items():
        warm_up(target, variables, max(1, round(seconds / 10)))
        found[name], said = load(target, variables, seconds)
        if not found[name]["requests"]:
            raise RuntimeError(f"no complete answer under load {said}".rstrip())
    return found


def result(name: str, environments: Path, conditions: Conditions) -> Result:
    """Installs, starts and loads one service. Whatever fails there becomes the reason of its result."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    reason = ""
    if peer := next((peer for peer in PEERS if peer.name == name), None):
        reason = install(peer, environments)
    elif name == "millrace-torch" and not find_spec("torch"):
        reason = "torch is not installed"
    if reason:
        return Result(name, when, conditions, reason=reason)
    try:
        with running(name, environments) as target:
            loads = measure(target, conditions.seconds)
            return Result(name, when, conditions, target.version, target.engine, loads)
    except (Exception, SystemExit) as exc:
        return Result(name, when, conditions, reason=" ".join(str(exc).split()) or type(exc).__name__)


def run(names: Sequence[str], environments: Path, seconds: float) -> None:
    """Measures one service after the other and keeps each result at once."""
    conditions = Conditions.here(seconds)
    for name in names:
        report.progress(name)
        found = result(name, environments, conditions)
        keep(found, environments / "results")
        report.progress(f"{name}: {found.reason or found.loads}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--seconds", type=float, default=30, help="duration of each load")
    parser.add_argument(
        "--environments", type=Path, default=ROOT / "build/peers", help="folder for environments and results"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="measure nothing; write what was into README.md and docs/peers.md",
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # So that the running service is stopped then too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    environments = args.environments.resolve()
    if not args.write:
        run(args.names or NAMES, environments, args.seconds)
    try:
        lines = table.whole(comparable(kept(environments / "results"), NAMES), NOT_INSTALLED)
    except ValueError as exc:
        parser.error(str(exc))
    print("\n".join(["", *lines]))
    if args.write:
        table.write(ROOT / "docs/peers.md", lines)
        table.write(ROOT / "README.md", table.part(lines))


if __name__ == "__main__":
    main()
