"""What a client returns: predictions, jobs and their progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import httpx

from millrace_client.errors import TextError, body_of, not_millrace

T = TypeVar("T", "Job", "Model")
JobStatus = Literal["queued", "running", "finished", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The score of each label, between 0 and 1, in the order of the model's label ids.

    `model` is the name of the model that answered, and `revision` the first digits of its revision; both are
    empty if the service does not say, as during a change of revisions.
    """

    scores: Mapping[str, float]
    model: str = ""
    revision: str = ""

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
class Model:
    """A model of the service. `first` is the one that answers if no model is named.

    Without a worker (`state` "no_worker"), only its name is known.
    """

    name: str
    first: bool
    state: str
    workers: int
    revision: str = ""
    labels: Sequence[str] = ()
    max_tokens: int | None = None


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
    return _known(Job, {**body, "error_code": error.get("code", ""), "error": error.get("detail", "")})


def _known(kind: type[T], body: Any) -> T:
    """A dataclass of the fields of `body` that it has."""
    return kind(**{field.name: body[field.name] for field in fields(kind) if field.name in body})


def read_results(response: httpx.Response, first: int = 0, count: int | None = None) -> list[Result]:
    """Reads `predictions`, whose first text has the position `first`. There must be `count`, if given.

    Raises RequestError for the answer of another service.
    """
    body = body_of(response, "predictions")
    # A cascade names the model of each text; otherwise the header names that of all, or several.
    named = response.headers.get("x-model", "")
    try:
        models = body.get("models") or ["" if "," in named else named] * len(body["predictions"])
        pairs = zip(body["predictions"], models, strict=True)
        results = [_result(result, index, model) for index, (result, model) in enumerate(pairs, first)]
    except (TypeError, KeyError, ValueError):
        raise not_millrace(response) from None
    if count is not None and len(results) != count:
        raise not_millrace(response)
    return results


def _result(result: Any, index: int, model: str) -> Result:
    if isinstance(result, dict) and "error" in result:
        error = result["error"]
        return TextError(error["detail"], code=error["code"], index=index)
    if isinstance(result, dict):  # of a job
        result, model = result["prediction"], result["model"] or ""
    if not result:
        raise KeyError("label")
    name, _, revision = model.partition("@")
    return Prediction({pair["label"]: pair["score"] for pair in result}, name, revision)


def read_models(response: httpx.Response) -> list[Model]:
    """Reads the answer to `GET /models`, with cascades. Raises RequestError for that of another service."""
    body = body_of(response, "models")
    try:
        models = [_model(one) for one in body["models"]]
        return models + [_model({"first": False, "workers": 0, **one}) for one in body.get("cascades") or ()]
    except (TypeError, KeyError, AttributeError):
        raise not_millrace(response) from None


def _model(found: Any) -> Model:
    labels = tuple(found.get("labels") or ())
    return _known(Model, {**found, "revision": found.get("revision") or "", "labels": labels})
