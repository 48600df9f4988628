"""Schemas that several routes share: errors, and a label with its score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema, models_json_schema

REFERENCE = "#/components/schemas/{model}"
Responses = dict[int | str, dict[str, Any]]
# What an error of a status says on several routes.
FAILURES = {
    401: "API key missing or invalid",
    403: "Host name not allowed (host_not_allowed), or cross-site request (cross_site)",
    408: "The body did not arrive in time",
    409: "The Idempotency-Key belongs to a job with other texts (idempotency_conflict)",
    413: "The body or a text is too large, or there are too many texts",
    415: "The content type is not JSON, or the Content-Encoding is unknown",
    429: "Rate limit exceeded (rate_limited); see Retry-After",
    503: "No worker, Redis does not answer, or the process is stopping; see Retry-After",
    504: "The budget ended before the result arrived; see Retry-After",
    507: "The storage limit of all jobs (jobs_full) or of yours (client_jobs_full) is reached",
}


class LabelScore(BaseModel):
    """One label and its score between 0 and 1."""

    label: str
    score: float


def optional(description: str | None = None) -> Any:
    """A field that may be left out, and is absent rather than null."""
    return Field(default=None, description=description, json_schema_extra=_without_default)


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class _Problem(BaseModel):
    code: str
    request_id: str
    index: int | SkipJsonSchema[None] = optional("The position of the text, from 0")
    line: int | SkipJsonSchema[None] = optional("The line of the body (NDJSON, CSV), from 1")
    columns: list[str] | SkipJsonSchema[None] = optional("The columns of the file that `line` belongs to")
    job: str | SkipJsonSchema[None] = optional("The job that has the Idempotency-Key")


class Error(_Problem):
    """An error. `index`, `line` and `job` are only present where they apply."""

    detail: str


class Invalid(BaseModel):
    """One validation error: where it is, what is wrong, and its stable type."""

    loc: list[str | int]
    msg: str
    type: str


class ValidationFailed(_Problem):
    """422: the first error in the body, or the errors in the parameters. Texts are never repeated."""

    detail: list[Invalid] | str


def error(text: str, model: type[_Problem] = Error) -> dict[str, Any]:
    """An error response of a route, as OpenAPI describes it.

    It refers to the model's schema by name: for a model, FastAPI would build a validator for every response
    of every route, most of the time that an application takes to start.
    """
    schema = {"$ref": REFERENCE.format(model=model.__name__)}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def errors(*statuses: int) -> Responses:
    """The error responses of these statuses that are the same on several routes."""
    return {status: error(FAILURES[status]) for status in statuses}


def error_schemas() -> dict[str, Any]:
    """The schemas that `error` refers to, by name."""
    models = models_json_schema(
        [(Error, "serialization"), (ValidationFailed, "serialization")], ref_template=REFERENCE
    )
    schemas: dict[str, Any] = models[1]["$defs"]
    return schemas


STRING: dict[str, Any] = {"type": "string"}
FILE: dict[str, Any] = {"type": "string", "format": "binary"}


def content(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a body, as OpenAPI describes it: the schema of each media type."""
    return {"content": {kind: {"schema": schema} for kind, schema in schemas.items()}}


def body(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request, as OpenAPI describes it, by the schema of each media type."""
    return {"requestBody": {"required": True, **content(schemas)}}


def header(text: str, schema: Mapping[str, Any] = STRING) -> dict[str, Any]:
    """A header of a response, as OpenAPI describes it."""
    return {"description": text, "schema": schema}


IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Repeating a request with the same key and texts returns the same job (200)",
}
