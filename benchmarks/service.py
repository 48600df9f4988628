"""A whole service of real processes for benchmarks: Redis in memory, one API, workers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import redis

from batcher.models import parse_models
from millrace.local.redis_server import find_server
from millrace.settings_loader import free_port

READY_S = 180.0
# Runs from its path: a module would come from the code that is measured.
WORKER_TIME = Path(__file__).with_name("worker_time.py")


@dataclass(frozen=True, slots=True)
class Service:
    """Where the running service is, and the processes behind it."""

    port: int
    redis_url: str
    pids: dict[str, int]
    folder: Path

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, protocol=2)

    def cpu_s(self, process: str) -> float:
        """Processor seconds that a process has used so far."""
        return cpu_s(self.pids[process])

    def beside_model_s(self) -> float:
        """Processor seconds of the worker so far, without forward passes. Needs `worker_time=True`."""
        return float((self.folder / "worker0.time").read_text())

    def forget(self) -> None:
        """Empties the shared cache and the results; the queue's records stay."""
        with self.redis() as client:
            for pattern in ("millrace:cache:*", "*:res:*"):
                for key in client.scan_iter(pattern, count=5000):
                    client.unlink(key)


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used so far, all its threads together."""
    return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3), in nanoseconds


@contextmanager
def process(
    words: Sequence[str],
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    cwd: Path | None = None,
) -> Iterator[int]:
    """Runs a command meanwhile; its process id. It writes to `log`, or where this process writes."""
    with ExitStack() as stack:
        out = stack.enter_context(log.open("wb")) if log else None
        started = subprocess.Popen(words, env={**os.environ, **(env or {})}, stdout=out, stderr=out, cwd=cwd)
        try:
            yield started.pid
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


@contextmanager
def redis_in_memory(folder: Path) -> Iterator[tuple[str, int]]:
    """A Redis on a unix socket in `folder` that keeps nothing: its URL and process id."""
    socket = folder / "s"
    words = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    with process([str(find_server().path), *words], log=folder / "redis.log") as pid:
        until(socket.exists, 20.0, folder)
        yield f"unix://{socket}", pid


@contextmanager
def service(
    model: str,
    *,
    workers: int = 1,
    code: Path | None = None,
    worker_time: bool = False,
    worker_in: Sequence[str] = (),
    **settings: object,
) -> Iterator[Service]:
    """Starts everything, waits until it is ready, ends it. `settings` as in batch_tokens=256.

    `code` is the folder of another checkout, whose code runs instead. `worker_time` measures the worker.
    `worker_in` are the words of a command that becomes the worker, whose words follow.
    """
    names = ("engine", "precision")
    chosen = {name: settings[name] for name in names if name in settings}
    for reference in {spec.reference for spec in parse_models(model)}:
        build_model(reference, chosen, code)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        redis_url, redis_pid = stack.enter_context(redis_in_memory(folder))
        pids = {"redis": redis_pid}
        port = free_port()
        env = {f"MILLRACE_{name.upper()}": str(value) for name, value in settings.items()}
        env |= {"REDIS_URL": redis_url, "MILLRACE_PORT": str(port), "MILLRACE_MODEL": model}
        env.setdefault("MILLRACE_LOG_LEVEL", "warning")
        if code is not None:
            env["PYTHONPATH"] = str(code)
        for name in ("api", *(f"worker{number}" for number in range(workers))):
            words = ["-m", "millrace", name.rstrip("0123456789")]
            if worker_time and name != "api":
                words = ["-P", str(WORKER_TIME), str(folder / f"{name}.time")]
            log = folder / f"{name}.log"
            words = [*(worker_in if name != "api" else ()), sys.executable, *words]
            pids[name] = stack.enter_context(process(words, env, log, code))
        until(lambda: ready(port), READY_S, folder)
        yield Service(port, redis_url, pids, folder)


def build_model(model: str, chosen: Mapping[str, object], code: Path | None = None) -> None:
    """Builds the artefact of a model where this machine has none yet, however long that takes.

    In a separate process, since this one should not hold a model; and before anything waits for a worker to
    become ready, which would end the worker in the middle of the build.
    """
    if model.startswith("stub"):
        return
    words = [sys.executable, "-m", "model_store", "info", model]
    for name, value in chosen.items():
        words += [f"--{name}", str(value)]
    env = {**os.environ, "PYTHONPATH": str(code)} if code else None
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=env, cwd=code)


def until(true: Callable[[], bool], seconds: float, logs: Path | None = None) -> None:
    """Waits for it; ends the benchmark when it does not come true, and shows the logs of a folder."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            said = sorted(logs.glob("*.log")) if logs else []
            shown = "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in said)
            raise SystemExit(f"not ready after {seconds:g} s\n{shown}")
        time.sleep(0.05)


def ready(port: int, path: str = "/readyz") -> bool:
    """Whether the server at this port answers `path` with 200."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=2):
            return True
    except OSError:
        return False
