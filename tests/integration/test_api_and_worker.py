"""The whole service in one process: HTTP API, hub, caches, queue, worker and stub, on a fake Redis."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from hashlib import sha256

import fakeredis
import httpx
import pytest
from pydantic import ValidationError

from api.main import create_app
from api.parts import Backends
from api.predict.handler import PredictMiddleware
from api.settings import ApiSettings
from batcher.connection.pipeline import Pipeline
from batcher.core.keys import prefix
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import SharedCache
from batcher.settings import WorkerSettings
from batcher.worker import exchange, loop
from batcher.worker.cache_writer import remember
from batcher.worker.loop import Worker
from model_store.stub import StubClassifier
from tests.fakes import Gated, counted, heartbeat_queue, shard_hub
from tests.servers import leftovers
from tests.threads import run_worker


class Service:
    """One Redis; apis and workers on it. `cache_here`: the queue's scripts read and write the cache."""

    def __init__(self, stack: contextlib.AsyncExitStack, *, cache_here: bool) -> None:
        self.cache_here = cache_here
        self.server = fakeredis.FakeServer(version=(7,))
        self.batch_sizes: list[int] = []
        self._stack = stack

    def _aio(self) -> fakeredis.FakeAsyncRedis:
        return fakeredis.FakeAsyncRedis(server=self.server)

    def sync(self) -> fakeredis.FakeRedis:
        client = fakeredis.FakeRedis(server=self.server)
        self._stack.callback(client.close)
        return client

    async def api(
        self, cap: int = 100_000, **settings: object
    ) -> tuple[PredictMiddleware, httpx.AsyncClient]:
        part = shard_hub(self._aio(), self._aio(), name="t", cost=cap, cache_here=self.cache_here)
        app = create_app(
            ApiSettings(**settings),  # type: ignore[arg-type]
            Backends(ReplyHub([part]), SharedCache(Pipeline(self._aio()), "t")),
        )
        await self._stack.enter_async_context(app.app.router.lifespan_context(app.app))
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=20)
        return app, await self._stack.enter_async_context(client)

    def worker(self, classifier: StubClassifier | None = None) -> None:
        settings = WorkerSettings()
        stub = counted(classifier or StubClassifier(), self.batch_sizes)
        commands, waiting, heartbeat = (
            heartbeat_queue(
                self.sync(),
                "t",
                "w1",
                lease_ms=2000,
                max_attempts=3,
                result_ms=60_000,
                revision=stub.info.revision,
                cache_ms=3_600_000 if self.cache_here else 0,
            )
            for _ in range(3)
        )
        queues = exchange.Queues(commands, waiting, heartbeat)
        keep = partial(remember, self.sync(), "t", 3600.0)
        worker = Worker(stub, queues, settings, lambda results, claimed_at: keep(results))
        run_worker(worker, self._stack)

    def left_over(self) -> list[bytes]:
        return leftovers(self.sync())


@pytest.fixture(params=[False, True], ids=["cache apart", "cache here"])
async def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    async with contextlib.AsyncExitStack() as stack:
        yield Service(stack, cache_here=request.param)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(500):
        if await true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came true")


async def is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def ready(client: httpx.AsyncClient) -> None:
    await until(lambda: is_ready(client))


def texts_run(service: Service) -> int:
    return sum(service.batch_sizes)


async def test_computed_once_then_known_to_this_process_and_to_the_next(service: Service) -> None:
    service.worker()
    _, first = await service.api()
    _, second = await service.api()
    await ready(first)
    await ready(second)
    body = {"text": ["I love you!", "I hate you!", ""]}
    answers = [await first.post("/predict", json=body) for _ in range(2)]

    async def remembered() -> bool:  # the worker writes the cache beside the answer, not before it
        return len(service.sync().keys("millrace:cache:*")) == 3

    await until(remembered)
    answers += [await second.post("/predict", json=body) for _ in range(2)]
    assert [answer.headers["x-cache"] for answer in answers] == ["MISS", "HIT", "HIT", "HIT"]
    assert len({answer.content for answer in answers}) == 1
    assert {sum(pair["score"] for pair in pairs) for pairs in answers[0].json()["predictions"]} == {1.0}
    assert texts_run(service) == 3
    mixed = await second.post("/predict", json={"text": ["I hate you!", "new", "I love you!"]})
    assert mixed.headers["x-cache"] == "PARTIAL"
    assert mixed.json()["predictions"][::2] == answers[0].json()["predictions"][1::-1]
    assert texts_run(service) == 4


async def test_a_crowd_with_one_question_costs_one_inference(service: Service) -> None:
    service.worker()
    apis = [(await service.api(local_cache_entries=0))[1] for _ in range(2)]
    for client in apis:
        await ready(client)
    asked = [client.post("/predict", json={"text": ["the same"]}) for client in apis for _ in range(100)]
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert texts_run(service) == 1


async def test_who_leaves_leaves_nothing_in_the_queue(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The busy worker claims nothing in advance, as it would if its batch_sizes were long.
    monkeypatch.setattr(loop, "CLAIM_AHEAD_S", 60.0)
    classifier = Gated()
    service.worker(classifier)
    app, client = await service.api()
    await ready(client)
    busy = asyncio.create_task(client.post("/predict", json={"text": ["keeps the worker busy"]}))

    async def running() -> bool:
        return texts_run(service) == 1

    async def waiting() -> bool:
        return service.sync().llen(f"{prefix('t')}:q") == 1

    await until(running)
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": b'{"text": ["never mind"]}'}]

    async def receive() -> dict[str, object]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        raise AssertionError("the client has left")

    leaving = asyncio.create_task(
        app({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)
    )
    await until(waiting)
    gone.set()
    await leaving

    async def cancelled() -> bool:
        return len(service.sync().keys(f"{prefix('t')}:entry:*")) == 1

    await until(cancelled)
    classifier.gate.set()
    assert (await busy).status_code == 200

    async def nothing_left() -> bool:
        return not service.left_over()

    await until(nothing_left)
    assert texts_run(service) == 1


async def test_redis_lost_is_said_at_once_and_known_texts_are_still_answered(service: Service) -> None:
    service.worker()
    _, client = await service.api()
    await ready(client)
    assert (await client.post("/predict", json={"text": ["known"]})).status_code == 200
    service.server.connected = False

    async def lost() -> bool:
        return not await is_ready(client)

    await until(lost)
    refused = await client.post("/predict", json={"text": ["unknown"]})
    assert (refused.status_code, refused.json()["code"]) == (503, "redis_unavailable")
    assert refused.elapsed.total_seconds() < 5, "the budget of 10 s passed"
    known = await client.post("/predict", json={"text": ["known"]})
    assert (known.status_code, known.headers["x-cache"]) == (200, "HIT")
    service.server.connected = True
    await ready(client)
    assert (await client.post("/predict", json={"text": ["unknown"]})).status_code == 200


@contextlib.contextmanager
def kept_by_cycles() -> Iterator[list[str]]:
    """What of a request only the garbage collector would have ended; known once the block has."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        ours = ("api.", "batcher.errors", "batcher.hub.", "batcher.connection.pipeline")
        found += [type(one).__name__ for one in gc.garbage if type(one).__module__.startswith(ours)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_refusals_leave_nothing_to_the_garbage_collector(service: Service) -> None:
    """Collections that stop the process for 40 ms came every half second while the service shed load."""
    service.worker(StubClassifier(batch_ms=200.0))
    _, client = await service.api(cap=8)
    await ready(client)

    async def asked(content: bytes, wait_s: float = 9.0) -> int:
        answer = await client.post("/predict", content=content, headers={"prefer": f"wait={wait_s}"})
        return answer.status_code

    async def one_text(number: int, wait_s: float = 9.0) -> int:
        return await asked(b'{"text": ["number %d"]}' % number, wait_s)

    async def one_answered() -> bool:
        return await one_text(1000) == 200

    with kept_by_cycles() as kept:
        await until(one_answered)  # the first collection takes so long that commands may time out
        crowd = await asyncio.gather(*(one_text(number) for number in range(40)))
        late = [await one_text(number, 0.01) for number in range(100, 105)]
        bad = [await asked(body) for body in (b"{", b'{"text": []}', b'{"text": [1]}') for _ in range(5)]
        known = [await one_text(crowd.index(200)) for _ in range(5)]
        await asyncio.sleep(0.5)
    assert crowd.count(429) > 20
    assert crowd.count(200) >= 1
    assert (set(late), set(bad), set(known)) == ({504}, {422}, {200})
    assert kept == []


def _key(name: str) -> dict[str, str]:
    return {"x-api-key": f"key of {name}"}


KEYS = ",".join(f"{name}:{sha256(f'key of {name}'.encode()).hexdigest()}" for name in ("web", "phone"))


@pytest.mark.parametrize("local_cache_entries", [0, 1000])
async def test_finding_21_clients_that_are_kept_apart_learn_nothing_of_each_other(
    service: Service, local_cache_entries: int
) -> None:
    """Neither by X-Cache nor by the time: cache, kept results and runs under way are each client's own."""
    service.worker(StubClassifier(batch_ms=50.0))
    settings = {"api_keys": KEYS, "separate_clients": True, "local_cache_entries": local_cache_entries}
    _, client = await service.api(**settings)
    await ready(client)
    body = {"text": ["a secret of one of them"]}
    names = ["web"] * 20 + ["phone"] * 20
    crowd = await asyncio.gather(*(client.post("/predict", json=body, headers=_key(name)) for name in names))
    assert {answer.status_code for answer in crowd} == {200}
    assert len({answer.content for answer in crowd}) == 1
    assert texts_run(service) == 2, "once for each client, who shares it with itself"
    once = {"text": ["another one"]}

    async def cache_of(name: str) -> str:
        return str((await client.post("/predict", json=once, headers=_key(name))).headers["x-cache"])

    assert await cache_of("web") == "MISS"
    assert await cache_of("phone") == "MISS"
    assert texts_run(service) == 4
    await until(lambda: _remembered(service, 4))
    assert [await cache_of("web"), await cache_of("phone")] == ["HIT", "HIT"]


async def _remembered(service: Service, texts: int) -> bool:
    return len(service.sync().keys("millrace:cache:*")) == texts


async def test_without_that_setting_clients_share_results(service: Service) -> None:
    service.worker()
    _, client = await service.api(api_keys=KEYS)
    await ready(client)
    answers = [
        await client.post("/predict", json={"text": ["known"]}, headers=_key(name))
        for name in ("web", "phone")
    ]
    assert [answer.headers["x-cache"] for answer in answers] == ["MISS", "HIT"]


def test_finding_21_clients_without_keys_cannot_be_kept_apart() -> None:
    with pytest.raises(ValidationError, match="MILLRACE_API_KEYS"):
        ApiSettings(separate_clients=True)
