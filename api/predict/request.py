"""A request to POST /predict: parses its body, holds its state, and joins its results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from api.asgi.http import RequestHeaders, check_size
from api.asgi.json_reader import read_json
from api.errors import Header, Problem
from api.label_order import by_score
from api.predict.local_cache import CachedPrediction
from batcher.errors import MillraceError
from batcher.messages import Prediction

# Bodies up to this size are cheap to parse, whatever their content.
LARGE_BODY = 64 * 1024
_begins_with_text = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"text"').match


class ForeignBody(Exception):
    """The body is in the dialect of another service."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body


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
        # Keys that other dialects have in place of "text", as they stand in a body: b'"inputs"'.
        self.foreign_keys: Sequence[bytes] = ()

    def is_foreign(self, body: bytes) -> bool:
        """Whether a body that is not a valid request may be one of another dialect."""
        return any(key in body for key in self.foreign_keys) and not _begins_with_text(body)

    def read(self, body: bytes) -> list[str]:
        """The texts. Raises Problem 422 for an invalid request, and 413 for too many or too long texts."""
        return self.check(list(islice(read_json((body,)), self._max_texts + 1)))

    def check(self, texts: list[str]) -> list[str]:
        """The same texts. Raises Problem 413 if they are too many, or one of them is too long."""
        if len(texts) > self._max_texts:
            detail = f"the request has more than {self._max_texts} texts"
            raise Problem(413, detail, code="too_many_texts")
        for index, text in enumerate(texts):
            if len(text) > self.max_chars:
                detail = f"text {index} is longer than {self.max_chars} characters"
                raise Problem(413, detail, code="text_too_long", index=index)
        return texts


def read_texts(reader: RequestReader, body: bytes) -> list[str]:
    """The texts of a request. Raises what `reader.read` raises, or ForeignBody.

    Pydantic parses small bodies, unless they may have two keys "text", because the word occurs more than once
    or one of its letters may be escaped. The reader explains what is wrong with a body.
    """
    texts: list[str] | None = None
    escaped = b"\\u006" in body or b"\\u007" in body
    if len(body) <= LARGE_BODY and not escaped and body.count(b'"text"') == 1:
        with suppress(ValidationError):
            texts = reader.validate(body).text
    # Not in an except clause: the first error would be the context of the second, in a reference cycle.
    if texts is None or (len(body) > reader.max_chars and max(map(len, texts)) > reader.max_chars):
        if reader.is_foreign(body):
            raise ForeignBody(body)
        return reader.read(body)
    return texts


class RequestContext:
    """The state of a request, for its log line and the counters too. `started` is a time of perf_counter.

    `code` and `entry` (the id of the text that failed) say what went wrong.
    """

    __slots__ = (
        "by_score",
        "code",
        "computed",
        "entry",
        "found",
        "headers",
        "known",
        "started",
        "texts",
        "tokens",
    )

    def __init__(self, headers: RequestHeaders) -> None:
        self.started = perf_counter()
        self.headers = headers
        self.texts: list[str] = []
        self.known = False
        self.computed = 0
        # What the lookup found, if the in-process cache did not know all texts.
        self.found: LookupResult | None = None
        self.tokens = 0
        self.by_score = False
        self.code = self.entry = ""


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """The texts of a request, and the in-process cache's result for each. `deadline` is by perf_counter.

    If they are only a part of a request, `whole` has all texts of that: errors say where a text is in there.
    """

    texts: Sequence[str]
    cached: Sequence[CachedPrediction | None]
    revision: str
    client: str
    deadline: float
    trace: str
    # The client that these results belong to; "" if clients share results.
    tenant: str = ""
    whole: Sequence[str] = ()
    # Whether the labels of the answer are by falling score.
    by_score: bool = False
    # The revision that is wanted, if not all results are of one: stored results of others do not answer.
    only: str = ""


@dataclass(slots=True)
class LookupResult:
    """Predictions by text, the texts computed for this request, and the time spent on caches.

    `ids` are those of the texts that the in-process cache did not know.
    `asked` texts went to the queue at `asked_at` (perf_counter). `outcomes` are counted for the metrics.
    """

    by_text: dict[str, Prediction] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)
    cache_s: float = 0.0
    ids: Mapping[str, str] = field(default_factory=dict)
    asked: int = 0
    asked_at: float = 0.0
    outcomes: dict[str | type[MillraceError], int] = field(default_factory=dict)

    def count(self, outcome: str | type[MillraceError], texts: int) -> None:
        """Counts texts with this outcome: a name from `api.metrics.OUTCOMES`, or the class of an error."""
        if texts:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + texts

    def add(self, part: LookupResult, cache_s: float) -> None:
        """Adds what was found for other texts of the request. `cache_s`: time on caches of both."""
        self.by_text |= part.by_text
        self.computed |= part.computed
        self.cache_s = cache_s
        self.ids = {**self.ids, **part.ids}
        if part.asked:
            self.asked_at = min(self.asked_at, part.asked_at) if self.asked else part.asked_at
            self.asked += part.asked
        for outcome, texts in part.outcomes.items():
            self.count(outcome, texts)

    def tokens(self, texts: Sequence[str], cached: Sequence[CachedPrediction | None]) -> int:
        """The tokens of all texts of the request, of which the in-process cache knew some."""
        return sum([(known or self.by_text[text]).tokens for text, known in zip(texts, cached, strict=True)])


def truncation(results: Sequence[CachedPrediction | Prediction]) -> list[Header]:
    """The headers of an answer of which the model could not read all tokens."""
    if not (left_out := sum([result.truncated for result in results])):
        return []
    texts = sum([result.truncated > 0 for result in results])
    return [(b"x-truncated", b"%d" % texts), (b"x-truncated-tokens", b"%d" % left_out)]


class Result(Protocol):
    """A result whose `fragment` is its JSON in an answer of /predict."""

    @property
    def fragment(self) -> bytes: ...


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
