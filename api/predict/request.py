"""A request to POST /predict: parses its body, holds its state, and writes its answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from api.asgi.http import RequestHeaders
from api.asgi.json_reader import read_json
from api.asgi.problems import reported
from api.errors import Header, Problem, problem_of
from api.label_order import by_score
from api.lifecycle import Lifecycle
from batcher.lookup.queue import LookupResult, Models, Result
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

    `foreign_keys` are what bodies of other dialects have in place of "text", as it stands there: b'"inputs"'.
    """

    def __init__(
        self, max_texts: int, max_text_chars: int, foreign_keys: Callable[[], Collection[bytes]] = lambda: ()
    ) -> None:
        texts = Annotated[
            list[str], Field(min_length=1, max_length=max_texts, description="Texts to classify")
        ]
        self.model: type[BaseModel] = create_model("PredictRequest", __base__=_Body, text=(texts, ...))
        self.validate = self.model.__pydantic_validator__.validate_json
        self._max_texts = max_texts
        self.max_chars = max_text_chars
        self._foreign_keys = foreign_keys

    def is_foreign(self, body: bytes) -> bool:
        """Whether a body that is not a valid request may be one of another dialect."""
        return any(key in body for key in self._foreign_keys()) and not _begins_with_text(body)

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


@dataclass(eq=False, slots=True)
class RequestContext:
    """The state of a request, for its log line and the counters too. `started` is a time of perf_counter.

    `client` is empty until the request has been admitted. `code` and `entry` (the id of the text that failed)
    say what went wrong. `answer` is what the lookup found, if the in-process cache did not know all texts.
    `used` texts were looked up, and count as usage. `reserved` texts count for a quota until the request is
    counted.
    """

    headers: RequestHeaders
    started: float = field(default_factory=perf_counter)
    client: str = ""
    texts: list[str] = field(default_factory=list)
    hit: bool = False
    computed: int = 0
    answer: LookupResult | None = None
    used: int = 0
    reserved: int = 0
    tokens: int = 0
    by_score: bool = False
    code: str = ""
    entry: str = ""

    def fail(self, error: BaseException, lifecycle: Lifecycle) -> Problem:
        """Notes an error. Returns the problem that it is answered with. Raises what `reported` raises."""
        problem = reported(error, self.headers.id, lifecycle)
        self.code = problem.code
        self.entry = problem.entry
        return problem


def joined(results: Sequence[Result], *, ordered: bool) -> bytes:
    """The body of /predict, with labels by falling score if `ordered`."""
    fragments = [result.fragment for result in results]
    if ordered:
        known = {fragment: by_score(fragment) for fragment in set(fragments)}
        fragments = [known[fragment] for fragment in fragments]
    return b'{"predictions":[%b]}' % b",".join(fragments)


def raise_failed(texts: Sequence[str], answer: LookupResult) -> None:
    """Raises the Problem of the first text that failed."""
    for index, text in enumerate(texts):
        if (failed := answer.failed.get(text)) is not None:
            problem = problem_of(failed, index)
            problem.entry = answer.ids.get(text, "")
            raise problem


def answer_headers(
    context: RequestContext, models: Models, results: Sequence[Result], cache_s: float
) -> list[Header]:
    """What an answer says of its results: X-Cache, X-Model, Server-Timing, what was truncated or unknown.

    Counts the tokens of the request, too.
    """
    from_cache, stages = b"HIT", b""
    if context.answer is not None and (computed := context.answer.computed):
        stages = _stages(computed.values())
        from_cache = b"MISS" if computed.keys() >= set(context.texts) else b"PARTIAL"
    tokens = left_out = unknown = 0
    names: dict[tuple[str, str], None] = {}
    for result in results:
        tokens += result.tokens
        left_out += result.truncated
        unknown += result.foreign
        names[result.revision, result.model] = None
    context.tokens = tokens
    total_s = perf_counter() - context.started
    headers = [
        (b"x-cache", from_cache),
        (b"x-model", b", ".join([models.header(*name) for name in names])),
        (b"server-timing", b"cache;dur=%.3f, %btotal;dur=%.3f" % (cache_s * 1e3, stages, total_s * 1e3)),
    ]
    if left_out:
        texts = sum([result.truncated > 0 for result in results])
        headers += [(b"x-truncated", b"%d" % texts), (b"x-truncated-tokens", b"%d" % left_out)]
    if unknown:
        headers.append((b"x-unknown", b"%d" % unknown))
    return headers


def _stages(runs: Collection[Prediction]) -> bytes:
    """The stages in Server-Timing of what was computed, in ms.

    For several batches, the slowest time of each stage and the largest batch size.
    """
    times = [(run.queue_ms, run.batch_size, run.tokenize_ms, run.model_ms) for run in runs]
    slowest = times[0] if len(times) == 1 else tuple(map(max, zip(*times, strict=True)))
    return b'queue;dur=%.3f, batch;desc="%d", tokenize;dur=%.3f, model;dur=%.3f, ' % slowest
