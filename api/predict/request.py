"""Parses the body of POST /predict."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from api.asgi.json_reader import read_json
from api.errors import Problem

# Bodies up to this size are cheap to parse, whatever their content.
LARGE_BODY = 64 * 1024


class _Body(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"text": ["I hate you.", "I love you."]}}
    )


class RequestReader:
    """Parses request bodies into texts.

    Small bodies are parsed by pydantic, which is fastest. But it builds all values before it validates any of
    them, and a hostile body can use a hundred times its size in memory. So large bodies, and those that
    pydantic rejects, are parsed text by text, up to the first error. The error messages of both sizes are
    therefore the same.
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
        """The texts. Raises Problem 422 for an invalid request, and 413 for too many or too long texts."""
        texts = (self._whole(body) if len(body) <= LARGE_BODY else None) or self._one_by_one(body)
        if len(body) > self._max_chars and max(map(len, texts)) > self._max_chars:
            index = next(at for at, text in enumerate(texts) if len(text) > self._max_chars)
            detail = f"text {index} is longer than {self._max_chars} characters"
            raise Problem(413, detail, code="text_too_long", index=index)
        return texts

    def _whole(self, body: bytes) -> list[str] | None:
        """The texts, or None if the body must be parsed text by text."""
        # Pydantic accepts duplicate keys and uses the last one. So a body that may have two keys "text" (the
        # word occurs more than once, or one of its letters may be escaped) is parsed text by text.
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
            detail = f"the request has more than {self._max_texts} texts"
            raise Problem(413, detail, code="too_many_texts")
        return texts
