"""A whole service of real processes for tests: Redis, one API, workers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import httpx

from millrace.settings_loader import free_port
from tests.forked import Fork, forker
from tests.operators import KEY, SETTING, OperatorAuth
from tests.servers import RedisServer, as_user

START_S = 90.0


class Process:
    """One command in a separate session, with what it says in a file."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._popen = self._started(command, {**os.environ, **environment}, log)

    def _started(
        self, command: list[str], environment: Mapping[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes] | Fork:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The id of the process, whether it lives or not."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to the process; SIGKILL waits until it is gone, SIGSTOP until it stands still."""
        self._popen.send_signal(how)
        if how == signal.SIGKILL:
            self._popen.wait(timeout=10)
        stat = Path(f"/proc/{self.pid}/stat")  # there is none except on Linux
        while how == signal.SIGSTOP and stat.exists() and stat.read_text().rpartition(") ")[2][0] in "RSD":
            time.sleep(0.001)

    def stop(self, timeout_s: float = 30) -> int:
        """SIGTERM, and the exit status."""
        self._popen.terminate()
        return self._popen.wait(timeout=timeout_s)

    def wait(self, timeout_s: float = 30) -> int:
        """The exit status, once it ends by itself."""
        return self._popen.wait(timeout=timeout_s)

    def said(self) -> str:
        """Everything that it wrote so far."""
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        """Kills it and every process it started in its session's group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(timeout=10)


class ForkedProcess(Process):
    """Forked from a process that has imported Millrace; `command` ends with `-m`, a module and its words."""

    def _started(self, command: list[str], environment: Mapping[str, str], log: IO[bytes]) -> Fork:
        return forker().fork(command[command.index("-m") + 1 :], environment, log)


def millrace(*words: str) -> list[str]:
    """The command line of `millrace`, with this interpreter."""
    return [sys.executable, "-P", "-m", "millrace", *words]


def wait_until(true: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """The first true answer, or an AssertionError that says what was waited for."""
    began = time.monotonic()
    while not (answer := true()):
        waited_s = time.monotonic() - began
        assert waited_s < timeout_s, f"waited {timeout_s} s for {what}"
        time.sleep(pause_s(waited_s))
    return answer


def pause_s(waited_s: float) -> float:
    """How long to wait for the next look: most of the time of a service that started was that of looks."""
    return min(max(waited_s / 20, 0.01), 0.1)


class Service:
    """Made by the fixture `start_service`, with `settings` for all: lease_ms for MILLRACE_LEASE_MS."""

    process_type: type[Process] = ForkedProcess

    def __init__(self, redis: RedisServer, settings: Mapping[str, object]) -> None:
        self.redis = redis
        self.folder = Path(tempfile.mkdtemp(prefix="service-"))
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.base_url, timeout=30, trust_env=False, auth=OperatorAuth())
        self.key_file = self.folder / "operator.key"
        self.key_file.write_text(KEY)
        self.environment = {
            "MILLRACE_REDIS_URL": redis.url,
            "MILLRACE_PORT": str(self.port),
            "MILLRACE_THREADS": "1",
            "MILLRACE_ADMIN_KEYS": SETTING,
            **{f"MILLRACE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.api: Process = self._start("api")
        self.workers: list[Process] = []
        self.processes: list[Process] = [self.api]

    def start_api(self) -> Process:
        """Another API process at the same address, once the first has ended."""
        assert not self.api.running
        self.api = self._start("api")
        self.processes.append(self.api)
        return self.api

    def start_worker(self, **settings: object) -> Process:
        """One more worker, with separate settings on top of the service's."""
        own = {f"MILLRACE_{name.upper()}": str(value) for name, value in settings.items()}
        worker = self._start("worker", own)
        self.workers.append(worker)
        self.processes.append(worker)
        return worker

    def start_jobs(self) -> Process:
        """One more jobs worker."""
        jobs = self._start("jobs")
        self.processes.append(jobs)
        return jobs

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Returns when every configured model is ready; fails at once when a process ended instead.

        /readyz is 200 with the first model; the API knows of the others up to a second later.
        """
        configured = self.environment.get("MILLRACE_MODEL", "").split(",")
        others = {model.partition("=")[0] for model in configured[1:]}

        def ready() -> bool:
            assert all(process.running for process in (self.api, *self.workers)), self.logs()
            try:
                if self.http.get("/readyz").status_code != 200:
                    return False
                asked = self.http.get("/models") if others else None
            except httpx.TransportError:
                return False
            if asked is None or asked.status_code == 401:  # a test with keys asks for the others itself
                return True
            found = asked.json()["models"]
            return others <= {model["name"] for model in found if model["state"] == "ready"}

        wait_until(ready, "the service to become ready", timeout_s)

    def predict(self, *texts: str, **headers: str) -> httpx.Response:
        """POST /predict with these texts."""
        return self.http.post("/predict", json={"text": texts}, headers=headers)

    def console_link(self) -> str:
        """A link that opens the console, once."""
        return f"{self.base_url}{self.http.post('/admin/links').json()['path']}"

    def live_workers(self) -> list[dict[bytes, bytes]]:
        """The records of live workers, as they stand in Redis."""
        with self.redis.client() as client:
            return [client.hgetall(key) for key in client.scan_iter("{millrace:*}:worker:*")]

    def logs(self) -> str:
        """The last lines of every process."""
        parts = []
        for process in self.processes:
            state = "running" if process.running else "ended"
            lines = process.said().splitlines()[-40:]
            parts.append("\n".join([f"-- {process.name} ({process.pid}, {state})", *lines]))
        return "\n".join(parts)

    def close(self) -> None:
        """Ends every process and removes what they left."""
        self.http.close()
        for process in reversed(self.processes):
            process.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, command: str, settings: Mapping[str, str] | None = None) -> Process:
        name = f"{command}-{time.monotonic_ns()}"
        environment = {**self.environment_of(command), **(settings or {})}
        return self.process_type(name, millrace(command), environment, self.folder)

    def environment_of(self, command: str) -> dict[str, str]:
        """The settings of one of its processes, which connects as the Redis user of its role."""
        return {name: as_user(value, command) for name, value in self.environment.items()}
