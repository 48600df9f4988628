"""`millrace up` as a fixture: the command people type, on a free port, with a separate data directory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from millrace.settings_loader import free_port
from tests.servers import needs_server
from tests.service import Process, millrace, wait_until

READY_S = 90.0
SERVERS = ("redis-server", "valkey-server")


class Up(Process):
    """A running `millrace up` and what belongs to it."""

    def __init__(
        self, words: tuple[str, ...], data_dir: Path | None, environment: dict[str, str], folder: Path
    ) -> None:
        self.port = free_port()
        self.data_dir = data_dir
        if data_dir is not None:
            words = ("--data-dir", str(data_dir), *words)
        command = millrace("up", "--port", str(self.port), *words)
        home = {"XDG_DATA_HOME": str(folder / "home")}
        super().__init__(f"up-{self.port}", command, {**home, **environment}, folder)

    def wait_ready(self) -> None:
        """Returns when it says that it is ready."""
        wait_until(lambda: "ready after" in self.said() or not self.running, "millrace up", READY_S)
        assert self.running, self.said()

    def offspring(self) -> list[psutil.Process]:
        """Every process that it started, and those that they started."""
        return psutil.Process(self.pid).children(recursive=True)

    def pid_of(self, part: str) -> int | None:
        """The process of one part: api, worker, jobs, redis. None while it is not there."""
        names = SERVERS if part == "redis" else (part,)
        for child in self.offspring():
            with contextlib.suppress(psutil.NoSuchProcess):
                words = " ".join(child.cmdline()).split()  # Redis rewrites its own
                if any(word.endswith(names) for word in words[:5]):
                    return child.pid
        return None

    def predict(self, *texts: str) -> httpx.Response:
        """POST /predict."""
        url = f"http://127.0.0.1:{self.port}/predict"
        return httpx.post(url, json={"text": texts}, timeout=30, trust_env=False)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts `millrace up` with the stub: `up("--workers", "2", lease_ms=500)`.

    `data_dir` is the test's own unless given; a separate Redis is not started beside `--redis-url`.
    `path` replaces PATH. Whatever stays is ended.
    """
    with starting(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def running_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `millrace up` for the tests of a module that leave it as it is: a start takes three CPU seconds."""
    with starting(tmp_path_factory.mktemp("up")) as make:
        yield make()


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[Callable[..., Up]]:
    """What `up` is, with all files in `folder`."""
    needs_server()
    started: list[Up] = []
    offspring: list[psutil.Process] = []

    def make(
        *words: str,
        data_dir: Path | None = None,
        path: str | None = None,
        ready: bool = True,
        **settings: object,
    ) -> Up:
        environment = {f"MILLRACE_{name.upper()}": str(value) for name, value in settings.items()}
        if path is not None:
            environment["PATH"] = path
        if "--model" not in words:
            words = ("--model", "stub", *words)
        if "--redis-url" not in words:
            data_dir = data_dir or folder / "my data"
        made = Up(words, data_dir, environment, folder)
        started.append(made)
        if ready:
            made.wait_ready()
            offspring.extend(made.offspring())
        return made

    yield make
    for made in started:
        if made.running:  # parts that came back during the test are new processes
            offspring.extend(made.offspring())
        made.close()
    for process in offspring:
        if process.is_running():
            process.kill()
    psutil.wait_procs(offspring, timeout=10)
