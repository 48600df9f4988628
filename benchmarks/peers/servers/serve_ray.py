"""Ray Serve: one replica, which gets up to BATCH requests at once."""

from __future__ import annotations

import sys
import time
from typing import Any

from classifier import BATCH, WAIT_MS, Classifier
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=1000)
class Classify:
    def __init__(self) -> None:
        self._classifier = Classifier()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_MS / 1000)
    async def classify(self, requests: list[list[str]]) -> list[Any]:
        return self._classifier.classify(requests)

    async def __call__(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        return {"predictions": await self.classify(body["text"])}


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classify.bind(), route_prefix="/predict")
    while True:
        time.sleep(60)
