"""Hubs and workers over several shards, in this process: on fake servers, or hubs on real ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import fakeredis

from batcher.errors import MillraceError, QueueUnavailable
from batcher.hub.hub import ReplyHub
from batcher.messages import Prediction, entry_id
from batcher.settings import QueueSettings, WorkerSettings
from batcher.shards import shard_of, shards_of
from batcher.worker.building import LoadedModel, build_worker, load_one
from batcher.worker.cache_writer import connect_writer
from batcher.worker.heartbeat import HeartbeatQueue
from batcher.worker.loop import Worker
from batcher.worker.observability import Observability
from batcher.worker.queue import Queues
from model_store.stub import StubClassifier
from tests.answers import right
from tests.fakes import counted, heartbeat_queue, shard_hub
from tests.servers import as_user, leftovers
from tests.signing import SIGNED
from tests.threads import run_worker

NAME = "t"


def texts_at(shard: int, shards: int, count: int, what: str = "text") -> list[str]:
    """Texts that belong to one shard."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        text = f"{what} {number}"
        number += 1
        if shard_of(entry_id(text), shards) == shard:
            found.append(text)
    return found


async def ask(hub: ReplyHub, *texts: str, budget_s: float = 60.0, **more: Any) -> list[Any]:
    return await hub.classify([entry_id(text) for text in texts], texts, budget_s=budget_s, **more)


async def check(hub: ReplyHub, *texts: str, **more: Any) -> list[Prediction]:
    """Asks, and every answer must be the right one, in order."""
    outcomes = await ask(hub, *texts, **more)
    assert [outcome.fragment for outcome in outcomes] == right(*texts, model=SIGNED)
    return outcomes


async def until(true: Callable[[], Any], what: str, timeout_s: float = 60) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not true():  # noqa: ASYNC110 - what is waited for happens in threads and servers
                await asyncio.sleep(0.005)
            return
    raise AssertionError(f"waited {timeout_s} s for {what}")


class Fleet:
    """Fake servers, one for each shard, and hubs and workers that know them."""

    def __init__(self, shards: int) -> None:
        self.servers = [fakeredis.FakeServer(version=(7,)) for _ in range(shards)]
        self.clients = [fakeredis.FakeRedis(server=server) for server in self.servers]
        self.batch_sizes: list[int] = []
        self._opened: list[Any] = []
        self._stack = contextlib.AsyncExitStack()
        self._workers = 0

    def _shards(self, count: int | None) -> Sequence[Any]:
        return shards_of(NAME, [str(number) for number in range(count or len(self.servers))], 1)

    async def hub(self, shards: int | None = None, **more: Any) -> ReplyHub:
        """A running hub that knows the first `shards` of them, all by default."""
        hub = self.new_hub(shards, **more)
        await hub.start()
        self._stack.push_async_callback(hub.stop)
        return hub

    def new_hub(self, shards: int | None = None, **more: Any) -> ReplyHub:
        """As `hub`, but the caller starts and stops it."""

        def client(number: int) -> Any:
            made = fakeredis.FakeAsyncRedis(server=self.servers[number])
            self._opened.append(made)
            return made

        parts = [
            shard_hub(
                client(shard.number),
                client(shard.number),
                name=shard.name,
                cost=200_000,
                cache_name=shard.cache_name,
                **more,
            )
            for shard in self._shards(shards)
        ]
        return ReplyHub(parts)

    async def worker(
        self, home: int, classifier: Any = None, shards: int | None = None, **settings: Any
    ) -> Worker:
        """A worker that lives at `home` and knows the first `shards`, all by default."""
        chosen = WorkerSettings(**settings)
        self._workers += 1
        name = f"w{self._workers}"

        def queue(shard: Any) -> HeartbeatQueue:
            client = fakeredis.FakeRedis(server=self.servers[shard.number])
            return heartbeat_queue(
                client,
                shard.name,
                name,
                lease_ms=chosen.lease_ms,
                max_attempts=chosen.max_attempts,
                result_ms=60_000,
                revision=StubClassifier(variant="signed").info.revision,
                cache_ms=3_600_000,
                cache_name=shard.cache_name,
                helps=True,
            )

        every = [
            Queues(queue(shard), queue(shard), queue(shard), shard.number) for shard in self._shards(shards)
        ]
        others = tuple(queues for queues in every if queues.number != home)
        queues = every[home]._replace(others=others)
        model = counted(classifier or StubClassifier(variant="signed"), self.batch_sizes)
        worker = Worker(model, queues, chosen, lambda *results: None)
        run_worker(worker, self._stack)
        return worker

    async def ready(self, hub: ReplyHub, workers: int = 1) -> None:
        await until(lambda: hub.snapshot.workers >= workers and all(hub.shards_up), f"{workers} workers")

    def leftovers(self) -> list[bytes]:
        return [key for client in self.clients for key in leftovers(client)]

    async def close(self) -> None:
        await self._stack.aclose()
        for client in self._opened:
            await client.aclose()
        for sync in self.clients:
            sync.close()


class RealFleet:
    """Hubs and workers of this process over real servers, as the product starts them."""

    def __init__(self, **settings: Any) -> None:
        self._settings = {"name": NAME, "model": SIGNED, **settings}
        self.workers: list[Worker] = []
        self._stack = contextlib.AsyncExitStack()

    def _settings_of(self, role: str) -> dict[str, Any]:
        return {**self._settings, "redis_url": as_user(self._settings["redis_url"], role)}

    async def hub(self) -> ReplyHub:
        settings = self._settings_of("api")
        known = {name: value for name, value in settings.items() if name in QueueSettings.model_fields}
        hub = ReplyHub.connect(QueueSettings(**known))
        await hub.start(5.0)
        self._stack.push_async_callback(hub.stop)
        return hub

    async def worker(self) -> Worker:
        settings = WorkerSettings(**self._settings_of("worker"))
        instruments, cache = (
            Observability(load_one(settings, settings.model[0]), settings),
            connect_writer(settings),
        )
        model = LoadedModel("", build_worker(settings, instruments, cache), instruments, cache)
        self._stack.push_async_callback(asyncio.to_thread, model.close)
        run_worker(model.worker, self._stack)
        self.workers.append(model.worker)
        return model.worker

    async def start(self, workers: int) -> ReplyHub:
        hub = await self.hub()
        for _ in range(workers):
            await self.worker()
        what = f"{workers} workers and all shards"
        await until(lambda: hub.snapshot.workers == workers and all(hub.shards_up), what)
        return hub

    async def close(self) -> None:
        await self._stack.aclose()


class Traffic:
    """Requests of one text each, all the time. `wrong` must stay empty; `refused` is by shard."""

    def __init__(self, hub: ReplyHub, pause_s: float = 0.01) -> None:
        self.answered: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.wrong: list[object] = []
        self._hub, self._pause_s = hub, pause_s
        self._asked: set[asyncio.Task[None]] = set()
        self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        for number in itertools.count():
            task = asyncio.create_task(self._ask(f"traffic {number}"))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)
            await asyncio.sleep(self._pause_s)

    async def _ask(self, text: str) -> None:
        shard = shard_of(entry_id(text), len(self._hub.parts))
        try:
            (outcome,) = await ask(self._hub, text, budget_s=20.0)
        except QueueUnavailable:
            self.refused[shard] += 1
        except MillraceError as error:
            self.wrong.append(error)
        else:
            if [outcome.fragment] != right(text, model=SIGNED):
                self.wrong.append(outcome)
            self.answered[shard] += 1

    async def more(self, count: int, shards: Sequence[int]) -> None:
        """Returns when that many further texts of each of these shards have been answered."""
        wanted = {shard: self.answered[shard] + count for shard in shards}
        what = f"{count} answers of {shards}"
        await until(lambda: all(self.answered[shard] >= least for shard, least in wanted.items()), what)

    async def stop(self) -> None:
        """Returns when all that was asked has ended."""
        self._sending.cancel()
        await asyncio.gather(*self._asked)
