"""The answers in the results of a batch: those of /v1/moderations and /v1/classify for one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.batches.lines import error_body
from api.compat import openai, vllm
from api.compat.openai import Moderation, is_name_of_openai
from api.compat.reading import parse, texts_of
from api.compat.service import DialectService
from api.errors import Problem

# The scores of one text, as a job keeps them: label and score of each.
Scores = list[dict[str, Any]]


class BatchAnswers:
    """Finds the models that batches ask for, and writes answers."""

    def __init__(self, service: DialectService) -> None:
        self._service = service
        self._moderation = Moderation(service.settings)

    def model(self, endpoint: str, name: str | None) -> str:
        """The model of a line as clients call it, "" before the first worker.

        Raises Problem 400 if it is not served, or cannot answer this endpoint.
        """
        moderation = endpoint == "/v1/moderations"
        try:
            found = self._service.find(name, of_first=moderation and is_name_of_openai(name))
        except Problem as problem:
            problem.status = 400 if problem.status == 404 else problem.status
            raise
        if moderation and (model := found.hub.snapshot.model) is not None:
            self._moderation.categories(model.labels)
        return found.name

    def texts(self, endpoint: str, body: bytes) -> Sequence[str]:
        """The texts of a request to this endpoint. Raises Problem as the route does, but for their length."""
        if endpoint == "/v1/moderations":
            return openai.texts_in(parse(body, openai.ModerationRequest))
        asked = parse(body, vllm.ClassifyRequest)
        texts = texts_of(asked.input, "input")
        vllm.check_uncut(asked, texts)
        return texts

    def is_same(self, endpoint: str, name: str | None, model: str) -> bool:
        """Whether a line that asks for this name asks for this model."""
        try:
            return self.model(endpoint, name) == model
        except Problem:
            return False

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
            "data": [vllm.classify_result(0, pairs)],
        }
