"""What a client returns: predictions, jobs and their progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from millrace_client.errors import TextError, body_of, not_millrace

JobStatus = Literal["queued", "running", "finished", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The score of each label, between 0 and 1, in the order of the model's label ids."""

    scores: Mapping[str, float]

    @property
    def label(self) -> str:
        """The label with the highest score."""
        return max(self.scores, key=self.scores.__getitem__)

    @property
    def score(self) -> float:
        """The highest score."""
        return self.scores[self.label]


Result = Prediction | TextError


@dataclass(frozen=True, slots=True)
class Job:
    """A job of the service. `position` is set while it is queued, `rate` (texts/s) while it is running."""

    id: str
    status: JobStatus
    total: int
    done: int
    failed: int
    position: int | None = None
    rate: float | None = None
    remaining_s: float | None = None
    model: str | None = None
    error_code: str = ""
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "running")


@dataclass(frozen=True, slots=True)
class Progress:
    """Texts with a result, out of `total` (None if unknown); `job` is set if a job computes them."""

    done: int
    total: int | None
    job: Job | None = None


OnProgress = Callable[[Progress], None]


def read_job(response: httpx.Response) -> Job:
    """Reads the answer to `GET /jobs/{id}`; ignores fields that this version does not know.

    Raises RequestError for that of another service.
    """
    try:
        return _job(body_of(response, "status"))
    except (TypeError, KeyError, AttributeError):
        raise not_millrace(response) from None


def _job(body: Any) -> Job:
    error = body.get("error") or {}
    return Job(
        id=body["id"],
        status=body["status"],
        total=body["total"],
        done=body["done"],
        failed=body["failed"],
        position=body.get("position"),
        rate=body.get("rate"),
        remaining_s=body.get("remaining_s"),
        model=body.get("model"),
        error_code=error.get("code", ""),
        error=error.get("detail", ""),
    )


def read_results(response: httpx.Response, first: int = 0, count: int | None = None) -> list[Result]:
    """Reads `predictions`, whose first text has the position `first`. There must be `count`, if given.

    Raises RequestError for the answer of another service.
    """
    predictions = body_of(response, "predictions")["predictions"]
    try:
        results = [_result(result, index) for index, result in enumerate(predictions, first)]
    except (TypeError, KeyError):
        raise not_millrace(response) from None
    if count is not None and len(results) != count:
        raise not_millrace(response)
    return results


def _result(result: Any, index: int) -> Result:
    if isinstance(result, dict):
        error = result["error"]
        return TextError(error["detail"], code=error["code"], index=index)
    if not result:
        raise KeyError("label")
    return Prediction({pair["label"]: pair["score"] for pair in result})
