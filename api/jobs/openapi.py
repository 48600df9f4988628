"""OpenAPI descriptions of /jobs that FastAPI cannot derive: bodies, headers and status codes."""

from __future__ import annotations

from typing import Any

from api.jobs.pages import MEDIA_TYPES, TEXT_OUTPUTS
from api.jobs.schemas import Job, JobPredictions
from api.schemas import (
    FILE,
    IDEMPOTENCY_KEY,
    STRING,
    Responses,
    ValidationFailed,
    body,
    content,
    error,
    errors,
    header,
)

Options = dict[str, Any]

_LOCATION = {"Location": header("The path of the job")}
_WEBHOOK_URL = {
    "name": "Webhook-URL",
    "in": "header",
    "schema": {"type": "string", "format": "uri", "maxLength": 2048},
    "description": "Is notified when the job has ended",
}
_TEXTS = {
    "type": "object",
    "required": ["text"],
    "additionalProperties": False,
    "properties": {"text": {"type": "array", "minItems": 1, "items": {"type": "string"}}},
    "example": {"text": ["I hate you.", "I love you."]},
}
# Without an example: tools that send it do not know the type.
_LINES = {"type": "string", "description": 'Each line is "I hate you." or {"text": "I love you."}'}
_COLUMN = {"type": "string", "example": 'text\n"I hate you."\n"I love you."\n'}


# What every route may answer.
ALWAYS: Responses = {
    **errors(401, 403, 429),
    422: error("Invalid parameter", ValidationFailed),
    503: error("Redis does not answer; see Retry-After"),
}
NOT_FOUND: Responses = {404: error("No such job, or it has expired")}

_SUBMITTED: Options = {
    "responses": {
        200: {
            "model": Job,
            "description": "The existing job with this Idempotency-Key",
            "headers": _LOCATION,
        },
        202: {"model": Job, "description": "A new job", "headers": _LOCATION},
        **errors(408, 409, 507),
        404: error("No such model (model_not_found)"),
        413: error("The body, or its texts and results (job_too_large), are too large; nothing is stored"),
        415: error("The content type is not JSON, NDJSON or CSV, or the Content-Encoding is unknown"),
        422: error("The body is invalid at `line` (JSON: `index`)", ValidationFailed),
        429: error("Too many jobs are waiting (too_many_jobs), or rate limit exceeded (rate_limited)"),
    },
}
FIND: Options = {"responses": NOT_FOUND}


def submit_options(*, webhooks: bool) -> Options:
    """Of `POST /jobs`; `webhooks` says whether the service sends them."""
    parameters = [IDEMPOTENCY_KEY, *([_WEBHOOK_URL] if webhooks else [])]
    texts = {"application/json": _TEXTS, "application/x-ndjson": _LINES, "text/csv": _COLUMN}
    return {**_SUBMITTED, "openapi_extra": {"parameters": parameters, **body(texts)}}


EVENTS: Options = {
    "responses": {
        **NOT_FOUND,
        200: {
            "description": "`progress` events, then `end`. The data is the job, the event id its version",
            **content({"text/event-stream": {}}),
        },
        204: {"description": "The job has ended, and Last-Event-ID is its last event"},
    }
}
PREDICTIONS: Options = {
    "summary": "Results, in the order of the texts",
    "responses": {
        **NOT_FOUND,
        200: {
            "model": JobPredictions,
            "description": "JSON, NDJSON (one result per line) or CSV (index,label,score,error), by Accept",
            "headers": {
                "X-Total": header("Number of texts of the job", {"type": "integer"}),
                "X-Done": header("Number of texts with a result", {"type": "integer"}),
                "Link": header('rel="next", except on the last page'),
            },
            **content({"application/x-ndjson": STRING, "text/csv": STRING}),
        },
    },
}
TEXTS: Options = {
    "summary": "Texts, in their order",
    "responses": {
        404: error("No such job, it has expired, or its texts are not kept (no_texts)"),
        200: {
            "description": "One JSON string per line; null for a text that was too long",
            **content({"application/x-ndjson": STRING}),
        },
    },
}
_SENDS_FILE: Options = {
    "responses": {
        408: error("The body stopped arriving"),
        413: error("The body is too large"),
        415: error("The Content-Encoding is unknown"),
        422: error("The file cannot be read at `line`", ValidationFailed),
    },
    "openapi_extra": body({"application/octet-stream": FILE}),
}
PREVIEW = _SENDS_FILE
LABELLED: Options = {
    **_SENDS_FILE,
    "summary": "The rows of the file with their results",
    "responses": {
        **_SENDS_FILE["responses"],
        **NOT_FOUND,
        409: error("The body is not the file of the job (other_file), or the job has none (no_file)"),
        200: {
            "description": "In the format of the file, or CSV, TSV or NDJSON by Accept",
            **content({kind: STRING if form in TEXT_OUTPUTS else FILE for form, kind in MEDIA_TYPES.items()}),
        },
    },
}
CANCEL: Options = {
    "responses": {
        **NOT_FOUND,
        200: {"model": Job, "description": "Cancelled"},
        204: {"description": "Deleted, because it had ended"},
    }
}
