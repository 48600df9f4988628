"""The hit road: what one answer costs whose three texts are all known, beside a bare echo and plain FastAPI.

    python -m benchmarks.hit [--rounds 5] [--seconds 3] [--connections 32]

Every round drives each server in turn with wrk, so that whatever else the machine does meets all of them;
the ratios are medians over rounds. `us/request` is processor time of the server alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import Request, urlopen

from benchmarks.hit_servers import SCORES, TEXTS, fill_cache
from millrace.embedded import find_server

RESULTS = Path("bench-results")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
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
WRK_SCRIPT = """
wrk.method = "POST"
wrk.body = %s
wrk.headers["Content-Type"] = "application/json"
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk against one server."""

    rps: float
    p99_ms: float
    cpu_us: float
    errors: int


@contextmanager
def redis_server() -> Iterator[str]:
    """A Redis of its own on a unix socket, kept in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s")
        words = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        process = subprocess.Popen([find_server().path, *words], stdout=subprocess.DEVNULL)
        try:
            _until(path.exists, "redis-server")
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait()


@contextmanager
def served(name: str, redis_url: str) -> Iterator[tuple[int, int]]:
    """Starts one of the servers; gives its port and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.hit_servers", name, str(port), redis_url])
    try:
        _until(lambda: _answers(name, port), name)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)


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


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not start")
        time.sleep(0.05)


def measure(port: int, pid: int, script: Path, seconds: int, connections: int) -> Sample:
    """Drives one server with wrk on one thread."""
    words = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script)]
    command = ["wrk", *words, f"http://127.0.0.1:{port}/predict"]
    before = _cpu_s(pid)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu_us = (_cpu_s(pid) - before) * 1e6 / int(_found(r"(\d+) requests in", said))
    errors = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", said)))
    rps, p99_ms = float(_found(r"Requests/sec:\s+([\d.]+)", said)), _ms(_found(r"\n +99%\s+(\S+)", said))
    return Sample(rps, p99_ms, cpu_us, errors)


def _found(pattern: str, said: str) -> str:
    match = re.search(pattern, said)
    assert match, said
    return match[1]


def _ms(latency: str) -> float:
    number = latency.rstrip("ums")
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[latency.removeprefix(number)]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def run(rounds: int, seconds: int, connections: int) -> dict[str, list[Sample]]:
    """The samples of each server, one a round."""
    samples: dict[str, list[Sample]] = {name: [] for name in TITLES}
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server())
        fill_cache(redis_url)
        script = Path(stack.enter_context(tempfile.TemporaryDirectory()), "post.lua")
        script.write_text(WRK_SCRIPT % json.dumps(json.dumps({"text": TEXTS})))
        servers = {name: stack.enter_context(served(name, redis_url)) for name in TITLES}
        for turn in range(rounds + 1):
            for name, (port, pid) in servers.items():
                sample = measure(port, pid, script, seconds if turn else 1, connections)
                assert not sample.errors, f"{name}: {sample.errors} answers were no success"
                label = f"round {turn}/{rounds}" if turn else "warm-up"
                print(f"{label:10} {TITLES[name]:34} {sample.rps:9.0f}/s", file=sys.stderr, flush=True)
                if turn:
                    samples[name].append(sample)
    return samples


def ratio(samples: dict[str, list[Sample]], what: str, of: str) -> float:
    """Median over rounds of requests/s of one server per request/s of another."""
    return median(a.rps / b.rps for a, b in zip(samples[what], samples[of], strict=True))


def report(samples: dict[str, list[Sample]]) -> list[dict[str, object]]:
    """Prints the table; gives each goal with what was measured."""
    print(f"\n{'':34} requests/s  p99 ms  us/request  of echo  of FastAPI")
    for name, runs in samples.items():
        rps, p99 = median(run.rps for run in runs), median(run.p99_ms for run in runs)
        cpu_us = median(run.cpu_us for run in runs)
        ratios = f"{ratio(samples, name, 'echo'):7.2f}  {ratio(samples, name, 'plain_models'):10.2f}"
        print(f"{TITLES[name]:34} {rps:10.0f}  {p99:6.2f}  {cpu_us:10.1f}  {ratios}")
    goals: list[dict[str, object]] = []
    for what, of, least in GOALS:
        measured = ratio(samples, what, of)
        by_cpu = median(run.cpu_us for run in samples[of]) / median(run.cpu_us for run in samples[what])
        verdict = "met" if measured >= least else "MISSED"
        print(f"{TITLES[what]} / {TITLES[of]}: {measured:.2f}, at least {least}: {verdict}", end="")
        print(f" (by processor time {by_cpu:.2f})")
        shares = {"measured": round(measured, 3), "by_processor_time": round(by_cpu, 3)}
        goals.append({"what": what, "of": of, "at_least": least, **shares})
    return goals


def main() -> None:
    """Runs everything, prints the table and writes bench-results/hit.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    args = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: https://github.com/wg/wrk (Debian: apt install wrk)")
    samples = run(args.rounds, args.seconds, args.connections)
    result = {
        "date": time.strftime("%F"),
        "settings": vars(args),
        "goals": report(samples),
        "samples": {name: [asdict(sample) for sample in of] for name, of in samples.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "hit.json"
    path.write_text(json.dumps(result, indent=1))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
