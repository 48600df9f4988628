"""Warms up a worker: lets the engine compile what it needs and measures the cost of a forward pass."""

from __future__ import annotations

import time

from batcher.worker.inference import CostModel, check_rows
from model_store import Classifier
from model_store.rows import computed_tokens

# Approximate batch sizes, in tokens, from which the cost is learned.
SIZES = (16, 64, 128, 256, 512)


def warm_up(classifier: Classifier) -> CostModel:
    """Runs batches of increasing size twice: the first round compiles, the second measures the cost.

    Errors of the model are not caught: a worker whose model fails here must not become ready.
    """
    (word,) = classifier.tokenize(["warm"])
    check_rows(classifier.classify([word]), 1)
    for _ in range(2):
        cost = CostModel.start()
        for wanted in SIZES:
            texts = classifier.tokenize(["warm words " * 7] * max(1, wanted // 16))
            began = time.perf_counter()
            check_rows(classifier.classify(texts), len(texts))
            spent = time.perf_counter() - began
            cost = cost.learn(computed_tokens([len(text) for text in texts], classifier.info.layout), spent)
    return cost
