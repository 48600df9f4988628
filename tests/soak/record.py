"""What is recorded of each process and of Redis."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from benchmarks.memory import resident_mib
from tests.soak.schedule import Schedule
from tests.soak.service import SoakService, descriptors

MIB = 1024**2


class Recorder:
    """`series`: (s since the start, value) of everything, by process and name.

    `second` is the process of the worker that is replaced, while it has every thread that it ever makes.
    """

    second: int | None = None

    def __init__(self, service: SoakService, schedule: Schedule) -> None:
        self.series: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._service, self._schedule = service, schedule

    def sample(self) -> None:
        """Of the worker that is replaced without its memory, which depends on its age."""
        service = self._service
        self.sample_process("API", service.api.pid)
        self.sample_process("worker", service.workers[0].pid)
        self.sample_process("jobs worker", service.jobs.pid)
        self.sample_process("Redis", service.redis.pid)
        if (second := self.second) is not None:
            with suppress(OSError):  # it has just ended
                self.sample_counts("replaced worker", second)
        if service.tasks:
            self._add("API: asyncio tasks", service.tasks)
        self._sample_redis()

    def _sample_redis(self) -> None:
        """A scan removes what has expired: Redis does so after a while, and counts it as keys until then."""
        client = self._service.client
        for _ in client.scan_iter(count=1000):
            pass
        info = client.info()
        keyspace = info.get("db0", {"keys": 0, "expires": 0})
        self._add("Redis: memory used, MiB", info["used_memory"] / MIB)
        self._add("Redis: keys", keyspace["keys"])
        self._add("Redis: lasting keys", keyspace["keys"] - keyspace["expires"])
        self._add("Redis: clients", info["connected_clients"])

    def sample_process(self, name: str, pid: int) -> None:
        """Memory, file descriptors and threads."""
        self.sample_memory(name, pid)
        self.sample_counts(name, pid)

    def sample_memory(self, name: str, pid: int) -> None:
        self._add(f"{name}: resident, MiB", resident_mib(pid))

    def sample_counts(self, name: str, pid: int) -> None:
        self._add(f"{name}: file descriptors", descriptors(pid))
        self._add(f"{name}: threads", len(list(Path(f"/proc/{pid}/task").iterdir())))

    def _add(self, name: str, value: float) -> None:
        self.series[name].append((round(self._schedule.passed_s, 2), value))
