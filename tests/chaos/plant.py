"""The mill under test: Redis, two proxies in front of it, API replicas, workers, a jobs worker, a keeper."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from millrace.settings_loader import free_port
from tests.mill import Process, millrace
from tests.proxy import Proxy
from tests.servers import RedisServer, server_binary

KEEP_EVERY_S = 0.1
LEASE_MS = 2000


@dataclass(slots=True)
class Seat:
    """A place that shall always be taken by a running process."""

    name: str
    start: Callable[[], Process]
    process: Process
    restarts: int = 0


class Plant:
    """Everything that runs. `start`, then hurt it, then `close`."""

    def __init__(self, *, apis: int, workers: int, model: str) -> None:
        binary = server_binary()
        assert binary is not None, "a redis-server is needed"
        self._folder = tempfile.TemporaryDirectory(prefix="mill-chaos-")
        self.redis = RedisServer(binary, tcp=True).start()
        self.api_proxy, self.worker_proxy = Proxy(self.redis.url), Proxy(self.redis.url)
        self.ports = [free_port() for _ in range(apis)]
        self.apis = [self._seat(f"api{n}", self._api(n)) for n in range(apis)]
        self.workers = [self._seat(f"worker{n}", self._worker(n, model)) for n in range(workers)]
        self.jobs = self._seat("jobs", self._jobs)
        self.emptied_at: list[float] = []
        self._keeper: asyncio.Task[None] | None = None

    @property
    def seats(self) -> list[Seat]:
        return [*self.apis, *self.workers, self.jobs]

    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    async def start(self, timeout_s: float = 90) -> None:
        """Begins to keep every seat taken; returns when all APIs are ready."""
        self._keeper = asyncio.create_task(self._keep())
        await self.ready(timeout_s)

    async def ready(self, timeout_s: float) -> None:
        """Returns when /readyz of every API is 200. Raises RuntimeError, with its last answer."""
        deadline = time.monotonic() + timeout_s
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            for url in self.urls():
                while why := await _why_not_ready(client, url):
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"{url} is not ready after {timeout_s:g} s: {why}")
                    await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Ends everything and removes what it left."""
        if self._keeper is not None:
            self._keeper.cancel()
        for seat in self.seats:
            seat.process.close()
        self.api_proxy.close()
        self.worker_proxy.close()
        self.redis.close()
        self._folder.cleanup()

    def logs(self, lines: int = 30) -> str:
        """The last lines of every process, those about requests left out."""
        told = []
        for seat in self.seats:
            said = [line for line in seat.process.said().splitlines() if '"action":"request"' not in line]
            told += [f"-- {seat.name}", *said[-lines:]]
        return "\n".join(told)

    def crashes(self) -> list[str]:
        """Tracebacks that processes wrote; only a text that makes the model raise may cause one."""
        return [
            f"{log.stem} wrote a traceback: {line[-1500:]}"
            for log in Path(self._folder.name).glob("*.log")
            for line in log.read_text(errors="replace").splitlines()
            if "Traceback" in line and '"entry.failed"' not in line
        ]

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            for seat in self.seats:
                if not seat.process.running:
                    seat.process = seat.start()
                    seat.restarts += 1

    def _seat(self, name: str, start: Callable[[], Process]) -> Seat:
        return Seat(name, start, start())

    def _environment(self, url: str, **more: object) -> dict[str, str]:
        values = {"redis_url": url, "lease_ms": LEASE_MS, "threads": 1, "log_format": "json", **more}
        return {f"MILLRACE_{name.upper()}": str(value) for name, value in values.items()}

    def _api(self, number: int) -> Callable[[], Process]:
        settings = self._environment(self.api_proxy.url, port=self.ports[number])
        return lambda: Process(f"api{number}", millrace("api"), settings, Path(self._folder.name))

    def _worker(self, number: int, model: str) -> Callable[[], Process]:
        stub = {"stub_batch_ms": 8, "stub_token_ms": 0.05, "batch_timeout_s": 5}
        settings = self._environment(self.worker_proxy.url, model=model, **stub)
        command = [sys.executable, "-m", "batcher"]
        return lambda: Process(f"worker{number}", command, settings, Path(self._folder.name))

    def _jobs(self) -> Process:
        settings = self._environment(self.redis.url)
        return Process("jobs", millrace("jobs"), settings, Path(self._folder.name))


async def _why_not_ready(client: httpx.AsyncClient, url: str) -> str:
    """What /readyz says, and whether /livez would have the process restarted; empty once it is ready."""
    try:
        ready, live = await client.get(f"{url}/readyz"), await client.get(f"{url}/livez")
    except httpx.TransportError as error:
        return repr(error)
    return "" if ready.status_code == 200 else f"/readyz: {ready.text} /livez: {live.text}"
