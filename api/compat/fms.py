"""The detector API of the FMS guardrails orchestrator: `POST /api/v1/text/contents`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, RootModel
from pydantic_core import to_json

from api.asgi.http import Answer, check_size
from api.compat.dialect import Dialect, Route, json_answer
from api.compat.fields import ClosedFields, Fields
from api.compat.reading import TextList, only_value, sentence, text_list
from api.compat.service import Call, Scores
from api.errors import Problem

# The header in which the orchestrator names the detector: here the model.
DETECTOR = b"detector-id"
# What a detection has in JSON beside the text and what /predict writes.
_BYTES_OF_DETECTION = 80


class DetectorParameters(ClosedFields):
    threshold: float = Field(default=0.5, ge=0, le=1, strict=True, description="The least score of a label")


class DetectorRequest(Fields):
    contents: TextList
    detector_params: DetectorParameters | None = None


class Detection(BaseModel):
    """A label of a whole text. `start` and `end` are in characters."""

    start: int
    end: int
    text: str
    detection: str
    detection_type: str
    score: float


class DetectorError(BaseModel):
    code: int
    message: str


class Detections(RootModel[list[list[Detection]]]):
    """One list per text, which is empty if no label reaches the threshold."""


class FmsDetector(Dialect):
    error = DetectorError

    def routes(self) -> Sequence[Route]:
        summary = "Labels of texts whose score reaches a threshold"
        return [Route("/api/v1/text/contents", self._detect, summary, DetectorRequest, Detections)]

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        return DetectorError(code=status, message=sentence(problem))

    async def _detect(self, call: Call) -> Answer:
        asked = await self.service.read(call, DetectorRequest)
        call.served = self.service.find(only_value(call.context.headers, DETECTOR).decode("latin-1"))
        threshold = (asked.detector_params or DetectorParameters()).threshold
        texts = text_list(asked.contents, "contents")
        all_labels = 0 if threshold else len(self.service.labels(call))
        found = await self.service.classify(call, texts, least=_repeated(texts, [all_labels] * len(texts)))
        reached = [sum(score >= threshold for _, score in scores) for scores in found.scores]
        size = sum([len(result.fragment) for result in found.results])
        check_size(size + _repeated(texts, reached), self.service.settings.max_answer_bytes)
        answer = (
            _detections(text, scores, threshold) for text, scores in zip(texts, found.scores, strict=True)
        )
        return json_answer(answer, [*found.headers, found.tokens_header])


def _repeated(texts: Sequence[str], labels: Sequence[int]) -> int:
    """About how many bytes of JSON each text and what is around it take, once for each of so many labels."""
    pairs = zip(texts, labels, strict=True)
    return sum(count * (len(to_json(text)) + _BYTES_OF_DETECTION) for text, count in pairs if count)


def _detections(text: str, scores: Scores, threshold: float) -> list[dict[str, Any]]:
    return [
        {
            "start": 0,
            "end": len(text),
            "text": text,
            "detection": label,
            "detection_type": label,
            "score": score,
        }
        for label, score in scores
        if score >= threshold
    ]
