"""Loads Millrace and other services with the same model, texts and users, and prints the table of the README.

python -m benchmarks.peers [NAME ...] [--seconds 30] [--environments build/peers]

Installs each service into its own environment (1.2 GB each, torch included), starts one at a time, and loads
it with load.js from this machine. What cannot be installed or started is named below the table.
docs/peers.md describes the method.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from benchmarks import report
from benchmarks.peers.catalogue import PEERS, ROOT, SERVERS, Peer, install
from benchmarks.service import process, until
from millrace.settings_loader import free_port

MILLRACE = {"millrace": "OpenVINO, auto", "millrace-torch": "torch f32"}
READY_S = 180.0
# Users, texts per request, and the share of requests with the three known texts.
LOADS = {
    "new": {"USERS": "32", "TEXTS": "8", "KNOWN": "0"},
    "known": {"USERS": "10", "TEXTS": "3", "KNOWN": "0.95"},
}

COLUMNS = [
    *("service", "version", "engine", "new texts: texts/s", "p50 ms", "p99 ms"),
    *("95 % known: requests/s", "p50 ms", "p99 ms", "errors"),
]


@dataclass(frozen=True, slots=True)
class Target:
    """A running service."""

    url: str
    form: str
    version: str
    engine: str


@contextmanager
def peer_running(peer: Peer, folder: Path) -> Iterator[Target]:
    """A peer that answers its first request."""
    port = free_port("127.0.0.1")
    env = peer.env | {"MODEL": str(ROOT / "model_store/default"), "HF_HUB_OFFLINE": "1"}
    # Servers start programs of their environment, and import the files beside them.
    env |= {"PATH": f"{folder / peer.name / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(SERVERS)}
    with tempfile.TemporaryDirectory(prefix="peers-") as work:
        words = ["env", f"--chdir={SERVERS}", *peer.words(folder, port)]
        target = Target(f"http://127.0.0.1:{port}{peer.path}", peer.form, peer.version(folder), peer.engine)
        with process(words, env, Path(work) / "server.log"):
            until(lambda: answers(target), READY_S, Path(work))
            yield target


@contextmanager
def millrace_running(name: str) -> Iterator[Target]:
    """Millrace as `millrace up` starts it: Redis, API, worker and jobs worker."""
    port = free_port("127.0.0.1")
    env = {"MILLRACE_ENGINE": "torch", "MILLRACE_PRECISION": "f32"} if name == "millrace-torch" else {}
    revision = ["git", "rev-parse", "--short", "HEAD"]
    version = subprocess.run(revision, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="peers-") as work:
        words = [sys.executable, "-m", "millrace", "up", "--port", str(port), "--data-dir", f"{work}/data"]
        target = Target(f"http://127.0.0.1:{port}/predict", "", version, MILLRACE[name])
        with process(words, env, Path(work) / "server.log"):
            until(lambda: answers(target), READY_S, Path(work))
            yield target


def answers(target: Target) -> bool:
    """Whether a first request gets 200."""
    texts = ["I love you!"]
    body = {"model": "default", "input": texts} if target.form == "infinity" else {"text": texts}
    request = Request(target.url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=20) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def load(target: Target, variables: Mapping[str, str]) -> dict[str, float]:
    """Texts and requests per second, median and p99 in ms, and the share of errors, of one run of load.js."""
    with tempfile.TemporaryDirectory(prefix="peers-") as work:
        summary = Path(work) / "summary.json"
        values = {**variables, "URL": target.url, "FORM": target.form, "SUMMARY": str(summary)}
        options = [word for name, value in values.items() for word in ("-e", f"{name}={value}")]
        k6 = Path(sys.executable).parent / "k6"
        script = Path(__file__).with_name("load.js")
        subprocess.run([k6, "run", "--quiet", "--no-usage-report", *options, script], check=True)
        metrics = json.loads(summary.read_text())["metrics"]
    duration = metrics["http_req_duration"]["values"]
    none = {"values": {"rate": 0.0}}  # a slow service may have answered nothing while it warmed up
    return {
        "texts": metrics.get("texts_answered", none)["values"]["rate"],
        "requests": metrics["http_reqs"]["values"]["rate"],
        "med": duration["med"],
        "p99": duration["p(99)"],
        "errors": metrics.get("errors", none)["values"]["rate"],
    }


def measure(target: Target, seconds: float) -> dict[str, dict[str, float]]:
    """The figures of each load, after a tenth of the time to warm up."""
    found = {}
    for name, variables in LOADS.items():
        load(target, {**variables, "SECONDS": f"{max(1, round(seconds / 10))}"})
        found[name] = load(target, {**variables, "SECONDS": f"{seconds:g}"})
    return found


def row(name: str, target: Target, found: Mapping[str, Mapping[str, float]]) -> str:
    new, known = found["new"], found["known"]
    errors = 100 * max(new["errors"], known["errors"])
    cells = [name, target.version, target.engine]
    cells += [f"{new['texts']:,.0f}", f"{new['med']:,.0f}", f"{new['p99']:,.0f}"]
    cells += [f"{known['requests']:,.0f}", f"{known['med']:,.1f}", f"{known['p99']:,.1f}", f"{errors:.1f} %"]
    return f"| {' | '.join(cells)} |"


def heading(seconds: float) -> list[str]:
    facts = report.facts()
    machine = f"{facts['processor']}, {facts['cores']} cores, {facts['when']}"
    return [
        f"{machine}, {seconds:g} s per load, load generator on the same cores.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]


def run(names: list[str], folder: Path, seconds: float) -> tuple[list[str], list[str], dict[str, Any]]:
    """The rows of the table, what was left out and why, and all figures."""
    rows, left_out, figures = [], [], {}
    peers = {peer.name: peer for peer in PEERS}
    for name in names:
        report.progress(name)
        if name in peers:
            reason = install(peers[name], folder)
        else:
            reason = "torch is not installed" if name == "millrace-torch" and not find_spec("torch") else ""
        if reason:
            left_out.append(f"{name}: {reason}")
            continue
        try:
            running = peer_running(peers[name], folder) if name in peers else millrace_running(name)
            with running as target:
                figures[name] = measure(target, seconds)
                rows.append(row(name, target, figures[name]))
                report.progress(rows[-1])
        except (SystemExit, subprocess.CalledProcessError) as exc:
            first, *_, last = [*str(exc).splitlines(), ""]
            left_out.append(f"{name}: {first} {last}".rstrip())
    return rows, left_out, figures


def main() -> None:
    known = [*MILLRACE, *(peer.name for peer in PEERS)]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--seconds", type=float, default=30, help="duration of each load")
    parser.add_argument(
        "--environments", type=Path, default=ROOT / "build/peers", help="folder for what is installed"
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # So that the running service is stopped then too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lines = heading(args.seconds)
    rows, left_out, figures = run(args.names or known, args.environments.resolve(), args.seconds)
    lines += rows + [f"\nNot measured: {reason}" for reason in left_out]
    print("\n".join(["", *lines]))
    report.finish(
        "peers", {"seconds": args.seconds, "figures": figures, "left_out": left_out, "table": lines}
    )


if __name__ == "__main__":
    main()
