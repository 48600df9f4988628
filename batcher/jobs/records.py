"""What jobs are made of: frozen data, as the store reads and the API shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

JobStatus = Literal["queued", "running", "finished", "failed", "cancelled"]
STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
OPEN: frozenset[str] = frozenset(("queued", "running"))


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is known of a job. Times in ms of the Redis clock; `rate` in texts/s, 0 unless it runs."""

    id: str
    status: JobStatus
    total: int
    done: int
    failed: int
    created_ms: int
    started_ms: int | None
    finished_ms: int | None
    chunk_texts: int
    attempt: int
    rate: float
    model: str
    digest: str
    error_code: str
    error: str
    place: str
    # Whose it is: the start of the digest of an API key; "": anybody's.
    owner: str = ""
    # Texts and results that it holds in Redis, and whether its texts are kept after its end.
    held_bytes: int = 0
    keep_input: bool = False

    def shown_to(self, owner: str) -> bool:
        """Whether `owner` may know of it; "" may know of all."""
        return not owner or self.owner in ("", owner)

    @property
    def ended(self) -> bool:
        """Nothing changes any more."""
        return self.status not in OPEN

    @property
    def remaining_s(self) -> float | None:
        """Seconds until it is done at its present rate; None unless it runs."""
        return round((self.total - self.done) / self.rate, 1) if self.rate > 0 else None

    @property
    def version(self) -> str:
        """Differs whenever status or progress does."""
        return f"{STATUSES.index(self.status)}-{self.done}-{self.failed}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a run starts from: `first` is the first chunk without results, `ran_ms` since the first run.

    `token` is known to this attempt only: no other one, of this job or a later one of its id, can write.
    """

    job_id: str
    token: str
    status: str
    number: int
    first: int
    chunks: int
    total: int
    chunk_texts: int
    ran_ms: int


@dataclass(frozen=True, slots=True)
class Created:
    """What became of an upload: `full` when too many jobs wait, `lost` when it took too long."""

    outcome: Literal["created", "exists", "full", "lost"]
    digest: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over all jobs: those that wait and run now; since the counting began, `ended` by status.

    `oldest_ms` is the age of the job that runs next, `texts` are done, failed ones included.
    """

    queued: int
    running: int
    oldest_ms: int
    texts: int
    failed_texts: int
    ended: Mapping[str, int]
    held_bytes: int = 0


def read_record(job_id: str, raw: Mapping[bytes, bytes]) -> JobRecord | None:
    """The record in a hash as `job_create` began it; None for one that is not there."""
    if b"status" not in raw:
        return None
    facts = {name.decode(): value.decode() for name, value in raw.items()}

    def number(name: str) -> int | None:
        return int(facts[name]) if name in facts else None

    return JobRecord(
        id=job_id,
        status=cast(JobStatus, facts["status"]),
        total=int(facts["total"]),
        done=int(facts["done"]),
        failed=int(facts["failed"]),
        created_ms=int(facts["created_ms"]),
        started_ms=number("started_ms"),
        finished_ms=number("finished_ms"),
        chunk_texts=int(facts["chunk_texts"]),
        attempt=int(facts["attempt"]),
        rate=float(facts.get("rate", 0)),
        model=facts.get("model", ""),
        digest=facts["digest"],
        error_code=facts.get("error_code", ""),
        error=facts.get("error", ""),
        place=facts["place"],
        owner=facts.get("owner", ""),
        held_bytes=int(facts.get("input_bytes", 0)) + int(facts.get("output_bytes", 0)),
        keep_input=facts.get("keep_input") == "1",
    )
