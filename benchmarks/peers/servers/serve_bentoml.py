"""BentoML: one worker process with adaptive batching, which counts texts and chooses its own wait."""

from __future__ import annotations

from typing import Any

import bentoml
from classifier import BATCH_TEXTS, Classifier


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1000})
class Classify:
    def __init__(self) -> None:
        self._classifier = Classifier()

    @bentoml.api(batchable=True, max_batch_size=BATCH_TEXTS, max_latency_ms=10_000)
    def predict(self, text: list[str]) -> list[list[dict[str, Any]]]:
        return self._classifier.classify([text])[0]
