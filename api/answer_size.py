"""The bound of an answer with results, which is checked before the answer is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from api.errors import Problem
from api.label_order import by_score


class Result(Protocol):
    """A result whose `fragment` is its JSON in an answer of /predict."""

    @property
    def fragment(self) -> bytes: ...


def check_size(size: int, most: int) -> None:
    """Raises Problem 413 if an answer would have more than `most` bytes."""
    if size > most:
        detail = (
            f"the answer would have about {size} bytes, and an answer may have {most} "
            "(MILLRACE_MAX_ANSWER_BYTES): send fewer texts per request"
        )
        raise Problem(413, detail, code="answer_too_large")


def joined(results: Sequence[Result], most: int, *, ordered: bool) -> bytes:
    """The body of /predict, with labels by falling score if `ordered`.

    Raises Problem 413 if it would have more than `most` bytes.
    """
    fragments = [result.fragment for result in results]
    check_size(sum(map(len, fragments)), most)
    if ordered:
        known = {fragment: by_score(fragment) for fragment in set(fragments)}
        fragments = [known[fragment] for fragment in fragments]
    return b'{"predictions":[%b]}' % b",".join(fragments)
