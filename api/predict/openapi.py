"""What OpenAPI says of POST /predict beyond what the route shows."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from api.jobs.schemas import Job
from api.schemas import IDEMPOTENCY_KEY, Error, LabelScore, ValidationFailed


class Predictions(BaseModel):
    """One list per text, in the order of the request; in it each label, in label id order."""

    predictions: list[list[LabelScore]]

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "predictions": [
                    [{"label": "NEGATIVE", "score": 0.9996}, {"label": "POSITIVE", "score": 0.0004}],
                    [{"label": "NEGATIVE", "score": 0.0002}, {"label": "POSITIVE", "score": 0.9998}],
                ]
            }
        }
    )


def _header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}


def _error(text: str, model: type[BaseModel] = Error) -> dict[str, Any]:
    return {"model": model, "description": text}


PREDICT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One list of labels per text, in order. Or the job of this Idempotency-Key "
        "(Prefer: respond-async), when there is one",
        "headers": {
            "X-Request-ID": _header("Taken over from the request, or new"),
            "X-Cache": _header("HIT, MISS or PARTIAL: how many of the texts a cache knew"),
            "X-Model": _header("name@revision that answered; several during a change of model"),
            "X-Truncated": _header("Texts cut at the model's token limit; absent when none"),
            "Server-Timing": _header(
                "Milliseconds of cache, queue, tokenize, model, total; size of the batch"
            ),
        },
    },
    202: {
        "model": Job,
        "description": "Became a job (Prefer: respond-async)",
        "headers": {"Location": _header("Where to ask for it")},
    },
    401: _error("No valid API key, where keys are set"),
    403: _error(
        "Another host name than the service's (host_not_allowed), or a page of another site (cross_site)"
    ),
    408: _error("The body did not arrive in time"),
    409: _error("The Idempotency-Key belongs to a job with other texts (idempotency_conflict)"),
    413: _error("Body, number of texts or one text too large"),
    415: _error("Another content type than JSON, or a compressed body"),
    422: _error(
        "Not a valid request, or a text that ends every worker it meets (code poison)", ValidationFailed
    ),
    429: _error(
        "Shed: too much is waiting (queue_full, too_many_jobs), or too much of this client (client_limit, "
        "rate_limited); see Retry-After"
    ),
    500: _error("The model failed on one text (inference_failed), or something unforeseen (internal)"),
    503: _error("No worker, no Redis, or the process is stopping; see Retry-After"),
    504: _error("The budget ended before the result came"),
    507: _error(
        "As a job: all jobs (jobs_full), or yours (client_jobs_full), hold as many bytes as they may"
    ),
}


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of the request: its headers and its body."""
    parameters = [
        {
            "name": "Prefer",
            "in": "header",
            "schema": {"type": "string"},
            "description": "wait=N: budget in seconds; respond-async: answer with a job",
            "example": "wait=5",
        },
        IDEMPOTENCY_KEY,
        {
            "name": "X-Request-ID",
            "in": "header",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        },
    ]
    content = {"application/json": {"schema": model.model_json_schema()}}
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}
