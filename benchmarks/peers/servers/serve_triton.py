"""Triton, which PyTriton starts: dynamic batches of texts for Python code, and its response cache."""

from __future__ import annotations

import sys

import numpy as np
from classifier import BATCH_TEXTS, WAIT_MS, Classifier
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

CACHE_BYTES = 64 * 2**20
classifier = Classifier()


@batch
def classify(text: np.ndarray) -> dict[str, np.ndarray]:
    """Labels (bytes) and scores (f32), both texts x labels, of texts x 1 in UTF-8."""
    (found,) = classifier.classify([[line.decode() for line in text[:, 0]]])
    labels = [[each["label"].encode() for each in labels] for labels in found]
    scores = [[each["score"] for each in labels] for labels in found]
    return {"label": np.array(labels), "score": np.array(scores, np.float32)}


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(sys.argv[1]),
        allow_grpc=False,
        allow_metrics=False,
        cache_config=[f"local,size={CACHE_BYTES}"],
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="classify",
            infer_func=classify,
            inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
            outputs=[
                Tensor(name="label", dtype=bytes, shape=(-1,)),
                Tensor(name="score", dtype=np.float32, shape=(-1,)),
            ],
            config=ModelConfig(
                max_batch_size=BATCH_TEXTS,
                batcher=DynamicBatcher(max_queue_delay_microseconds=WAIT_MS * 1000),
                response_cache=True,
            ),
        )
        triton.serve()
