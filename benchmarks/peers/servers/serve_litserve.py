"""LitServe: one worker process, which gets up to BATCH requests at once."""

from __future__ import annotations

import sys
from typing import Any

import litserve
from classifier import BATCH, WAIT_MS, Classifier


class Classify(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._classifier = Classifier()

    # LitServe gives the annotations of requests and answers to its endpoint. Where they are text (PEP 563),
    # FastAPI takes the request for a parameter of the query, and refuses every one with 422.
    def decode_request(self, request):
        return request["text"]

    def batch(self, inputs: list[list[str]]) -> list[list[str]]:
        return inputs

    def predict(self, inputs: list[list[str]]) -> list[Any]:
        return self._classifier.classify(inputs)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output):
        return {"predictions": output}


if __name__ == "__main__":
    api = Classify(max_batch_size=BATCH, batch_timeout=WAIT_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
