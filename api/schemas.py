"""Bodies that several routes share: errors, and one label with its score."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema


class LabelScore(BaseModel):
    """One label and its score between 0 and 1."""

    label: str
    score: float


def _absent(schema: dict[str, Any]) -> None:
    """A field without a value is left out."""
    del schema["default"]


class _Problem(BaseModel):
    code: str
    request_id: str
    index: int | SkipJsonSchema[None] = Field(
        default=None, description="Which text it is about, from 0", json_schema_extra=_absent
    )
    line: int | SkipJsonSchema[None] = Field(
        default=None, description="Which line of the body (NDJSON, CSV), from 1", json_schema_extra=_absent
    )
    job: str | SkipJsonSchema[None] = Field(
        default=None, description="The job that has the Idempotency-Key", json_schema_extra=_absent
    )


class Error(_Problem):
    """Every answer that is no success. `index`, `line` and `job` only where there is one."""

    detail: str


class Invalid(BaseModel):
    """One thing that is wrong: where, what, and its stable type."""

    loc: list[str | int]
    msg: str
    type: str


class ValidationFailed(_Problem):
    """422: the first thing wrong with the body, or the parameters. The texts themselves are never echoed."""

    detail: list[Invalid] | str


IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Of a job: a repeat with this key and the same texts is answered with the same job (200)",
}
