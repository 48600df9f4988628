"""Data classes of jobs, as the store reads them and the API shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, Json, TypeAdapter

is_job_id = re.compile("[0-9a-f]{32}").fullmatch
JobStatus = Literal["queued", "running", "finished", "failed", "cancelled"]
STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
OPEN: frozenset[str] = frozenset(("queued", "running"))


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """The record of a job. Times are in ms of the Redis clock; `rate` is in texts/s, 0 unless it runs."""

    id: str
    status: JobStatus
    total: int
    done: int
    failed: int
    created_ms: int
    started_ms: int | None = None
    finished_ms: int | None = None
    chunk_texts: int
    attempt: int
    rate: float = 0.0
    model: str = ""
    digest: str
    error_code: str = ""
    error: str = ""
    place: str
    # The owner, as the start of the digest of an API key; "": every client may see the job.
    owner: str = ""
    # Bytes of texts that it holds in Redis, and whether they are kept after it ends.
    input_bytes: int = 0
    keep_input: bool = False
    # Facts about the batch that it belongs to, as JSON; "" if it does not belong to one.
    batch: str = ""
    # The URL that is notified of its end, the attempts at that so far, and when the next one is due.
    webhook: str = ""
    deliveries: Json[list[Mapping[str, Any]]] = field(default_factory=list)
    next_delivery_ms: int | None = None
    # Facts about the file that it came from, as JSON; "" if it came without a file name.
    file: str = ""
    # Texts that were longer than the model can read, and how many of their tokens it did not read.
    truncated: int = 0
    truncated_tokens: int = 0
    # Texts of which the model does not know more than half of the pieces.
    unknown: int = 0
    # The name of the queue of the model that was asked for; "" for the first.
    queue: str = ""
    # name@revision of all models that have answered its texts.
    models: Annotated[list[str], BeforeValidator(_lines)] = field(default_factory=list)
    # How many texts have each label; of a model with hundreds of labels, those that its texts had first.
    labels: Mapping[str, int] = field(default_factory=dict)
    # Bytes of results, and those of errors among them.
    output_bytes: int = 0
    failed_bytes: int = 0
    # How long it is kept after its end; 0: as all jobs are.
    ttl_ms: int = 0

    def shown_to(self, owner: str) -> bool:
        """Whether `owner` may see this job; the owner "" may see all jobs."""
        return not owner or self.owner in ("", owner)

    @property
    def file_name(self) -> str:
        """The name of the file that it came from; "" if it came without one."""
        return str(json.loads(self.file).get("name", "")) if self.file else ""

    @property
    def receiver(self) -> str:
        """The host and the port of its webhook, as they are written."""
        return self.webhook.split("/", 3)[2]

    @property
    def held_bytes(self) -> int:
        """Bytes of texts and results that it holds in Redis."""
        return self.input_bytes + self.output_bytes

    @property
    def ended(self) -> bool:
        return self.status not in OPEN

    @property
    def remaining_s(self) -> float | None:
        """Estimated seconds until the job is done; None unless it runs."""
        return round((self.total - self.done) / self.rate, 1) if self.rate > 0 else None

    @property
    def created_us(self) -> int:
        """When it was created, in microseconds since 1970 by the clock of Redis."""
        return int(self.place.partition(":")[0])

    @property
    def version(self) -> str:
        """A string that changes whenever the status or the progress does. Each job of an id has its own."""
        return f"{self.created_us}-{STATUSES.index(self.status)}-{self.done}-{self.failed}"


class Used(NamedTuple):
    """The texts of jobs by the names of their keys: used on this day, and yet to be used.

    `at_us` is the time of Redis, in microseconds since 1970: jobs that were created later are not counted.
    """

    at_us: int
    texts: Mapping[str, int]


_RECORD = TypeAdapter(JobRecord)
# The field of a label begins with it; the label as JSON follows.
_LABEL = "label "


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a job.

    `first` is the first chunk without results, and `ran_ms` how long all attempts have run. Only this attempt
    knows `token`, so no other attempt at this job, or at a later job of the same id, can write. `queue`,
    `owner` and `trace` are as in JobRecord and Submission, `account` is that of its client (`account_of`),
    and `left` are the texts without results.
    """

    job_id: str
    token: str
    status: str
    number: int
    first: int
    chunks: int
    chunk_texts: int
    ran_ms: int
    queue: str = ""
    owner: str = ""
    trace: str = ""
    account: str = ""
    left: int = 0


class Left(NamedTuple):
    """A job that could not begin: whether it is large, its client, and how many jobs of that client run."""

    large: bool
    client: str
    running: int


class Claimed(NamedTuple):
    """Attempts that began, and the small and the large job that would have been next, if there are any."""

    attempts: Sequence[Attempt]
    left: Sequence[Left]


class Counts(NamedTuple):
    """What appended results add to the counts of a job, and to the usage of a key: `tokens` and `hits`."""

    failed: int = 0
    truncated: int = 0
    truncated_tokens: int = 0
    failed_bytes: int = 0
    tokens: int = 0
    hits: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class Created:
    """The outcome of an upload: `full` and `client_full` as in `JobStore.crowded`, `lost` if it expired."""

    outcome: Literal["created", "exists", "full", "client_full", "lost"]
    digest: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over all jobs: queued and running ones now, and ended ones by status since counting began.

    `oldest_ms` is the age of the job that runs next; `texts` counts finished texts, including failed ones.
    """

    queued: int
    running: int
    oldest_ms: int
    texts: int
    failed_texts: int
    ended: Mapping[str, int]
    held_bytes: int = 0


def read_attempt(raw: Sequence[Any]) -> Attempt:
    """Reads what the script function `begin` returns."""
    facts: list[Any] = [one.decode() if isinstance(one, bytes) else one for one in raw]
    return Attempt(*facts)


def read_record(job_id: str, raw: Mapping[bytes, bytes]) -> JobRecord | None:
    """Reads the hash that `job_create` writes; None if the job does not exist."""
    if b"status" not in raw:
        return None
    fields = {name.decode(): value.decode() for name, value in raw.items() if value}
    counts = [(name.removeprefix(_LABEL), count) for name, count in fields.items() if name.startswith(_LABEL)]
    labels = {json.loads(label): count for label, count in counts}
    return _RECORD.validate_python({**fields, "id": job_id, "labels": labels})
