"""The answers in the results of a batch: those of /v1/moderations and /v1/classify for one text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from api.batches.lines import error_body
from api.compat.moderation import Moderation
from api.compat.vllm import classify_result
from api.errors import Problem

# The scores of one text, as a job keeps them: label and score of each.
Scores = list[dict[str, Any]]


class BatchAnswers:
    """Writes answers. `labels` are those of the current model, or None before the first worker."""

    def __init__(self, moderation: Moderation, labels: Callable[[], Sequence[str] | None]) -> None:
        self._moderation = moderation
        self._labels = labels

    def check(self, endpoint: str) -> None:
        """Raises Problem 400 if the model cannot answer this endpoint."""
        labels = self._labels()
        if endpoint == "/v1/moderations" and labels is not None:
            self._moderation.categories(labels)

    def write(
        self, endpoint: str, request_id: str, model: str, created_s: int, scores: Scores
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer for one text: 400 if the labels in its result are not categories."""
        pairs = [(pair["label"], pair["score"]) for pair in scores]
        if endpoint == "/v1/moderations":
            try:
                categories = self._moderation.categories(label for label, _ in pairs)
            except Problem as problem:
                return problem.status, error_body(problem.code, str(problem.detail), problem.status)
            result = self._moderation.result(pairs, categories)
            return 200, {"id": f"modr-{request_id}", "model": model, "results": [result]}
        return 200, {
            "id": f"classify-{request_id}",
            "object": "list",
            "created": created_s,
            "model": model,
            "data": [classify_result(0, pairs)],
        }
