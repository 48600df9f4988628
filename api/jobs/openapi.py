"""What OpenAPI says of /jobs beyond what the code shows: bodies, headers and every status."""

from __future__ import annotations

from typing import Any

from api.jobs.schemas import Job, JobPredictions
from api.schemas import IDEMPOTENCY_KEY, Error, ValidationFailed

Options = dict[str, Any]

_LOCATION = {"Location": {"description": "Where to ask for it", "schema": {"type": "string"}}}
_TEXTS = {
    "type": "object",
    "required": ["text"],
    "additionalProperties": False,
    "properties": {"text": {"type": "array", "minItems": 1, "items": {"type": "string"}}},
    "example": {"text": ["I hate you.", "I love you."]},
}
_LINES = {"type": "string", "example": '"I hate you."\n{"text": "I love you."}\n'}
_COLUMN = {"type": "string", "example": 'text\n"I hate you."\n"I love you."\n'}


def _error(text: str, model: type = Error) -> Options:
    return {"model": model, "description": text}


_ALWAYS: dict[int | str, Options] = {
    401: _error("No valid API key, where keys are set"),
    403: _error(
        "Another host name than the service's (host_not_allowed), or a page of another site (cross_site)"
    ),
    422: _error("A parameter that is not valid", ValidationFailed),
    429: _error("Too many requests of this client (rate_limited); see Retry-After"),
    503: _error("Redis does not answer; see Retry-After"),
}
_GONE: dict[int | str, Options] = {404: _error("No such job, or its time is over")}

SUBMIT: Options = {
    "responses": {
        **_ALWAYS,
        200: {"model": Job, "description": "The job of this Idempotency-Key", "headers": _LOCATION},
        202: {"model": Job, "description": "A new job", "headers": _LOCATION},
        408: _error("The body stopped arriving"),
        409: _error("The Idempotency-Key belongs to a job with other texts (idempotency_conflict)"),
        413: _error("The body is too large, or it and its results (job_too_large); nothing of it is kept"),
        415: _error("Another content type than JSON, NDJSON or CSV, or a compressed body"),
        422: _error("The body makes no sense from `line` (JSON: `index`) on", ValidationFailed),
        429: _error("Too many jobs wait (too_many_jobs), or too many requests of this client (rate_limited)"),
        507: _error("All jobs (jobs_full), or yours (client_jobs_full), hold as many bytes as they may"),
    },
    "openapi_extra": {
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _TEXTS},
                "application/x-ndjson": {"schema": _LINES},
                "text/csv": {"schema": _COLUMN},
            },
        },
    },
}
LIST: Options = {"responses": _ALWAYS}
FIND: Options = {"responses": {**_ALWAYS, **_GONE}}
EVENTS: Options = {
    "responses": {
        **_ALWAYS,
        **_GONE,
        200: {
            "description": "Events `progress`, then `end`; the data of each is the job, its id the version",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "The job had ended already when the event of Last-Event-ID was sent"},
    }
}
PREDICTIONS: Options = {
    "summary": "Results, in the order of the texts",
    "responses": {
        **_ALWAYS,
        **_GONE,
        200: {
            "model": JobPredictions,
            "description": "JSON, NDJSON (a result a line) or CSV (index,label,score,error), by Accept",
            "headers": {
                "X-Total": {"description": "Texts of the job", "schema": {"type": "integer"}},
                "X-Done": {"description": "Texts that have a result", "schema": {"type": "integer"}},
                "Link": {"description": 'rel="next", until the last page', "schema": {"type": "string"}},
            },
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        },
    },
}
TEXTS: Options = {
    "summary": "Texts, in their order",
    "responses": {
        **_ALWAYS,
        404: _error("No such job, its time is over, or its texts are not kept (no_texts)"),
        200: {
            "description": "A JSON string a line; null for a text that was too long",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
    },
}
CANCEL: Options = {
    "responses": {
        **_ALWAYS,
        **_GONE,
        200: {"model": Job, "description": "Cancelled"},
        204: {"description": "Deleted: it had ended"},
    }
}
