"""A whole service of real processes for benchmarks: Redis in memory, one API, workers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import redis

from benchmarks.net import free_port
from millrace.embedded import find_server

READY_S = 180.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Service:
    """Where the running service is, and the processes behind it."""

    port: int
    redis_url: str
    pids: dict[str, int]

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, protocol=2)

    def cpu_s(self, process: str) -> float:
        """Processor seconds that a process has used so far."""
        fields = Path(f"/proc/{self.pids[process]}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def forget(self) -> None:
        """Empties the shared cache and the results; the queue's records stay."""
        with self.redis() as client:
            for pattern in ("millrace:cache:*", "*:res:*"):
                for key in client.scan_iter(pattern, count=5000):
                    client.unlink(key)


@contextmanager
def service(model: str, *, workers: int = 1, **settings: object) -> Iterator[Service]:
    """Starts everything, waits until it is ready, ends it. `settings` as in batch_tokens=256."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        socket = folder / "s"
        words = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
        pids = {"redis": _start(stack, [str(find_server().path), *words], {}, folder / "redis.log")}
        port = free_port()
        env = {f"MILLRACE_{name.upper()}": str(value) for name, value in settings.items()}
        env |= {"REDIS_URL": f"unix://{socket}", "MILLRACE_PORT": str(port), "MILLRACE_MODEL": model}
        env.setdefault("MILLRACE_LOG_LEVEL", "warning")
        command = [sys.executable, "-m", "millrace"]
        pids["api"] = _start(stack, [*command, "api"], env, folder / "api.log")
        for number in range(workers):
            log = folder / f"worker{number}.log"
            pids[f"worker{number}"] = _start(stack, [*command, "worker"], env, log)
        _wait_ready(port, folder)
        yield Service(port, f"unix://{socket}", pids)


def _start(stack: ExitStack, words: list[str], env: dict[str, str], log: Path) -> int:
    with log.open("wb") as out:
        process = subprocess.Popen(words, env={**os.environ, **env}, stdout=out, stderr=out)

    def end() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)
    return process.pid


def _wait_ready(port: int, folder: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except (URLError, HTTPError, OSError):
            time.sleep(0.1)
    logs = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in sorted(folder.glob("*.log")))
    raise SystemExit(f"the service did not become ready\n{logs}")
