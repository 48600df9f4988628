"""A whole service in one process, on a fake Redis: the API on a loopback port, and a worker (stub)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import fakeredis
import httpx
import pytest
import uvicorn

from api.main import create_app
from api.parts import Backends
from api.server.protocol import Connection
from api.settings import ApiSettings
from batcher.connection.pipeline import Pipeline
from batcher.errors import MillraceError, NoWorker, QueueFull
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import SharedCache
from batcher.messages import Outcome
from batcher.settings import WorkerSettings
from batcher.worker import exchange
from batcher.worker.heartbeat import HeartbeatQueue
from batcher.worker.loop import Worker
from model_store.stub import StubClassifier
from tests.fakes import heartbeat_queue, shard_hub
from tests.service import wait_until

SHED = QueueFull("too much is waiting", retry_after_s=3.0)
NO_WORKER = NoWorker("no worker is running", retry_after_s=2.0)
# Longer than the 512 tokens that the stub reads.
LONG = "lengthy " * 600
MAX_TEXTS = 4


class RefusableHub(ReplyHub):
    """Raises `refusal`, if there is one, in place of asking the queue."""

    refusal: MillraceError | None = None

    async def classify(self, *args: Any, **named: Any) -> list[Outcome]:
        if self.refusal is not None:
            raise self.refusal
        return await super().classify(*args, **named)


@dataclass
class Service:
    """The running service; `http` is a plain client of it."""

    url: str
    hub: RefusableHub
    http: httpx.Client

    def predict(self, *texts: str) -> list[list[dict[str, Any]]]:
        """What /predict answers."""
        answer = self.http.post("/predict", json={"text": texts})
        assert answer.status_code == 200, answer.text
        found: list[list[dict[str, Any]]] = answer.json()["predictions"]
        return found

    def scores(self, *texts: str) -> list[dict[str, float]]:
        """The scores by label."""
        return [{pair["label"]: pair["score"] for pair in pairs} for pairs in self.predict(*texts)]

    def sentence(self, body: dict[str, Any]) -> str:
        """What /predict says is wrong with a body."""
        detail = self.http.post("/predict", json=body).json()["detail"]
        return detail if isinstance(detail, str) else detail[0]["msg"]

    @contextmanager
    def refusing(self, refusal: MillraceError) -> Iterator[None]:
        """Texts that are not cached get this error."""
        self.hub.refusal = refusal
        try:
            yield
        finally:
            self.hub.refusal = None


@contextmanager
def running(*, worker: bool = True, **settings: Any) -> Iterator[Service]:
    """A service with these settings of the API."""
    redis = fakeredis.FakeServer(version=(7,))
    hubs: list[RefusableHub] = []

    def aio() -> fakeredis.FakeAsyncRedis:
        return fakeredis.FakeAsyncRedis(server=redis)

    def application() -> Any:
        part = shard_hub(aio(), aio(), name="t", cost=10**6, cache_here=True)
        hub = RefusableHub([part])
        hubs.append(hub)
        cache = SharedCache(Pipeline(aio()), "t")
        chosen = ApiSettings(max_texts=MAX_TEXTS, max_text_chars=6000, **settings)
        return create_app(chosen, Backends(hub, cache))

    config = uvicorn.Config(
        application, factory=True, port=0, http=Connection, ws="none", lifespan="on", log_config=None
    )
    with ExitStack() as stack:
        server = uvicorn.Server(config)
        _in_thread(stack, server.run, lambda: setattr(server, "should_exit", True))
        if worker:
            _start_worker(stack, redis)
        wait_until(lambda: server.started, "the server")
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://localhost:{port}"
        http = stack.enter_context(httpx.Client(base_url=url, timeout=20, trust_env=False))
        wait_until(lambda: http.get("/readyz").is_success is worker, "the service to be ready")
        yield Service(url, hubs[0], http)


def _start_worker(stack: ExitStack, redis: fakeredis.FakeServer) -> None:
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(exchange, "WAIT_S", 0.1)  # so that stopping an idle worker is quick
    classifier = StubClassifier()

    def queue() -> HeartbeatQueue:
        client = fakeredis.FakeRedis(server=redis)
        stack.callback(client.close)
        return heartbeat_queue(
            client,
            "t",
            "w1",
            lease_ms=2000,
            max_attempts=3,
            result_ms=60_000,
            revision=classifier.info.revision,
            cache_ms=3_600_000,
        )

    worker = Worker(classifier, exchange.Queues(queue(), queue(), queue()), WorkerSettings(), None)
    _in_thread(stack, worker.run, worker.stop)


def _in_thread(stack: ExitStack, run: Any, stop: Any) -> None:
    thread = threading.Thread(target=run)
    thread.start()
    stack.callback(thread.join)
    stack.callback(stop)
