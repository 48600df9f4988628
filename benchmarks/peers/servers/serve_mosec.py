"""mosec: one worker process, which gets up to BATCH requests at once."""

from __future__ import annotations

from typing import Any

from classifier import BATCH, WAIT_MS, Classifier
from mosec import Server, Worker


class Classify(Worker):
    def __init__(self) -> None:
        self._classifier = Classifier()

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = self._classifier.classify([body["text"] for body in data])
        return [{"predictions": predictions} for predictions in found]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classify, num=1, max_batch_size=BATCH, max_wait_time=WAIT_MS)
    server.run()
