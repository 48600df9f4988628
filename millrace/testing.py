"""A fake service for the tests of programs that use Millrace: no Redis, no worker, no network.

It is the application of the API, with everything in front of the queue: limits, caches, dialects, errors.
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from math import inf
from typing import Any

from api.lifecycle import Lifecycle
from api.main import create_app
from api.parts import Backends
from api.predict.handler import PredictMiddleware
from api.settings import ApiSettings
from batcher.core.commands import Command
from batcher.core.holds import Pause
from batcher.core.redis_watch import RedisWatch
from batcher.core.snapshot import NO_SNAPSHOT, ModelRecord, WorkerRecord
from batcher.errors import EntryFailed, MillraceError
from batcher.hub.pending import HubCounts
from batcher.messages import Outcome, Prediction, fragment

Scores = Mapping[str, float]
Answer = Callable[[str], Scores]
_REVISION = sha256(b"millrace.testing").hexdigest()


def even(text: str) -> Scores:
    """The same scores for every text."""
    return {"NEGATIVE": 0.5, "POSITIVE": 0.5}


def fake_app(answer: Answer = even, *, model: str = "fake", **settings: Any) -> PredictMiddleware:
    """The API, as an ASGI application whose lifespan need not run. Jobs and the console are left out.

    `answer` has the scores of a text by label, the same labels for every text. An exception that it raises is
    an error of the model (500 `inference_failed`). `model` is its name; `settings` are those of the API in
    lower case: api_keys, max_texts. Every host name is allowed unless `allowed_hosts` says otherwise.
    """
    lifecycle = Lifecycle()
    lifecycle.start()
    chosen = ApiSettings(**{"allowed_hosts": "*", "max_client_texts": 0, **settings})
    backends = Backends(_Hub(answer, model), _NoCache())
    return create_app(chosen, backends, lifecycle=lifecycle, without=("jobs", "console"))


class _Hub:
    """A queue whose texts are answered at once."""

    looks = reachable = alive = True
    shards_up = (True,)
    outages = waiting = 0
    asked_at = inf
    trouble = ""

    def __init__(self, answer: Answer, model: str) -> None:
        labels = tuple(answer(""))
        self._answer = answer
        self.snapshot = replace(
            NO_SNAPSHOT,
            model=ModelRecord(model, _REVISION, labels, 512, "fake", "f32"),
            workers=1,
            rate=1e6,
        )
        self.on_sweep: Callable[[], None] = lambda: None
        self.counts = HubCounts()
        self.redis_watch = RedisWatch()

    @property
    def console(self) -> _Hub:
        return self

    @property
    def parts(self) -> Sequence[_Hub]:
        return (self,)

    def run(self, command: Command[Any]) -> Future[Any]:
        """Remembers nothing: what clients have used is 0."""
        done: Future[Any] = get_running_loop().create_future()
        done.set_result([0 for _ in getattr(command, "rows", ())])
        return done

    def send_to_all(self, command: Command[Any]) -> None:
        """Nothing listens."""

    async def start(self) -> None:
        """Nothing runs beside requests."""

    async def stop(self, why: MillraceError | None = None) -> None:
        """Nothing runs beside requests."""

    async def look(self) -> None:
        """The snapshot does not change."""

    def pause(self, decided: Mapping[str, Pause]) -> None:
        """It is never paused."""

    async def workers(self) -> tuple[WorkerRecord, ...]:
        return ()

    async def classify(self, ids: Sequence[str], texts: Sequence[str], **_: Any) -> list[Outcome]:
        return [self._outcome(text) for text in texts]

    def _outcome(self, text: str) -> Outcome:
        try:
            scores = self._answer(text)
        except Exception as error:
            return EntryFailed(f"the model failed: {error!r}")
        return Prediction(fragment([*scores], [*scores.values()]), _REVISION, len(text.split()) + 2, 0)


class _NoCache:
    outages = 0

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]:
        return [None for _ in ids]

    async def close(self) -> None:
        """Nothing is open."""
