"""What is right: the stub's scores are a pure function of the text, so every answer can be checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from batcher.messages import fragment
from model_store.stub import LABELS, StubClassifier

_STUB = StubClassifier()


def right(*texts: str) -> list[bytes]:
    """The prediction of each text, as HTTP carries it."""
    rows = _STUB.classify(_STUB.tokenize(texts))
    return [fragment(LABELS, row) for row in rows]


def right_json(texts: Sequence[str]) -> list[Any]:
    """The same, decoded: what "predictions" of an answer must equal."""
    return [json.loads(prediction) for prediction in right(*texts)]
