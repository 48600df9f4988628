"""The queue's commands: what each Lua script takes, and what its reply means.

`Sweep` and what it reads are in `snapshot`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

from batcher.connection.outage import jitter
from batcher.connection.scripts import call
from batcher.core.holds import Pause, Waiting, read_pauses
from batcher.messages import NO_TRACE, Entry, Lane, decode_entry

# How long Redis keeps an entry after its budget, and a failure for the API processes that wait for it.
KEEP_MS = 60_000
FAILURE_MS = 2_000
_CLAIM_HEAD = 5
_CLAIM_FIELDS = 4
# How long a shard remembers that another one needs help. It is reminded in time while that is so.
HELP_MS = 200
# API processes are asked about the id of a REQUEST, or of a text that may be HELD by them; workers are asked
# about the ids of TEXTS.
REQUEST = "request"
HELD = "held"
TEXTS = "texts"
# How long a list of answers is kept.
ANSWERS_MS = 10_000
# How long refused texts are kept; the scripts keep their records for as long.
KEEP_REFUSED_MS = 7 * 86_400_000
# What is counted for each key and day. lua/usage.lua has the same names.
COUNTS = ("texts", "tokens", "requests", "hits", "errors")
Reply = TypeVar("Reply", covariant=True)


class Command(Generic[Reply]):
    """One call of a script."""

    __slots__: ClassVar[tuple[str, ...]] = ()
    script: ClassVar[str]

    def args(self) -> Sequence[Any]:
        """The script's arguments: by default the values of the fields, and those of lists one by one."""
        args: list[Any] = []
        for value in (getattr(self, name) for name in self.__slots__):
            args += [value] if isinstance(value, str | int) else value
        return args

    def read(self, reply: Any) -> Reply:
        """What the reply of the script means. Numbers are left as they are."""
        meaning: Reply = reply
        return meaning

    def words(self, prefix: str, known: bool) -> tuple[Any, ...]:
        """The command to send: by digest if the server knows the script, else by source."""
        return (*call(self.script, known), 1, prefix, *self.args())


class State(NamedTuple):
    """What the queue knows of one id. `result` is there if it is known or cached."""

    kind: Literal["queued", "joined", "known", "cached", "waiting", "gone"]
    result: bytes = b""


_WITHOUT_RESULT = {
    b"queued": State("queued"),
    b"joined": State("joined"),
    b"waiting": State("waiting"),
    b"gone": State("gone"),
}


def _state(reply: Any) -> State:
    if isinstance(reply, list):
        return State("cached", reply[0])
    return _WITHOUT_RESULT.get(reply) or State("known", reply)


@dataclass(frozen=True, slots=True)
class Full:
    """Nothing was queued, because too much waits in the lane: `waiting` is its cost in tokens."""

    waiting: int


class Accepted(NamedTuple):
    """The state of each id, and how many workers are still idle although something was queued.

    -1: something was queued, and there was no idle worker to wake.
    """

    states: list[State]
    idle: int


Enqueued = Accepted | Full


@dataclass(slots=True)  # not frozen, which takes three times as long
class Enqueue:
    """Requests results of texts: `ids`, `texts` and `costs` are parallel.

    With a `cache` prefix, cached results are looked up too; the cache must be in this Redis. Stored
    results of other revisions than `only`, if given, do not answer.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    costs: Sequence[int]
    api: str
    lane: Lane
    budget_ms: int
    cap: int
    trace: str = ""
    first: bool = False
    cache: str = ""
    only: str = ""


@dataclass(frozen=True, slots=True)
class EnqueueAll(Command[list[Enqueued]]):
    """Enqueues `requests` of one API process, as if one after the other. No id may occur in two.

    `revision` is that of the current model of all shards, if it is known.
    """

    script = "enqueue"
    requests: Sequence[Enqueue]
    revision: str = ""

    def args(self) -> list[Any]:
        args: list[Any] = [self.requests[0].api, KEEP_MS, self.revision]
        for one in self.requests:
            args += [len(one.ids), one.lane, one.budget_ms, one.cap, one.trace or NO_TRACE, int(one.first)]
            args += [one.cache, one.only]
            for item in zip(one.ids, one.texts, one.costs, strict=True):
                args += item
        return args

    def read(self, reply: Any) -> list[Enqueued]:
        *answers, idle = reply
        return [
            Accepted([_state(state) for state in one], int(idle)) if isinstance(one, list) else Full(int(one))
            for one in answers
        ]


@dataclass(frozen=True, slots=True)
class Cancel(Command[int]):
    """An API process stops waiting for entries. Returns how many were deleted."""

    script = "cancel"
    api: str
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Outcomes(Command[list[State]]):
    """Polls for results: for each id, it is known, waiting or gone."""

    script = "outcomes"
    ids: Sequence[str]

    def read(self, reply: Any) -> list[State]:
        return [_state(state) for state in reply]


@dataclass(frozen=True, slots=True)
class Claimed:
    """The result of one claim. `left` entries still wait in all lanes.

    `note` is about another shard that is to be served before this one: `number since`, or empty.
    """

    entries: list[Entry] = field(default_factory=list)
    left: int = 0
    skipped: int = 0
    expired: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Claim(Command[Claimed]):
    """Takes entries for a worker. `free`: it holds nothing else, so it may get a quarantined entry.

    `bulk_cost` is for bulk entries alone; -1: none, not even beside interactive ones.
    `waits`: it is sent in advance. A worker without a heartbeat for the time of a lease then gets nothing.
    `idle_ms`: how long the worker has been idle (-1: busy). If it gets nothing, it can then be woken.
    `helped`, with several shards: the note of one that turned out to need no help, or -.
    """

    script = "claim"
    worker: str
    entries: int
    cost: int
    bulk_cost: int
    lease_ms: int
    max_attempts: int
    free: bool = True
    waits: bool = False
    idle_ms: int = -1
    helped: str = ""

    def args(self) -> list[Any]:
        limits = [self.entries, self.cost, self.bulk_cost, self.lease_ms, self.max_attempts]
        return [self.worker, *limits, int(self.free), int(self.waits), self.idle_ms, self.helped]

    def read(self, reply: Any) -> Claimed:
        """An unreadable entry counts as skipped."""
        left, skipped, expired, now_ms, note = reply[:_CLAIM_HEAD]
        entries = []
        for at in range(_CLAIM_HEAD, len(reply), _CLAIM_FIELDS):
            try:
                entries.append(decode_entry(*reply[at : at + _CLAIM_FIELDS], now_ms=int(now_ms)))
            except ValueError:
                skipped += 1
        return Claimed(entries, int(left), int(skipped), int(expired), note.decode())


class Completed(NamedTuple):
    """How many entries were still waiting, and why Redis refused to cache their results (or nothing)."""

    answered: int
    refusal: str


def spread(lifetime_ms: float) -> int:
    """Varies a lifetime by up to 10 %, so that results cached together do not expire together."""
    return int(lifetime_ms * jitter(0.9, 1.1))


@dataclass(frozen=True, slots=True)
class Complete(Command[Completed]):
    """Sends results, which are cached for about `cache_ms` if that is not 0. A failure may run again.

    `idle`: the worker has nothing else to do, and can be woken from then on; to help other shards, too, if it
    `helps`.
    """

    script = "complete"
    worker: str
    ids: Sequence[str]
    results: Sequence[bytes]
    result_ms: int
    cache: str = ""
    cache_ms: int = 0
    idle: bool = False
    helps: bool = False

    def args(self) -> list[Any]:
        idle = (2 if self.helps else 1) if self.idle else 0
        args = [self.worker, idle, self.result_ms, FAILURE_MS, self.cache, spread(self.cache_ms)]
        for pair in zip(self.ids, self.results, strict=True):
            args += pair
        return args

    def read(self, reply: Any) -> Completed:
        answered, refusal = reply
        return Completed(int(answered), refusal.decode("utf-8", "replace"))


class Waking(NamedTuple):
    """How many workers are still idle: 0 if nothing waits, -1 if there was none to wake.

    Then the first entry has waited for `oldest_ms`.
    """

    idle: int
    oldest_ms: int


@dataclass(frozen=True, slots=True)
class Wake(Command[Waking]):
    """Wakes one more worker if entries wait."""

    script = "wake"

    def read(self, reply: Any) -> Waking:
        return Waking(*map(int, reply))


@dataclass(frozen=True, slots=True)
class EndWait(Command[int]):
    """Ends the wait of one worker."""

    script = "end_wait"
    worker: str


@dataclass(frozen=True, slots=True)
class Lend(Command[int]):
    """Wakes a worker of this shard to help `shard`, where entries wait and all workers are busy.

    Returns how many are still idle, or -1 if there was none to wake: the next idle one is then asked.
    """

    script = "lend"
    shard: int
    oldest_ms: int

    def args(self) -> list[int]:
        return [self.shard, self.oldest_ms, HELP_MS]


class Question(NamedTuple):
    """`kind` is REQUEST, HELD or TEXTS. Answers go to the list of the `token`."""

    token: str
    kind: str
    ids: tuple[str, ...]


def read_question(text: str) -> Question | None:
    """Reads `ends token kind id id ...`, as ask.lua writes it. None if there is no question."""
    words = text.split(" ")
    return Question(words[1], words[2], tuple(words[3:])) if len(words) > 3 else None


@dataclass(frozen=True, slots=True)
class AskQuestion(Command[bool]):
    """Asks a question for `for_ms`. False while another one is open."""

    script = "ask"
    question: Question
    for_ms: int

    def args(self) -> list[Any]:
        token, kind, ids = self.question
        return [token, " ".join((kind, *ids)), self.for_ms]

    def read(self, reply: Any) -> bool:
        return bool(reply)


@dataclass(frozen=True, slots=True)
class EndQuestion(Command[int]):
    """Ends a question, so that another one can be asked."""

    script = "ask"
    token: str

    def args(self) -> list[Any]:
        return [self.token, "", 0]


@dataclass(frozen=True, slots=True)
class Answer(Command[int]):
    """Answers the question with this `token`, in JSON."""

    script = "answer"
    token: str
    body: str

    def args(self) -> list[Any]:
        return [self.token, self.body, ANSWERS_MS]


class HeartbeatReply(NamedTuple):
    """How many leases were extended, and the question that the console asks all workers."""

    extended: int
    question: Question | None = None


@dataclass(frozen=True, slots=True)
class SendHeartbeat(Command[HeartbeatReply]):
    """Extends the leases of `ids` and renews the records of worker and model.

    With empty records, those of the last heartbeat are renewed; if Redis does not have them, -1 are extended.
    """

    script = "beat"
    worker: str
    lease_ms: int
    ttl_ms: int
    ids: Sequence[str]
    record: Mapping[str, Any]
    model: Mapping[str, Any]
    takeover: bool = False

    def args(self) -> list[Any]:
        args: list[Any] = [self.worker, self.lease_ms, self.ttl_ms, int(self.takeover)]
        for fields in (self.record, self.model):
            args += [len(fields), *(value for pair in fields.items() for value in pair)]
        return [*args, *self.ids]

    def read(self, reply: Any) -> HeartbeatReply:
        return HeartbeatReply(int(reply[0]), read_question(reply[1].decode()))


@dataclass(frozen=True, slots=True)
class Release(Command[int]):
    """Returns claimed entries to their lanes. Returns how many."""

    script = "release"
    ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Retire(Command[int]):
    """Removes a worker and ends the leases of `suspects`, which then run alone on another worker."""

    script = "retire"
    worker: str
    suspects: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NoteRefused(Command[int]):
    """Adds the client to the record of a refused text, and the text unless it is None.

    Returns 1, or 0 if there is no such record.
    """

    script = "refused_note"
    id: str
    client: str
    text: str | None = None

    def args(self) -> list[Any]:
        text = "" if self.text is None else f"={self.text}"
        return [self.id, self.client, text, KEEP_REFUSED_MS]


@dataclass(frozen=True, slots=True)
class SetPause(Command[Mapping[str, Pause]]):
    """Pauses a lane for `for_ms`, or resumes it if `waiting` is "". Returns what was decided about lanes.

    An earlier decision than the last, by its `number`, changes nothing.
    """

    script = "pause"
    lane: str
    waiting: Waiting | Literal[""]
    for_ms: int
    number: int

    @classmethod
    def of(cls, lane: str, pause: Pause) -> Self:
        """What lets another queue know of a decision."""
        left_ms = round(pause.left_s * 1000)
        return cls(lane, pause.waiting if left_ms else "", left_ms, pause.number)

    def read(self, reply: Any) -> Mapping[str, Pause]:
        return read_pauses(reply.decode())


class UsageRow(NamedTuple):
    """What was counted for the key `name` on one day (UTC), as 2026-01-31."""

    name: str
    day: str
    texts: int
    tokens: int
    requests: int
    hits: int
    errors: int


@dataclass(frozen=True, slots=True)
class AddUsage(Command[list[int]]):
    """Adds what a process has counted, and publishes its clients (JSON). Returns the texts of each row's day.

    Sent again with the same `number`, it adds nothing.
    """

    script = "usage"
    api: str
    number: int
    clients: str
    keep_ms: int
    rows: Sequence[UsageRow]

    def args(self) -> list[Any]:
        counts = [value for row in self.rows for value in row]
        return [self.api, self.number, self.clients, self.keep_ms, *counts]

    def read(self, reply: Any) -> list[int]:
        return [int(texts) for texts in reply]
