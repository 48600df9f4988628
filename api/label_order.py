"""The order of the labels of a result: that of the label ids, or by falling score."""

from __future__ import annotations

from typing import Literal
from urllib.parse import parse_qs

from api.errors import Problem

LabelOrder = Literal["id", "score"]
# What is around and between the labels of a result. A label cannot have it, because its quotes are escaped.
_OPEN = b'[{"'
_BETWEEN = b'},{"'
_CLOSE = b"}]"
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


def by_score(fragment: bytes) -> bytes:
    """A result with its labels by falling score; those with the same score stay in label id order."""
    pairs = fragment[len(_OPEN) : -len(_CLOSE)].split(_BETWEEN)
    pairs.sort(key=_score, reverse=True)
    return _OPEN + _BETWEEN.join(pairs) + _CLOSE


def line_by_score(line: bytes) -> bytes:
    """The same for one result of a job. Errors stay as they are."""
    return by_score(line) if line.startswith(_OPEN) else line


def _score(pair: bytes) -> float:
    return float(pair[pair.rindex(b":") + 1 :])
