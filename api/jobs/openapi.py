"""OpenAPI descriptions of /jobs that FastAPI cannot derive: bodies, headers and status codes."""

from __future__ import annotations

from typing import Any

from api.jobs.pages import MEDIA_TYPES, TEXT_OUTPUTS
from api.jobs.schemas import Job, JobPredictions
from api.schemas import IDEMPOTENCY_KEY, Responses, ValidationFailed, error, errors

Options = dict[str, Any]

_LOCATION = {"Location": {"description": "The path of the job", "schema": {"type": "string"}}}
_WEBHOOK_URL = {
    "name": "Webhook-URL",
    "in": "header",
    "schema": {"type": "string", "format": "uri", "maxLength": 2048},
    "description": "Is notified when the job has ended; 422 if the service has no webhooks",
}
_TEXTS = {
    "type": "object",
    "required": ["text"],
    "additionalProperties": False,
    "properties": {"text": {"type": "array", "minItems": 1, "items": {"type": "string"}}},
    "example": {"text": ["I hate you.", "I love you."]},
}
_LINES = {"type": "string", "example": '"I hate you."\n{"text": "I love you."}\n'}
_COLUMN = {"type": "string", "example": 'text\n"I hate you."\n"I love you."\n'}


_FILE = {"type": "string", "format": "binary"}

ALWAYS: Responses = {
    **errors(401, 403, 429),
    422: error("Invalid parameter", ValidationFailed),
    503: error("Redis does not answer; see Retry-After"),
}
NOT_FOUND: Responses = {404: error("No such job, or it has expired")}

SUBMIT: Options = {
    "responses": {
        **ALWAYS,
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
    "openapi_extra": {
        "parameters": [IDEMPOTENCY_KEY, _WEBHOOK_URL],
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
LIST: Options = {"responses": ALWAYS}
FIND: Options = {"responses": {**ALWAYS, **NOT_FOUND}}
EVENTS: Options = {
    "responses": {
        **ALWAYS,
        **NOT_FOUND,
        200: {
            "description": "`progress` events, then `end`. The data is the job, the event id its version",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "The job has ended, and Last-Event-ID is its last event"},
    }
}
PREDICTIONS: Options = {
    "summary": "Results, in the order of the texts",
    "responses": {
        **ALWAYS,
        **NOT_FOUND,
        200: {
            "model": JobPredictions,
            "description": "JSON, NDJSON (one result per line) or CSV (index,label,score,error), by Accept",
            "headers": {
                "X-Total": {"description": "Number of texts of the job", "schema": {"type": "integer"}},
                "X-Done": {"description": "Number of texts with a result", "schema": {"type": "integer"}},
                "Link": {"description": 'rel="next", except on the last page', "schema": {"type": "string"}},
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
        **ALWAYS,
        404: error("No such job, it has expired, or its texts are not kept (no_texts)"),
        200: {
            "description": "One JSON string per line; null for a text that was too long",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
    },
}
PREVIEW: Options = {
    "responses": {
        **ALWAYS,
        408: error("The body stopped arriving"),
        413: error("The body is too large"),
        415: error("The Content-Encoding is unknown"),
        422: error("The file cannot be read at `line`", ValidationFailed),
    },
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _FILE}}}
    },
}
LABELLED: Options = {
    "summary": "The rows of the file with their results",
    "responses": {
        **ALWAYS,
        **NOT_FOUND,
        408: error("The body stopped arriving"),
        409: error("The body is not the file of the job (other_file), or the job has none (no_file)"),
        413: error("The body is too large"),
        415: error("The Content-Encoding is unknown"),
        422: error("The file cannot be read at `line`", ValidationFailed),
        200: {
            "description": "In the format of the file, or CSV, TSV or NDJSON by Accept",
            "content": {
                kind: {"schema": {"type": "string"} if form in TEXT_OUTPUTS else _FILE}
                for form, kind in MEDIA_TYPES.items()
            },
        },
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": _FILE}},
        },
    },
}
CANCEL: Options = {
    "responses": {
        **ALWAYS,
        **NOT_FOUND,
        200: {"model": Job, "description": "Cancelled"},
        204: {"description": "Deleted, because it had ended"},
    }
}
