"""A service that answers from a list of moods, and a clock that moves only when a client pauses."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from millrace_client import AsyncClient, Client, Options

# What happens to one request: an answer, an error, or None for the predictions.
Mood = httpx.Response | httpx.TransportError | None


def refusal(status: int, code: str, retry_after: str = "", **fields: object) -> httpx.Response:
    body = {"detail": f"because of {code}", "code": code, "request_id": "r1", **fields}
    return httpx.Response(status, json=body, headers={"retry-after": retry_after} if retry_after else {})


def full(retry_after: str = "") -> httpx.Response:
    return refusal(429, "queue_full", retry_after)


def scores(text: str) -> list[dict[str, object]]:
    """A prediction that distinguishes texts."""
    return [{"label": "NEGATIVE", "score": 0.25}, {"label": text, "score": 0.75}]


@dataclass
class FakeService:
    """Answers POST /predict. `moods` are for the first requests; the later ones are all answered."""

    moods: Iterator[Mood] = field(default_factory=lambda: iter(()))
    most_texts: int = 1024
    most_bytes: int = 2**21
    bad: frozenset[str] = frozenset()
    requests: list[httpx.Request] = field(default_factory=list)
    # The texts of every request that was answered.
    answered: list[list[str]] = field(default_factory=list)
    time: float = 1000.0
    pauses: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.requests.append(request)
            mood = next(self.moods, None)
        if isinstance(mood, httpx.TransportError):
            raise mood
        if mood is None and len(request.content) > self.most_bytes:
            return refusal(413, "too_large")
        return mood or self.predict(json.loads(request.content)["text"])

    def predict(self, texts: list[str]) -> httpx.Response:
        if len(texts) > self.most_texts:
            return refusal(413, "too_many_texts")
        for index, text in enumerate(texts):
            if text in self.bad:
                return refusal(422, "poison", index=index)
        with self._lock:
            self.answered.append(texts)
        return httpx.Response(200, json={"predictions": [scores(text) for text in texts]})

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.pauses.append(seconds)
            self.time += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def options(self, random: Callable[[], float] = lambda: 0.0, **options: Any) -> Options:
        return Options(now=self.now, random=random, **options)

    def client(self, random: Callable[[], float] = lambda: 0.0, **options: Any) -> Client:
        transport = httpx.MockTransport(self)
        return Client(
            "http://x", options=self.options(random, **options), transport=transport, sleep=self.sleep
        )

    def async_client(self, random: Callable[[], float] = lambda: 0.0, **options: Any) -> AsyncClient:
        made = self.options(random, **options)
        return AsyncClient("http://x", options=made, transport=httpx.MockTransport(self), sleep=self.asleep)


def moody(*moods: Mood) -> FakeService:
    return FakeService(iter(moods))


def labels(results: Iterable[Any]) -> list[str]:
    """The label of each prediction, which is its text."""
    return [result.label for result in results]
