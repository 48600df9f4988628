"""The body of a job, and of its results, in responses."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from api.schemas import LabelScore, optional
from batcher.jobs.records import JobRecord, JobStatus
from batcher.webhook_security import parse_url
from text_files.formats import FormatName

# Most labels whose texts are counted in an answer.
MAX_LABELS = 20
# Why a job cannot go on.
WaitsFor = Literal["no_worker", "paused", "labels_differ", "several_labels"]


class JobError(BaseModel):
    """Why a job, or one of its texts, failed."""

    code: str
    detail: str


class DeliveryAttempt(BaseModel):
    """One attempt to send the webhook: the status of the response, or why there was none."""

    at: datetime
    status: int | None
    error: str


class Webhook(BaseModel):
    """The webhook of a job, by the host that receives it. `next_at` is null if no attempt will follow."""

    host: str
    attempts: list[DeliveryAttempt]
    next_at: datetime | None


class JobFile(BaseModel):
    """The file that a job came from, and how it was read."""

    name: str
    format: FormatName
    delimiter: str | None = Field(description="Of CSV and TSV")
    encoding: str
    gzipped: bool = Field(description="Whether `compression` is gzip")
    compression: Literal["gzip", "zstd"] | None = None
    header: bool = Field(True, description="Whether the first line of a table names the columns")
    literal: bool = Field(False, description="Whether quotes in a table are ordinary characters")
    column: str = Field(description="The column or field that holds the texts")
    description: str = Field(description="Format, delimiter and encoding in words")
    note: str = Field("", description="What may be wrong with that")


class LabelCount(BaseModel):
    """How many texts of a job have this label as their best one."""

    label: str
    texts: int


class FilePreview(BaseModel):
    """How a file would be read, and its first rows; `column` is the index of the one that holds the texts."""

    file: JobFile
    columns: list[str]
    column: int
    rows: list[list[str]]


class Job(BaseModel):
    """A job. Times are UTC."""

    id: str
    status: JobStatus
    total: int = Field(description="Number of texts")
    done: int = Field(description="Number of texts with a result: a prediction or an error")
    failed: int = Field(description="Number of results that are errors")
    truncated: int = Field(description="Number of texts that were longer than the model can read")
    truncated_tokens: int = Field(description="Number of their tokens that the model did not read")
    unknown: int = Field(
        description="Number of texts of which the model does not know more than half of the pieces"
    )
    labels: list[LabelCount] = Field(
        description=f"How many texts have each label so far: the {MAX_LABELS} most frequent, most first"
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    position: int | None = Field(description="While queued: the position in the queue; 1 runs next")
    rate: float | None = Field(description="While running: current texts per second")
    remaining_s: float | None = Field(description="While running: seconds left at that rate")
    waits_for: WaitsFor | None = Field(
        description="Until it has ended: why it cannot go on now, if its model has no worker or is paused, "
        "or the members of its cascade do not fit"
    )
    model: str | None = Field(description="name@revision of the newest results")
    models: list[str] = Field(description="name@revision of all models that have answered its texts")
    bytes: int = Field(description="Size of the stored texts and results, which deleting the job frees")
    error: JobError | None
    webhook: Webhook | None = Field(description="Deliveries of the webhook, if the job has one")
    file: JobFile | None = Field(description="Present if `filename` was given")


class JobList(BaseModel):
    """Jobs, newest first. `next_cursor` is the cursor of the next page; null on the last page."""

    jobs: list[Job]
    next_cursor: str | None


class EntryError(BaseModel):
    """The result of a text that failed, in place of its prediction."""

    error: JobError


class TextResult(BaseModel):
    """A prediction, or the error in its place.

    With `texts=true`, also the text (null: too long). With `models=true`, the model that answered (null: an
    error, or a result of an earlier version).
    """

    text: str | SkipJsonSchema[None] = optional()
    model: str | SkipJsonSchema[None] = optional()
    prediction: list[LabelScore] | SkipJsonSchema[None] = optional()
    error: JobError | SkipJsonSchema[None] = optional()


class JobPredictions(BaseModel):
    """Results from position `offset`, in the order of the texts. `next_offset` is null on the last page."""

    offset: int
    total: int
    done: int
    next_offset: int | None
    predictions: list[list[LabelScore] | EntryError | TextResult]


def job_body(record: JobRecord, position: int | None = None, waits_for: WaitsFor | None = None) -> Job:
    """The response body of GET /jobs/{id}."""
    running = record.status == "running" and record.rate > 0
    facts = {
        "labels": [
            {"label": label, "texts": texts}
            for label, texts in Counter(record.labels).most_common(MAX_LABELS)
        ],
        "created_at": _time(record.created_ms),
        "started_at": _time(record.started_ms) if record.started_ms else None,
        "finished_at": _time(record.finished_ms) if record.finished_ms else None,
        "position": position if record.status == "queued" else None,
        "rate": record.rate if running else None,
        "remaining_s": record.remaining_s if running else None,
        "waits_for": waits_for,
        "model": record.model or None,
        "bytes": record.held_bytes,
        "error": {"code": record.error_code, "detail": record.error} if record.error_code else None,
        "file": JobFile.model_validate_json(record.file) if record.file else None,
        "webhook": _webhook(record) if record.webhook else None,
    }
    return Job.model_validate(asdict(record) | facts)


def _webhook(record: JobRecord) -> Webhook:
    due_ms = record.next_delivery_ms
    return Webhook(
        host=parse_url(record.webhook).authority,
        attempts=[DeliveryAttempt.model_validate(attempt) for attempt in record.deliveries],
        next_at=None if due_ms is None else _time(due_ms),
    )


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
