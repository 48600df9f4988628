"""The model as every peer that runs Python code loads it: transformers' classes, torch in f32, all cores."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

# How many requests make a batch, and how long it waits for more.
BATCH = 32
WAIT_MS = 5


class Classifier:
    """Classifies lists of texts as one batch. MODEL is the folder of the checkpoint."""

    def __init__(self) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(os.environ["MODEL"])
        self._model = AutoModelForSequenceClassification.from_pretrained(os.environ["MODEL"]).eval()
        self._labels = self._model.config.id2label

    def classify(self, requests: list[list[str]]) -> list[list[list[dict[str, Any]]]]:
        """For each request, for each of its texts, the labels and scores in the order of the label ids."""
        texts = [text for request in requests for text in request]
        with torch.inference_mode():
            encoded = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            scores = iter(self._model(**encoded).logits.softmax(-1).tolist())
        return [[self._labelled(next(scores)) for _ in request] for request in requests]

    def _labelled(self, scores: list[float]) -> list[dict[str, Any]]:
        return [{"label": self._labels[at], "score": score} for at, score in enumerate(scores)]
