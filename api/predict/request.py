"""The bodies of POST /predict: how a request is read and checked, and what OpenAPI says of both."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.json_schema import SkipJsonSchema

from api.errors import Problem
from api.jobs.schemas import Job, LabelScore
from api.predict.json_reader import read_json

# Bytes of a body up to which whatever may be in it is cheap.
LARGE_BODY = 64 * 1024


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


class _Body(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"text": ["I hate you.", "I love you."]}}
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


IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Of a job: a repeat with this key and the same texts is answered with the same job (200)",
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


class RequestReader:
    """Reads request bodies: bytes to texts, or a Problem.

    A small body that is right takes one pass of pydantic's own JSON parser, which makes values of everything
    before it looks at any of it: a hundred times the size of a body that is made for it. A large one, and one
    that the parser refuses, is read text by text, and only as far as it makes sense; so what is said of a
    body does not depend on its size.
    """

    def __init__(self, max_texts: int, max_text_chars: int) -> None:
        texts = Annotated[
            list[str], Field(min_length=1, max_length=max_texts, description="Texts to classify")
        ]
        self.model: type[BaseModel] = create_model("PredictRequest", __base__=_Body, text=(texts, ...))
        self._validate = self.model.__pydantic_validator__.validate_json
        self._max_texts = max_texts
        self._max_chars = max_text_chars

    def read(self, body: bytes) -> list[str]:
        """The texts. Raises Problem: 422 for what is no valid request, 413 for too many or too long texts."""
        texts = (self._whole(body) if len(body) <= LARGE_BODY else None) or self._one_by_one(body)
        if len(body) > self._max_chars and max(map(len, texts)) > self._max_chars:
            index = next(at for at, text in enumerate(texts) if len(text) > self._max_chars)
            detail = f"text {index} is longer than {self._max_chars} characters"
            raise Problem(413, detail, code="text_too_long", index=index)
        return texts

    def _whole(self, body: bytes) -> list[str] | None:
        """The texts, or None unless all is well."""
        # The parser takes the last of two equal names; only a body that may have two is looked at again:
        # one with "text" in it more than once, or with an escaped letter of it.
        if body.count(b'"text"') != 1 or b"\\u006" in body or b"\\u007" in body:
            return None
        try:
            texts: list[str] = self._validate(body).text
        except ValidationError:
            return None
        return texts

    def _one_by_one(self, body: bytes) -> list[str]:
        texts = list(islice(read_json((body,)), self._max_texts + 1))
        if len(texts) > self._max_texts:
            raise Problem(413, f"more than {self._max_texts} texts", code="too_many_texts")
        return texts
