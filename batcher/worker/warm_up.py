"""The warm-up of a worker: what the engine compiles is compiled, and the cost of a pass is known."""

from __future__ import annotations

import time

from batcher.worker.batching import CostModel
from batcher.worker.inference import check_rows
from model_store import Classifier
from model_store.layout import computed_tokens

# Tokens of the passes that the cost is learnt from, about.
SIZES = (16, 64, 128, 256, 512)


def warm_up(classifier: Classifier) -> CostModel:
    """Runs passes of growing size: the first round compiles, the cost is learnt from the second.

    Raises what the model raises: a model that cannot do this must not become ready.
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
