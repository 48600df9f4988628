"""What is recorded of each process and of Redis."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from benchmarks.memory import resident_mib
from tests.soak.service import Soaked, descriptors

MIB = 1024**2


class Recorder:
    """`series`: (s since the start, value) of everything, by process and name."""

    def __init__(self, service: Soaked) -> None:
        self.series: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._service = service
        self._began = time.monotonic()

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self._began

    def sample(self) -> None:
        """Of the worker that is replaced without its memory, which depends on its age."""
        service = self._service
        self.sample_process("API", service.api.pid)
        self.sample_process("worker", service.workers[0].pid)
        self.sample_process("jobs worker", service.jobs.pid)
        self.sample_process("Redis", service.redis.pid)
        with suppress(OSError):  # it has just been replaced
            self._sample_counts("replaced worker", service.workers[1].pid)
        if service.tasks:
            self._add("API: asyncio tasks", service.tasks)
        told = service.client.info()
        self._add("Redis: memory used, MiB", told["used_memory"] / MIB)
        self._add("Redis: keys", told.get("db0", {}).get("keys", 0))
        self._add("Redis: clients", told["connected_clients"])

    def sample_process(self, name: str, pid: int) -> None:
        """Memory, file descriptors and threads."""
        self.sample_memory(name, pid)
        self._sample_counts(name, pid)

    def sample_memory(self, name: str, pid: int) -> None:
        self._add(f"{name}: resident, MiB", resident_mib(pid))

    def _sample_counts(self, name: str, pid: int) -> None:
        self._add(f"{name}: file descriptors", descriptors(pid))
        self._add(f"{name}: threads", len(list(Path(f"/proc/{pid}/task").iterdir())))

    def _add(self, name: str, value: float) -> None:
        self.series[name].append((round(self.passed_s, 2), value))
