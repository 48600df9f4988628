"""Parses the body of POST /predict."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, create_model

from api.asgi.json_reader import read_json
from api.errors import Problem


class _Body(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"text": ["I hate you.", "I love you."]}}
    )


class RequestReader:
    """Parses request bodies into texts, text by text up to the first error.

    `validate` is faster, but it builds all values before it validates any of them, so a large hostile body
    can use a hundred times its size in memory. It also accepts duplicate keys and uses the last one.
    """

    def __init__(self, max_texts: int, max_text_chars: int) -> None:
        texts = Annotated[
            list[str], Field(min_length=1, max_length=max_texts, description="Texts to classify")
        ]
        self.model: type[BaseModel] = create_model("PredictRequest", __base__=_Body, text=(texts, ...))
        self.validate = self.model.__pydantic_validator__.validate_json
        self._max_texts = max_texts
        self.max_chars = max_text_chars

    def read(self, body: bytes) -> list[str]:
        """The texts. Raises Problem 422 for an invalid request, and 413 for too many or too long texts."""
        texts = list(islice(read_json((body,)), self._max_texts + 1))
        if len(texts) > self._max_texts:
            detail = f"the request has more than {self._max_texts} texts"
            raise Problem(413, detail, code="too_many_texts")
        for index, text in enumerate(texts):
            if len(text) > self.max_chars:
                detail = f"text {index} is longer than {self.max_chars} characters"
                raise Problem(413, detail, code="text_too_long", index=index)
        return texts
