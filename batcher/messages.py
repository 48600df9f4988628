"""The data that passes through the queue, as frozen classes with their encoding. Standard library only.

A result is encoded as two lines: facts about the run, then the prediction exactly as in the HTTP body. The
API joins these second lines without parsing or encoding them again. A failure is one line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from batcher.errors import BudgetExceeded, EntryFailed, EntryPoisoned, Malformed, MillraceError

Lane = Literal["interactive", "bulk"]

_FAILURES: dict[str, type[MillraceError]] = {
    error.code: error for error in (EntryFailed, EntryPoisoned, BudgetExceeded)
}
_HEADER_MAX_BYTES = 4096
# The trace of an entry that has none.
NO_TRACE = b"-"


def entry_id(text: str, options: str = "") -> str:
    """The 256-bit digest of (options, text), 64 hex digits.

    The digest covers the length of the options, so that two different pairs never hash the same bytes.
    """
    head = options.encode()
    return hashlib.sha256(b"%d:%b%b" % (len(head), head, text.encode())).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One claimed text, as the worker sees it. Times were computed by the clock of the queue."""

    id: str
    text: str
    lane: Lane
    cost: int
    waited_ms: int
    remaining_ms: int
    attempts: int
    trace: str = ""
    solo: bool = False

    def log_context(self) -> dict[str, object]:
        """The fields of an entry that may be logged, which exclude its text."""
        return {"entry": self.id, "lane": self.lane, "attempts": self.attempts, "waited_ms": self.waited_ms}


def decode_entry(entry_id: bytes, content: bytes, attempts: int, solo: int, *, now_ms: int) -> Entry:
    """Decodes what enqueue.lua wrote, claimed at `now_ms`. Raises ValueError if it is unreadable."""
    head, text = content.split(b"\n", 1)
    deadline, lane, cost, enqueued, trace, _waiters = head.split(b" ", 5)
    return Entry(
        id=entry_id.decode("ascii"),
        text=text.decode(),
        lane="bulk" if lane == b"bulk" else "interactive",
        cost=int(cost),
        waited_ms=now_ms - int(enqueued),
        remaining_ms=int(deadline) - now_ms,
        attempts=int(attempts),
        trace="" if trace == NO_TRACE else trace.decode("ascii", "replace"),
        solo=bool(solo),
    )


class Prediction(NamedTuple):
    """The result for one text. `fragment` is a JSON list of {"label", "score"} in label id order.

    `tokens` are those that the model read, and `truncated` counts those beyond its limit, which it did not.

    `foreign`: the model does not know more than half of the pieces of the text. Encoded, it is a sign before
    `truncated`, which earlier versions read as the number.

    `cached` says that it was read from the shared cache; it is not encoded. The class is a tuple because two
    are created per text, which is several times faster than with a frozen dataclass.
    """

    fragment: bytes
    revision: str
    tokens: int
    truncated: int = 0
    queue_ms: float = 0.0
    tokenize_ms: float = 0.0
    model_ms: float = 0.0
    batch_size: int = 0
    model: str = ""
    cached: bool = False
    foreign: bool = False

    def encode(self) -> bytes:
        """Encodes a line of facts, then the fragment."""
        facts = b"%d %+d %.3f %.3f %.3f %d %b\n%b" if self.foreign else b"%d %d %.3f %.3f %.3f %d %b\n%b"
        return facts % (
            self.tokens,
            self.truncated,
            self.queue_ms,
            self.tokenize_ms,
            self.model_ms,
            self.batch_size,
            _names(self.revision, self.model),
            self.fragment,
        )


# Cached, because there are only a few names of models and revisions.
@lru_cache(maxsize=64)
def _names(*names: str) -> bytes:
    return json.dumps(names).encode()


@lru_cache(maxsize=64)
def _read_names(raw: bytes) -> tuple[str, str]:
    revision, model = json.loads(raw)
    return str(revision), str(model)


@dataclass(frozen=True, slots=True)
class Failure:
    """A final result other than a prediction. It is never cached."""

    code: str
    message: str

    def encode(self) -> bytes:
        return (
            json.dumps({"code": self.code, "message": self.message}, separators=(",", ":")).encode() + b"\n"
        )

    def error(self) -> MillraceError:
        return _FAILURES.get(self.code, EntryFailed)(self.message)


# The final result of a text.
Outcome = Prediction | MillraceError


# A score has seven digits after the point.
_LONGEST_SCORE = 0.1234567


def fragment(labels: Sequence[str], scores: Sequence[float]) -> bytes:
    """Encodes one prediction as in the HTTP body: [{"label":"NEGATIVE","score":0.1},...]."""
    pairs = [
        f'{{"label":{_quoted(label)},"score":{round(score, 7)!r}}}'
        for label, score in zip(labels, scores, strict=True)
    ]
    return f"[{','.join(pairs)}]".encode()


def longest_fragment(labels: Sequence[str]) -> int:
    """The most bytes that `fragment` has for these labels."""
    return len(fragment(labels, [_LONGEST_SCORE] * len(labels)))


@lru_cache(maxsize=64)
def shortest_fragment(labels: tuple[str, ...]) -> int:
    """The fewest bytes that `fragment` has for these labels."""
    return len(fragment(labels, [0.0] * len(labels)))


# Encodes a label as a JSON string. Cached, because there are only a few labels.
_quoted = lru_cache(maxsize=4096)(json.dumps)


def decode_cached(raw: bytes) -> Prediction | None:
    """Decodes a cached result; None if it is unreadable."""
    try:
        result = decode_result(raw, cached=True)
    except Malformed:
        return None
    return result if isinstance(result, Prediction) else None


def decode_result(raw: bytes, *, cached: bool = False) -> Prediction | Failure:
    """The inverse of `encode`. Raises Malformed for unreadable data."""
    head, newline, body = raw.partition(b"\n")
    if not newline or len(head) > _HEADER_MAX_BYTES:
        raise Malformed("the result has no header line")
    try:
        if not body:
            header = json.loads(head.decode())
            return Failure(str(header["code"]), str(header["message"]))
        if not _is_fragment(body):
            raise Malformed("the prediction is not a list of labels and scores")
        tokens, truncated, queue_ms, tokenize_ms, model_ms, batch_size, names = head.split(b" ", 6)
        revision, model = _read_names(names)
        return Prediction(
            body,
            revision,
            int(tokens),
            int(truncated),
            float(queue_ms),
            float(tokenize_ms),
            float(model_ms),
            int(batch_size),
            model,
            cached,
            truncated.startswith(b"+"),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed(f"the result is unreadable: {type(error).__name__}") from error


# Matches exactly the ASCII JSON that `fragment` writes. This is several times faster than parsing it.
_is_fragment = re.compile(
    rb'\[(?:\{"label":"(?:[ !#-\[\]-~]|\\(?:["\\/bfnrt]|u[0-9a-f]{4}))*",'
    rb'"score":-?\d+(?:\.\d+)?(?:e-?\d+)?\}(?:,(?=\{)|(?=\])))+\]'
).fullmatch


@dataclass(frozen=True, slots=True)
class BatchNote:
    """The report of a worker about one batch. `number` counts the batches since the worker started.

    `computed` includes padding, `tokens` does not. `queue_ms` is the longest wait of its entries.
    """

    number: int
    size: int
    tokens: int
    computed: int
    reason: str
    queue_ms: float
    model_ms: float

    def encode(self) -> str:
        numbers = f"{self.number},{self.size},{self.tokens},{self.computed}"
        return f"{numbers},{self.reason},{self.queue_ms:.1f},{self.model_ms:.1f}"


def decode_notes(text: str) -> tuple[BatchNote, ...]:
    """Decodes notes joined by semicolons. Raises ValueError for unreadable data."""
    notes = []
    for note in text.split(";") if text else ():
        number, size, tokens, computed, reason, queue_ms, model_ms = note.split(",")
        counts = (int(number), int(size), int(tokens), int(computed))
        notes.append(BatchNote(*counts, reason, float(queue_ms), float(model_ms)))
    return tuple(notes)


# The id of an entry, and its outcome.
Result = tuple[str, Prediction | Failure]
