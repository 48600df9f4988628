"""A hub in this process and workers in processes of their own, over one real Redis: to be hurt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_client
from pydantic import SecretStr

from batcher.hub.hub import ReplyHub
from batcher.messages import Prediction, entry_id
from batcher.settings import QueueSettings
from tests.proxy import Proxy
from tests.servers import RedisServer, as_user, leftovers
from tests.service import ForkedProcess, Process
from tests.signing import SIGNED, Checker, Revision, Said, rows_of

P = "{millrace:2:default}"


class HubAndWorkers:
    """Starts hubs and workers over `redis`; `ask` and `check` go through the first hub."""

    def __init__(self, redis: RedisServer, folder: Path) -> None:
        self.redis = redis
        self.client: redis_client.Redis = redis.client()
        self.hubs: list[ReplyHub] = []
        self.workers: list[Process] = []
        self._folder = folder
        self._settings: dict[str, object] = {"model": SIGNED, "threads": 1}
        # Those of the workers, which sign their answers.
        self._revisions = {SIGNED: Revision(SIGNED)}

    @property
    def hub(self) -> ReplyHub:
        return self.hubs[0]

    async def start(self, workers: int = 1, url: str = "", **settings: object) -> HubAndWorkers:
        """One hub (at `url`, else at Redis itself) and workers, all with `settings`; returns when ready."""
        self._settings |= settings
        await self.add_hub(url)
        for _ in range(workers):
            self.add_worker()
        await self.ready(workers)
        return self

    async def add_hub(self, url: str = "") -> ReplyHub:
        fields = {name: value for name, value in self._settings.items() if name in QueueSettings.model_fields}
        known: dict[str, Any] = {**fields, "redis_url": SecretStr(as_user(url or self.redis.url, "api"))}
        hub = ReplyHub.connect(QueueSettings(**known))
        await hub.start()
        self.hubs.append(hub)
        return hub

    def add_worker(
        self, url: str = "", environment: dict[str, str] | None = None, **settings: object
    ) -> Process:
        both = {"redis_url": url or self.redis.url, **self._settings, **settings}
        reference = str(both["model"])
        self._revisions.setdefault(reference, Revision(reference))
        variables = {
            f"MILLRACE_{name.upper()}": as_user(str(value), "worker") for name, value in both.items()
        }
        name = f"worker-{len(self.workers)}"
        command = [sys.executable, "-m", "batcher"]
        # A separate environment, such as PYTHONPATH, is for an interpreter that starts.
        process_type = Process if environment else ForkedProcess
        worker = process_type(name, command, {**variables, **(environment or {})}, self._folder)
        self.workers.append(worker)
        return worker

    async def ready(self, workers: int) -> None:
        """Returns when the first hub reaches Redis and sees that many live workers."""
        await self.until(
            lambda: self.hub.reachable and self.hub.snapshot.workers == workers,
            f"{workers} live workers",
            90,
        )

    async def until(self, true: Callable[[], Any], what: str, timeout_s: float = 20) -> Any:
        """The first true answer; fails with what every worker said."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not (answer := true()):  # noqa: ASYNC110 - what is waited for happens in another process
                    await asyncio.sleep(0.005)
                return answer
        raise AssertionError(f"waited {timeout_s} s for {what}\n{self.logs()}")

    async def ask(
        self, *texts: str, budget_s: float = 20, hub: ReplyHub | None = None, **more: Any
    ) -> list[Any]:
        """The outcomes of a request, as the hub gives them."""
        asked = [entry_id(text) for text in texts]
        return await (hub or self.hub).classify(asked, texts, budget_s=budget_s, **more)

    async def check(self, *texts: str, budget_s: float = 20, hub: ReplyHub | None = None) -> list[Prediction]:
        """Asks, and every answer must be the right one, in order."""
        outcomes = await self.ask(*texts, budget_s=budget_s, hub=hub)
        assert all(isinstance(outcome, Prediction) for outcome in outcomes), outcomes
        assert len(outcomes) == len(texts)
        checker = Checker([*self._revisions.values()])
        for text, outcome in zip(texts, outcomes, strict=True):
            name = f"{outcome.model}@{outcome.revision[:12]}"
            assert checker.wrong(Said([text], rows_of([json.loads(outcome.fragment)]), [name])) == [], outcome
        return outcomes

    def in_flight(self) -> int:
        return int(self.client.zcard(f"{P}:inflight"))

    def computed(self) -> int:
        """Texts that the live workers say they ran."""
        records = [self.client.hgetall(key) for key in self.client.scan_iter(f"{P}:worker:*")]
        return sum(int(record[b"texts"]) for record in records)

    def leftovers(self) -> list[bytes]:
        return leftovers(self.client)

    async def empty(self) -> None:
        """Fails unless the queue is soon empty."""
        await self.until(lambda: not self.leftovers(), "the queue to be empty")

    def logs(self) -> str:
        return "\n".join(f"-- {worker.name}\n{worker.said()}" for worker in self.workers)

    async def close(self) -> None:
        for hub in self.hubs:
            await hub.stop()
        for worker in self.workers:
            worker.close()
        self.client.close()


@pytest.fixture
async def service(redis_server: RedisServer) -> AsyncIterator[HubAndWorkers]:
    """Not started yet: `await service.start(workers=2, lease_ms=500)`."""
    with tempfile.TemporaryDirectory(prefix="service-faults-") as folder:
        made = HubAndWorkers(redis_server, Path(folder))
        yield made
        await made.close()


@pytest.fixture
def proxies() -> Iterator[Callable[[str], Proxy]]:
    """Makes proxies: `proxies(redis_server.url)`."""
    made: list[Proxy] = []

    def make(target: str) -> Proxy:
        made.append(Proxy(target))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()
