"""What travels through the queue, and what is known of it: frozen data and its bytes. Standard library only.

A result travels as two lines: facts about the run, then the prediction exactly as the HTTP body will carry
it. The API joins those second lines without parsing or encoding them again. A failure is a line of JSON.
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
from batcher.memory import NO_MEMORY, Memory

Lane = Literal["interactive", "bulk"]

_FAILURES: dict[str, type[MillraceError]] = {
    error.code: error for error in (EntryFailed, EntryPoisoned, BudgetExceeded)
}
_HEADER_MAX_BYTES = 4096


def entry_id(text: str, options: str = "") -> str:
    """The 256-bit digest of (options, text), 64 hex digits.

    The length of the options stands before both, so that no concatenation of one pair reads as another.
    """
    head = options.encode()
    return hashlib.sha256(b"%d:%b%b" % (len(head), head, text.encode())).hexdigest()


def estimate_cost(text: str) -> int:
    """Tokens that a text will probably need: about 4.4 characters a token, plus the two special ones."""
    return 2 + (len(text) * 10 + 43) // 44


@dataclass(frozen=True, slots=True)
class Entry:
    """One text waiting for its result, as a worker sees it after the claim. Times by the Redis clock."""

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
        """What a log line may say of an entry: never its text."""
        return {"entry": self.id, "lane": self.lane, "attempts": self.attempts, "waited_ms": self.waited_ms}


class Prediction(NamedTuple):
    """The answer for one text. `fragment` is a JSON list of {"label", "score"} in label id order.

    `cached` if it was read from the long-lived cache: a fact of the reading, so `encode` leaves it out.
    A tuple, for it is made twice for each text: several times faster than a frozen dataclass.
    """

    fragment: bytes
    revision: str
    tokens: int
    truncated: bool = False
    queue_ms: float = 0.0
    tokenize_ms: float = 0.0
    model_ms: float = 0.0
    batch_size: int = 0
    model: str = ""
    cached: bool = False

    def encode(self) -> bytes:
        """A line of facts about it, then the fragment."""
        return b"%d %d %.3f %.3f %.3f %d %b\n%b" % (
            self.tokens,
            self.truncated,
            self.queue_ms,
            self.tokenize_ms,
            self.model_ms,
            self.batch_size,
            _names(self.revision, self.model),
            self.fragment,
        )


# Names of models and revisions: few, and the same over and over.
@lru_cache(maxsize=64)
def _names(*names: str) -> bytes:
    return json.dumps(names).encode()


@lru_cache(maxsize=64)
def _read_names(raw: bytes) -> tuple[str, str]:
    revision, model = json.loads(raw)
    return str(revision), str(model)


@dataclass(frozen=True, slots=True)
class Failure:
    """A final answer that is no prediction. Never cached."""

    code: str
    message: str

    def encode(self) -> bytes:
        return (
            json.dumps({"code": self.code, "message": self.message}, separators=(",", ":")).encode() + b"\n"
        )

    def error(self) -> MillraceError:
        return _FAILURES.get(self.code, EntryFailed)(self.message)


# What becomes of a text.
Outcome = Prediction | MillraceError


def fragment(labels: Sequence[str], scores: Sequence[float]) -> bytes:
    """The prediction of one text as HTTP carries it, e.g. [{"label":"NEGATIVE","score":0.1},...]."""
    pairs = [
        f'{{"label":{_quoted(label)},"score":{round(score, 7)!r}}}'
        for label, score in zip(labels, scores, strict=True)
    ]
    return f"[{','.join(pairs)}]".encode()


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    """As a JSON string. Labels: few, and the same over and over."""
    return json.dumps(text)


def decode_cached(raw: bytes) -> Prediction | None:
    """A long-lived result; None for what cannot be read as one."""
    try:
        result = decode_result(raw, cached=True)
    except Malformed:
        return None
    return result if isinstance(result, Prediction) else None


def decode_result(raw: bytes, *, cached: bool = False) -> Prediction | Failure:
    """The inverse of `encode`. Raises Malformed for anything this program did not write."""
    head, newline, body = raw.partition(b"\n")
    if not newline or len(head) > _HEADER_MAX_BYTES:
        raise Malformed("a result without its header line")
    try:
        if not body:
            header = json.loads(head.decode())
            return Failure(str(header["code"]), str(header["message"]))
        if not _is_fragment(body):
            raise Malformed("a prediction that is no list of labels and scores")
        tokens, truncated, queue_ms, tokenize_ms, model_ms, batch_size, names = head.split(b" ", 6)
        revision, model = _read_names(names)
        return Prediction(
            body,
            revision,
            int(tokens),
            truncated == b"1",
            float(queue_ms),
            float(tokenize_ms),
            float(model_ms),
            int(batch_size),
            model,
            cached,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Malformed(f"a result that cannot be read: {type(error).__name__}") from error


# The form that `fragment` writes, and nothing else: JSON in ASCII. Several times faster than parsing it.
_is_fragment = re.compile(
    rb'\[(?:\{"label":"(?:[ !#-\[\]-~]|\\(?:["\\/bfnrt]|u[0-9a-f]{4}))*",'
    rb'"score":-?\d+(?:\.\d+)?(?:e-?\d+)?\}(?:,(?=\{)|(?=\])))+\]'
).fullmatch


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What ready workers publish of the model they run (`P:model`)."""

    name: str
    revision: str
    labels: tuple[str, ...]
    max_tokens: int
    engine: str
    precision: str


@dataclass(frozen=True, slots=True)
class BatchNote:
    """One batch as its worker tells of it: `number` since its start, its longest wait, its pass.

    `computed` counts the padding, `tokens` does not.
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
    """Notes joined by semicolons. Raises ValueError for anything this program did not write."""
    notes = []
    for note in text.split(";") if text else ():
        number, size, tokens, computed, reason, queue_ms, model_ms = note.split(",")
        counts = (int(number), int(size), int(tokens), int(computed))
        notes.append(BatchNote(*counts, reason, float(queue_ms), float(model_ms)))
    return tuple(notes)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What a live worker publishes of itself (`P:worker:<id>`). `rate` is in tokens per second.

    `recent` are its last batches, oldest first.
    """

    id: str
    revision: str
    engine: str
    precision: str
    state: str
    rate: float
    batches: int
    texts: int
    last_batch: int
    started_ms: int
    recent: tuple[BatchNote, ...] = ()
    arithmetic: str = ""
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """What waits in one lane: entries, their estimated cost in tokens, age of the first in ms."""

    entries: int
    cost: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the whole mill, as one sweep saw it."""

    model: ModelRecord | None
    workers: tuple[WorkerRecord, ...]
    interactive: LaneDepth
    bulk: LaneDepth
    solo: int
    in_flight: int
    recovered: int
    memory: Memory = NO_MEMORY

    @property
    def rate(self) -> float:
        """Tokens per second of all live workers together; 0 when unknown."""
        return sum(worker.rate for worker in self.workers)


NO_SNAPSHOT = Snapshot(None, (), LaneDepth(0, 0, 0), LaneDepth(0, 0, 0), 0, 0, 0)
