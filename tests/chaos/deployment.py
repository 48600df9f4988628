"""The service under test: Redis or a cluster behind proxies, APIs, workers, a jobs worker, a keeper."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from batcher.shards import Shard, shards_of
from millrace.settings_loader import free_port
from tests.cluster import Cluster
from tests.proxy import Proxy
from tests.servers import RedisServer, as_user, server_binary
from tests.service import ForkedProcess, Process, millrace

KEEP_EVERY_S = 0.1
LEASE_MS = 2000


@dataclass(slots=True)
class Seat:
    """A place that should always be taken by a running process."""

    name: str
    start: Callable[[], Process]
    process: Process
    restarts: int = 0


class Deployment:
    """Everything that runs. `start`, then hurt it, then `close`.

    With several shards, the queue is in a `cluster`, and jobs are at a Redis of their own.
    """

    def __init__(self, *, apis: int, workers: int, model: str, shards: int = 1) -> None:
        binary = server_binary()
        assert binary is not None, "a redis-server is needed"
        self._folder = tempfile.TemporaryDirectory(prefix="service-chaos-")
        self.jobs_redis = RedisServer(binary, tcp=True).start()
        self.cluster = Cluster(binary, "default", shards, proxied=True) if shards > 1 else None
        if self.cluster is None:
            self.proxies = [Proxy(self.jobs_redis.url), Proxy(self.jobs_redis.url)]
            self._urls = {"api": self.proxies[0].url, "worker": self.proxies[1].url}
            self._urls["jobs"] = self.jobs_redis.url
        else:
            self.proxies = self.cluster.proxies
            self._urls = dict.fromkeys(("api", "worker", "jobs"), self.cluster.url)
        self.ports = [free_port() for _ in range(apis)]
        self.apis = [self._seat(f"api{n}", self._api(n)) for n in range(apis)]
        self.workers = [self._seat(f"worker{n}", self._worker(n, model)) for n in range(workers)]
        self.jobs = self._seat("jobs", self._jobs)
        self.emptied_at: list[float] = []
        self._keeper: asyncio.Task[None] | None = None

    @property
    def servers(self) -> list[RedisServer]:
        """Every Redis."""
        return [self.jobs_redis, *(self.cluster.servers if self.cluster else [])]

    def any_redis(self, rng: random.Random) -> RedisServer:
        """One of them by chance, which costs no chance where there is one only."""
        return self.jobs_redis if self.cluster is None else rng.choice(self.servers)

    @property
    def shards(self) -> Sequence[Shard]:
        """The shards of the queue."""
        return self.cluster.shards if self.cluster else shards_of("default", [self.jobs_redis.url], 1)

    def heal(self) -> None:
        """New connections work."""
        for proxy in self.proxies:
            proxy.heal()

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
                while why := await why_not_ready(client, url):
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"{url} is not ready after {timeout_s:g} s: {why}")
                    await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Ends everything and removes what it left."""
        if self._keeper is not None:
            self._keeper.cancel()
        for seat in self.seats:
            seat.process.close()
        if self.cluster is None:
            for proxy in self.proxies:
                proxy.close()
        else:
            self.cluster.close()
        self.jobs_redis.close()
        self._folder.cleanup()

    def logs(self, lines: int = 30) -> str:
        """The last lines of every process, those about requests left out."""
        shown = []
        for seat in self.seats:
            said = [line for line in seat.process.said().splitlines() if '"action":"request"' not in line]
            shown += [f"-- {seat.name}", *said[-lines:]]
        return "\n".join(shown)

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

    def _environment(self, role: str, **more: object) -> dict[str, str]:
        values = {
            "redis_url": self._urls[role],
            "lease_ms": LEASE_MS,
            "threads": 1,
            "log_format": "json",
            **more,
        }
        if self.cluster is not None:
            values |= {"shards": len(self.shards), "jobs_redis_url": self.jobs_redis.url}
        return {f"MILLRACE_{name.upper()}": as_user(str(value), role) for name, value in values.items()}

    def _api(self, number: int) -> Callable[[], Process]:
        settings = self._environment("api", port=self.ports[number])
        return lambda: ForkedProcess(f"api{number}", millrace("api"), settings, Path(self._folder.name))

    def _worker(self, number: int, model: str) -> Callable[[], Process]:
        stub = {"stub_batch_ms": 8, "stub_token_ms": 0.05, "batch_timeout_s": 5}
        settings = self._environment("worker", model=model, **stub)
        command = [sys.executable, "-m", "batcher"]
        return lambda: ForkedProcess(f"worker{number}", command, settings, Path(self._folder.name))

    def _jobs(self) -> Process:
        settings = self._environment("jobs")
        return ForkedProcess("jobs", millrace("jobs"), settings, Path(self._folder.name))


async def why_not_ready(client: httpx.AsyncClient, url: str) -> str:
    """What /readyz says, and whether /livez would have the process restarted; empty once it is ready."""
    try:
        ready, live = await client.get(f"{url}/readyz"), await client.get(f"{url}/livez")
    except httpx.TransportError as error:
        return repr(error)
    said = ready.json() if ready.status_code == 200 else {}
    every = said.get("shards_up", 1) == said.get("shards", 1)
    return "" if said and every else f"/readyz: {ready.text} /livez: {live.text}"
