"""What `benchmarks.hit` compares: the same answer to the same request, from less and less of a framework.

python -m benchmarks.hit_servers NAME PORT [REDIS_URL]
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import uvicorn

from batcher.core.redis_watch import RedisWatch
from batcher.core.snapshot import NO_SNAPSHOT, ModelRecord, Snapshot
from batcher.errors import MillraceError
from batcher.hub.pending import HubCounts
from batcher.messages import Prediction, entry_id, fragment

TEXTS = ("I love you!", "I hate you!", "I am a Kubernetes Cluster!")
LABELS = ("NEGATIVE", "POSITIVE")
SCORES = ((0.0001292, 0.9998708), (0.9996204, 0.0003796), (0.8273143, 0.1726857))
# A copy in the process lives for a tenth of this: longer than the whole benchmark.
TTL_S = 86_400
REVISION = "0123456789ab" + "0" * 52


def echo() -> Any:
    """Bare ASGI: reads the body and sends it back. The limit that uvicorn sets."""
    headers = [(b"content-type", b"application/json")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = (await receive())["body"]
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": body})

    return app


def plain_models() -> Any:
    """FastAPI as its tutorial has it: a model in, a model out, a dictionary for the cache."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Texts(BaseModel):
        text: list[str]

    class LabelScore(BaseModel):
        label: str
        score: float

    class Predictions(BaseModel):
        predictions: list[list[LabelScore]]

    known = {text: _scored(LabelScore, scores) for text, scores in zip(TEXTS, SCORES, strict=True)}
    app = FastAPI()

    async def predict(request: Texts) -> Predictions:
        return Predictions(predictions=[known[text] for text in request.text])

    predict.__annotations__ = {"request": Texts, "return": Predictions}
    app.post("/predict")(predict)
    return app


def plain_request() -> Any:
    """FastAPI without its models: the Request taken, JSON read and written by the standard library."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse

    known = {text: _scored(dict, scores) for text, scores in zip(TEXTS, SCORES, strict=True)}
    app = FastAPI()

    async def predict(request: Request) -> JSONResponse:
        texts = (await request.json())["text"]
        return JSONResponse({"predictions": [known[text] for text in texts]})

    predict.__annotations__ = {"request": Request, "return": JSONResponse}
    app.post("/predict")(predict)
    return app


def millrace() -> Any:
    """The edge as it is served, its in-process cache filled by the first request."""
    return _millrace()


def millrace_shared() -> Any:
    """The same with the in-process cache off: each request asks the shared cache in Redis."""
    return _millrace(local_cache_entries=0)


def uncounted() -> Any:
    """The API with metrics that count nothing, for `benchmarks.metrics_cost`."""
    from api.metrics import Metrics

    Metrics.request = Metrics.entries = lambda *_: None  # type: ignore[method-assign, assignment]
    return _millrace()


SERVERS: dict[str, Callable[[], Any]] = {
    "echo": echo,
    "plain_models": plain_models,
    "plain_request": plain_request,
    "millrace": millrace,
    "millrace_shared": millrace_shared,
    "uncounted": uncounted,
}


class NoConsole:
    """Takes the counts of clients, and adds them up nowhere."""

    parts = ()

    def run(self, command: Any) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result([0 for _ in command.rows])
        return done

    def send_to_all(self, command: Any) -> None: ...


class KnownMill:
    """A hub whose model is known and whose queue is never asked: every text is in the cache."""

    alive = reachable = True
    trouble = ""
    looks = False
    waiting = 0
    counts = HubCounts()
    outages = 0
    asked_at = 0.0
    shards_up = (True,)
    redis_watch = RedisWatch()
    console = NoConsole()
    on_sweep: Callable[[], None] = staticmethod(lambda: None)
    snapshot: Snapshot = replace(
        NO_SNAPSHOT,
        model=ModelRecord("bench", REVISION, LABELS, 512, "none", "f32"),
        workers=1,
    )

    async def start(self) -> None: ...

    async def stop(self, why: MillraceError | None = None) -> None: ...

    async def look(self) -> None: ...

    def pause(self, decided: Any) -> None: ...

    async def workers(self) -> tuple[()]:
        return ()

    async def classify(self, ids: Sequence[str], texts: Sequence[str], **_: object) -> Any:
        raise AssertionError("a text that the cache should know reached the queue")


def fill_cache(redis_url: str) -> None:
    """Writes the three predictions as a worker would."""
    import redis

    from batcher.worker.cache_writer import remember

    results = []
    for text, scores in zip(TEXTS, SCORES, strict=True):
        prediction = Prediction(fragment(LABELS, scores), REVISION, 6)
        results.append((entry_id(text), prediction))
    with redis.Redis.from_url(redis_url) as client:
        remember(client, "default", TTL_S, results)


def _millrace(**settings: Any) -> Any:
    from pydantic import SecretStr

    from api.main import create_app
    from api.parts import Backends
    from api.settings import ApiSettings

    chosen = ApiSettings(
        redis_url=SecretStr(sys.argv[3]),
        cache_ttl_s=TTL_S,
        **{"moderation_labels": "NEGATIVE=harassment", **settings},
    )
    return create_app(chosen, Backends(KnownMill()))


def _scored(make: Callable[..., Any], scores: Sequence[float]) -> list[Any]:
    return [make(label=label, score=score) for label, score in zip(LABELS, scores, strict=True)]


def main() -> None:
    from batcher import logs

    logs.setup("info", "json")
    config = uvicorn.Config(
        SERVERS[sys.argv[1]](),
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
