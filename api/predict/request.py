"""The body of POST /predict: from bytes to texts, or a Problem."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from api.asgi.json_reader import read_json
from api.errors import Problem

# Bytes of a body up to which whatever may be in it is cheap.
LARGE_BODY = 64 * 1024


class _Body(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"text": ["I hate you.", "I love you."]}}
    )


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
