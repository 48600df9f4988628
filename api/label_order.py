"""The order of the labels of a result: that of the label ids, or by falling score."""

from __future__ import annotations

import json
from typing import Any, Literal
from urllib.parse import parse_qs

from api.errors import Problem

LabelOrder = Literal["id", "score"]
DESCRIPTION = "Labels of each text: `id`: in label id order; `score`: the most probable first"


def order_in(query: bytes, default: LabelOrder) -> LabelOrder:
    """The last `order` of a query string. Raises Problem 422 if it is none of the known ones."""
    wanted = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("order", [default])[-1]
    if wanted == "id":
        return "id"
    if wanted == "score":
        return "score"
    error = {"type": "literal_error", "loc": ["query", "order"], "msg": "Input should be 'id' or 'score'"}
    raise Problem(422, [error])


def body_by_score(body: bytes) -> bytes:
    """The body of an answer of /predict with the labels of each text by falling score."""
    content = json.loads(body)
    return _encode({**content, "predictions": list(map(_sorted, content["predictions"]))})


def line_by_score(line: bytes) -> bytes:
    """The same for one result of a job. Errors stay as they are."""
    result = json.loads(line)
    return line if isinstance(result, dict) else _encode(_sorted(result))


def _sorted(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Labels with the same score stay in label id order."""
    return sorted(pairs, key=lambda pair: -pair["score"])


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
