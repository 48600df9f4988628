"""Schemas that several routes share: errors, and a label with its score."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema, models_json_schema

REFERENCE = "#/components/schemas/{model}"


class LabelScore(BaseModel):
    """One label and its score between 0 and 1."""

    label: str
    score: float


def absent(schema: dict[str, Any]) -> None:
    """A JSON schema hook: the field is optional, and absent rather than null."""
    del schema["default"]


class _Problem(BaseModel):
    code: str
    request_id: str
    index: int | SkipJsonSchema[None] = Field(
        default=None, description="The position of the text, from 0", json_schema_extra=absent
    )
    line: int | SkipJsonSchema[None] = Field(
        default=None, description="The line of the body (NDJSON, CSV), from 1", json_schema_extra=absent
    )
    columns: list[str] | SkipJsonSchema[None] = Field(
        default=None, description="The columns of the file that `line` belongs to", json_schema_extra=absent
    )
    job: str | SkipJsonSchema[None] = Field(
        default=None, description="The job that has the Idempotency-Key", json_schema_extra=absent
    )


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


def error_schemas() -> dict[str, Any]:
    """The schemas that `error` refers to, by name."""
    models = models_json_schema(
        [(Error, "serialization"), (ValidationFailed, "serialization")], ref_template=REFERENCE
    )
    schemas: dict[str, Any] = models[1]["$defs"]
    return schemas


IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "For jobs: repeating a request with the same key and texts returns the same job (200)",
}
