"""The service under test: Redis, an API whose tasks are counted, two workers, a jobs worker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import redis

from batcher.admin.console import MAX_LINES, MINUTES, AuditLog, MinuteHistory
from model_store.stub import SIGNED_LABELS
from tests.limits import confine
from tests.servers import RedisServer, server_binary
from tests.service import Process, Service, wait_until
from tests.signing import SIGNED

DIALECTS = "huggingface,tei,oip,kserve,vllm,openai,fms,decisions,project,sagemaker,vertex"
# What is bounded by design reaches its bound within minutes, so that what grows later has no bound.
SETTINGS: Mapping[str, object] = {
    "cache_ttl_s": 60,
    "result_ttl_s": 10,
    "job_ttl_s": 60,
    "local_cache_entries": 500,
    "local_cache_bytes": 1024**2,
    "compat": DIALECTS,
    "compat_models": "stub,alias",
    "moderation_labels": ",".join(["NEGATIVE=harassment", *(f"{label}={label}" for label in SIGNED_LABELS)]),
    "log_format": "json",
}


@dataclass(frozen=True, slots=True)
class Models:
    """What workers load: references of the two models at their start, and of the revisions of the second."""

    first: str
    second: str
    published: Sequence[str]

    @classmethod
    def make(cls, first: str, folder: Path) -> Models:
        """Stubs beside a stub; else three tiny models with random weights, which the real engine runs."""
        if first == SIGNED:
            return cls(first, f"{SIGNED}-a", [f"{SIGNED}-b", f"{SIGNED}-c"])
        tiny = folder / "tiny"
        command = [sys.executable, "-m", "model_store", "random", "--config", "tiny", "--out", str(tiny)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        published = [folder / f"tiny-{number}" for number in (1, 2)]
        for path in published:  # another file is another revision, even with the same weights
            shutil.copytree(tiny, path)
            config = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps(config | {"copy": path.name}))
            # Else one of the workers would build it, and keep in memory what it needs for that.
            command = [sys.executable, "-m", "model_store", "info", "--model", str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return cls(first, str(tiny), [str(path) for path in published])


class SoakService(Service):
    """A `Service` with its processes by role; with `limited`, each is held to the memory of its manifest."""

    # Whose memory is measured is started as people start it.
    process_type = Process

    def __init__(self, redis_server: RedisServer, models: Models, *, limited: bool) -> None:
        self._limited = limited
        listed = f"{models.first},topics={models.second}"
        super().__init__(redis_server, {"model": listed, **SETTINGS})
        self.client: redis.Redis = redis_server.client()
        self.jobs = self.start_jobs()

    def begin(self) -> None:
        """Starts the workers, and returns when everything is ready."""
        self.start_worker()
        self.start_worker()
        self.wait_ready(300)
        wait_until(lambda: len(self._live()) == 2, "both workers", 300)
        for process, role in (
            (self.api, "api"),
            (self.jobs, "jobs"),
            *((one, "worker") for one in self.workers),
        ):
            self._confine(process.pid, role)
        self._confine(self.redis.pid, "redis")

    @property
    def tasks(self) -> int:
        """Asyncio tasks of the API; 0 before they were counted."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._tasks_file.read_text())
        return 0

    def replace_worker(self, how: signal.Signals) -> None:
        """A new worker, and once it serves, the end of the second one. Blocks for seconds."""
        old, live = self.workers[1], set(self._live())
        new = self.start_worker()
        wait_until(lambda: set(self._live()) - live, "the new worker", 300)
        self._confine(new.pid, "worker")
        # Nothing of it is recorded any more.
        self.workers.remove(old)
        self.processes.remove(old)
        old.kill(how)
        old.wait(60)
        old.log.unlink()

    def fill_history(self) -> bool:
        """As after days: the console's history and its audit get their full length, once they have a line."""
        history, audit = MinuteHistory(self.client, "default"), AuditLog(self.client, "default")
        minutes, actions = history.newest(1), audit.newest(1)
        if not (minutes and actions):
            return False
        for line in minutes * MINUTES:
            history.add(line)
        for action in actions * MAX_LINES:
            audit.add(action)
        return True

    def children(self) -> list[int]:
        """Processes of jobs that run."""
        return [child.pid for child in psutil.Process(self.jobs.pid).children()]

    def wrong(self) -> list[str]:
        """A sentence for each process that has ended, or whose memory says nothing about growth."""
        ended = [f"{process.name} has ended" for process in self.processes if not process.running]
        built = [worker.name for worker in self.workers if worker.running and maps(worker.pid, "libtorch")]
        return [*ended, *(f"{name} has built an artefact, and keeps torch in its memory" for name in built)]

    def close(self) -> None:
        self.client.close()
        super().close()

    @property
    def _tasks_file(self) -> Path:
        return self.folder / "tasks"

    def _live(self) -> list[bytes]:
        return list(self.client.scan_iter("{millrace:*:default}:worker:*"))

    def _confine(self, pid: int, role: str) -> None:
        if self._limited:
            confine(pid, role)

    def _start(self, command: str, settings: Mapping[str, str] | None = None) -> Process:
        if command != "api":
            return super()._start(command, settings)
        counted = [sys.executable, "-m", "tests.soak.counted", str(self._tasks_file), command]
        return Process(command, counted, self.environment_of(command), self.folder)


@contextlib.contextmanager
def running_service(first: str, folder: Path, *, limited: bool) -> Iterator[tuple[SoakService, Models]]:
    """The running service. Raises RuntimeError if there is no redis-server."""
    binary = server_binary()
    if binary is None:
        raise RuntimeError("no redis-server was found: install one, or set TEST_REDIS_SERVER")
    models = Models.make(first, folder)
    server = RedisServer(binary).start()
    service: SoakService | None = None
    try:
        service = SoakService(server, models, limited=limited)
        service.begin()
        yield service, models
    except BaseException:
        if service is not None:
            print(service.logs(), file=sys.stderr)
        raise
    finally:
        if service is not None:
            service.close()
        server.close()


def maps(pid: int, library: str) -> bool:
    """Whether a process has loaded a library whose file has that in its name."""
    return library in Path(f"/proc/{pid}/maps").read_text()


def descriptors(pid: int) -> int:
    """How many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
