"""The model as every peer that runs Python code loads it: transformers' classes, torch in f32, all cores."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

# How many requests make a batch (of texts, where a service counts those), and how long it waits for more.
BATCH = 32
BATCH_TEXTS = 256
WAIT_MS = 5
# How many texts of a batch the model gets at once.
CHUNK = 32


class Classifier:
    """Classifies lists of texts. MODEL is the folder of the checkpoint."""

    def __init__(self) -> None:
        # Some of the services set one thread for their workers.
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._tokenizer = AutoTokenizer.from_pretrained(os.environ["MODEL"])
        self._model = AutoModelForSequenceClassification.from_pretrained(os.environ["MODEL"]).eval()
        self._labels = self._model.config.id2label

    def classify(self, requests: list[list[str]]) -> list[list[list[dict[str, Any]]]]:
        """For each request, for each of its texts, the labels and scores in the order of the label ids."""
        texts = [text for request in requests for text in request]
        # Texts of similar length together, so that little is padded.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        scores = dict(zip(order, self._scores([texts[at] for at in order]), strict=True))
        numbers = iter(range(len(texts)))
        return [[self._labelled(scores[next(numbers)]) for _ in request] for request in requests]

    @torch.inference_mode()
    def _scores(self, texts: list[str]) -> list[list[float]]:
        scores = []
        for start in range(0, len(texts), CHUNK):
            options = {"padding": True, "truncation": True, "return_tensors": "pt"}
            encoded = self._tokenizer(texts[start : start + CHUNK], **options)
            scores += self._model(**encoded).logits.softmax(-1).tolist()
        return scores

    def _labelled(self, scores: list[float]) -> list[dict[str, Any]]:
        return [{"label": self._labels[at], "score": score} for at, score in enumerate(scores)]
