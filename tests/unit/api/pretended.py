"""A pretended mill: the edge above it is real, below it are no sockets, no Redis and no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import httpx

from api.edge import Edge
from api.main import create_app
from api.mill import Outcome
from api.settings import ApiSettings
from batcher.asks import HubCounts
from batcher.messages import (
    NO_SNAPSHOT,
    Lane,
    ModelRecord,
    Prediction,
    Snapshot,
    WorkerRecord,
    entry_id,
    fragment,
)
from batcher.outage import Outage
from batcher.policy import PolicyWatch

REVISION = "a1b2c3d4e5f6" + "0" * 52
OTHER_REVISION = "ffeeddccbbaa" + "0" * 52
MODEL = ModelRecord("stub", REVISION, ("NEGATIVE", "POSITIVE"), 512, "stub", "f32")
WORKER = WorkerRecord("w1", REVISION, "stub", "f32", "idle", 1000.0, 0, 0, 0, 0)
RUNNING = replace(NO_SNAPSHOT, model=MODEL, workers=(WORKER,))


def score(text: str) -> float:
    """A score that tells texts apart, between 0 and 1."""
    return int(entry_id(text)[:6], 16) / 16**6


def prediction(text: str, revision: str = REVISION, *, truncated: bool = False) -> Prediction:
    scores = (round(1 - score(text), 7), round(score(text), 7))
    return Prediction(
        fragment(MODEL.labels, scores),
        revision,
        3,
        truncated,
        queue_ms=1.5,
        tokenize_ms=0.2,
        model_ms=4.0,
        batch_size=2,
    )


@dataclass
class FakeHub:
    """Answers at once, from `answer`; remembers what it was asked."""

    snapshot: Snapshot = RUNNING
    alive: bool = True
    reachable: bool = True
    asked: list[list[str]] = field(default_factory=list)
    budgets: list[float] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)
    cancelled: int = 0
    refusal: Exception | None = None
    gate: asyncio.Event | None = None
    answer: Callable[[str], Outcome] = prediction
    running: bool = False
    waiting: int = 0
    counts: HubCounts = field(default_factory=HubCounts)
    outage: Outage = field(default_factory=Outage)
    policy: PolicyWatch = field(default_factory=PolicyWatch)

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def classify(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        budget_s: float,
        lane: Lane = "interactive",
        trace: str = "",
        first: bool = False,
    ) -> list[Outcome]:
        assert list(ids) == [entry_id(text) for text in texts]
        assert lane == "interactive"
        self.asked.append(list(texts))
        self.budgets.append(budget_s)
        self.traces.append(trace)
        if self.refusal is not None:
            raise self.refusal
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return [self.answer(text) for text in texts]


@dataclass
class FakeCache:
    """A shared cache by (revision, id)."""

    held: dict[tuple[str, str], tuple[Prediction, float]] = field(default_factory=dict)
    lookups: list[tuple[str, list[str]]] = field(default_factory=list)
    closed: bool = False

    def keep(self, text: str, life_s: float = 60.0, *, truncated: bool = False) -> None:
        self.held[REVISION, entry_id(text)] = (prediction(text, truncated=truncated), life_s)

    async def get(self, revision: str, ids: Sequence[str]) -> list[tuple[Prediction, float] | None]:
        self.lookups.append((revision, list(ids)))
        return [self.held.get((revision, entry)) for entry in ids]

    async def close(self) -> None:
        self.closed = True


@dataclass
class Service:
    """One running edge: its application, the fakes behind it, and a client in front."""

    app: Edge
    hub: FakeHub
    cache: FakeCache
    client: httpx.AsyncClient

    async def predict(self, *texts: str, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/predict", json={"text": texts}, headers=names)

    async def post(self, content: bytes, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post("/predict", content=content, headers=names)


Start = Callable[..., Awaitable[Service]]


@asynccontextmanager
async def running(hub: FakeHub, cache: FakeCache, settings: ApiSettings) -> AsyncIterator[Service]:
    app = create_app(settings, hub=hub, cache=cache)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=("192.0.2.7", 1234))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://mill") as client,
    ):
        yield Service(app, hub, cache, client)


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The answer is this error, in the one shape that errors have."""
    assert response.status_code == status, response.text
    body: dict[str, object] = response.json()
    assert body["code"] == code
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["detail"]
    return body
