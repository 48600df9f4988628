"""The service under test: two APIs, two workers and a jobs worker, each on a separate host."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.partitions.network import Host, Network
from tests.partitions.topology import Topology
from tests.servers import as_user
from tests.service import Process, millrace
from tests.signing import SIGNED

API_PORT = 8000
BUDGET_S = 5.0
ROLES = ("api1", "api2", "worker1", "worker2", "jobs")


class Service:
    """Processes by the name of their host. With `planted`, they run with that fault of `planted.py`."""

    def __init__(self, network: Network, topology: Topology, planted: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="partitions-")
        self._settings = {
            "MILLRACE_REDIS_URL": topology.url,
            "MILLRACE_SHARDS": str(len(topology.shards)),
            "MILLRACE_JOBS_REDIS_URL": topology.jobs_url,
            "MILLRACE_MODEL": SIGNED,
            "MILLRACE_THREADS": "1",
            "MILLRACE_STUB_BATCH_MS": "5",
            "MILLRACE_LOG_FORMAT": "json",
            "MILLRACE_DEFAULT_BUDGET_S": f"{BUDGET_S:g}",
            "MILLRACE_OPEN": "true",
            "MILLRACE_PORT": str(API_PORT),
        }
        self._planted = planted
        self.hosts = [network.host(role) for role in ROLES]
        self.urls = [f"http://{host.address}:{API_PORT}" for host in self.hosts[:2]]
        self.processes = [self._start(host) for host in self.hosts]

    def ended(self) -> list[str]:
        """A sentence for each process that runs no more."""
        return [f"{process.name} has ended" for process in self.processes if not process.running]

    def tracebacks(self) -> list[str]:
        """The log lines with one. Processes of jobs are left out: RQ writes one when they lose Redis."""
        return [
            f"{process.name}: {line[-1500:]}"
            for process in self.processes
            for line in process.said().splitlines()
            if "Traceback" in line and process.name != "jobs"
        ]

    def logs(self, lines: int = 15) -> str:
        """The last lines of every process, those about requests left out."""
        shown = []
        for process in self.processes:
            said = [line for line in process.said().splitlines() if '"action":"request"' not in line]
            shown += [f"-- {process.name}", *said[-lines:]]
        return "\n".join(shown)

    def close(self) -> None:
        for process in self.processes:
            process.close()
        self._folder.cleanup()

    def _start(self, host: Host) -> Process:
        command = host.name.rstrip("12")
        words = millrace(command)
        if self._planted:
            words = [sys.executable, "-m", "tests.partitions.planted", self._planted, command]
        settings = {key: as_user(value, command) for key, value in self._settings.items()}
        own = {"MILLRACE_HOST": host.address}
        name = f"{host.name}-{time.monotonic_ns()}"
        process = Process(name, host.command(*words), {**settings, **own}, Path(self._folder.name))
        process.name = host.name
        return process
