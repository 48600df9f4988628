"""The body of a job in responses, and pages of its results as JSON, NDJSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

from api.schemas import LabelScore
from batcher.jobs.records import JobRecord, JobStatus
from batcher.webhook_address import parse_url

PageType = Literal["application/json", "application/x-ndjson", "text/csv"]
PAGE_TYPES: tuple[PageType, ...] = get_args(PageType)


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


class Job(BaseModel):
    """A job. Times are UTC."""

    id: str
    status: JobStatus
    total: int = Field(description="Number of texts")
    done: int = Field(description="Number of texts with a result: a prediction or an error")
    failed: int = Field(description="Number of results that are errors")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    position: int | None = Field(description="While queued: the position in the queue; 1 runs next")
    rate: float | None = Field(description="While running: current texts per second")
    remaining_s: float | None = Field(description="While running: seconds left at that rate")
    model: str | None = Field(description="name@revision of the newest results")
    bytes: int = Field(description="Size of the stored texts and results, which deleting the job frees")
    error: JobError | None
    webhook: Webhook | None = Field(description="Deliveries of the webhook, if the job has one")


class JobList(BaseModel):
    """Jobs, newest first. `next_cursor` is the cursor of the next page; null on the last page."""

    jobs: list[Job]
    next_cursor: str | None


class EntryError(BaseModel):
    """The result of a text that failed, in place of its prediction."""

    error: JobError


class JobPredictions(BaseModel):
    """Results from position `offset`, in the order of the texts. `next_offset` is null on the last page."""

    offset: int
    total: int
    done: int
    next_offset: int | None
    predictions: list[list[LabelScore] | EntryError]


def job_body(record: JobRecord, position: int | None = None) -> Job:
    """The response body of GET /jobs/{id}."""
    running = record.status == "running" and record.rate > 0
    return Job(
        id=record.id,
        status=record.status,
        total=record.total,
        done=record.done,
        failed=record.failed,
        created_at=_time(record.created_ms),
        started_at=_time(record.started_ms) if record.started_ms else None,
        finished_at=_time(record.finished_ms) if record.finished_ms else None,
        position=position if record.status == "queued" else None,
        rate=record.rate if running else None,
        remaining_s=record.remaining_s if running else None,
        model=record.model or None,
        bytes=record.held_bytes,
        error=JobError(code=record.error_code, detail=record.error) if record.error_code else None,
        webhook=_webhook(record) if record.webhook else None,
    )


def _webhook(record: JobRecord) -> Webhook:
    due_ms = record.next_delivery_ms
    return Webhook(
        host=parse_url(record.webhook).authority,
        attempts=[DeliveryAttempt.model_validate(attempt) for attempt in record.deliveries],
        next_at=None if due_ms is None else _time(due_ms),
    )


def next_offset(record: JobRecord, end: int) -> int | None:
    """The offset of the page after one that ends at `end`; None if there will not be any more results."""
    last = record.done if record.ended else record.total
    return end if end < last else None


def page_type(accept: str) -> PageType:
    """The available type that `Accept` prefers; JSON if it names none of them."""
    best: tuple[float, PageType] = (0.0, "application/json")
    for part in accept.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        for known in PAGE_TYPES:
            if name == known and weight > best[0]:
                best = (weight, known)
    return best[1]


def page(
    kind: PageType, record: JobRecord, offset: int, end: int, chunks: Iterable[list[bytes]]
) -> Iterator[bytes]:
    """Yields the bytes of a page with the results [offset, end), one block per chunk."""
    if kind == "application/json":
        return _json_page(record, offset, end, chunks)
    if kind == "text/csv":
        return _csv_page(offset, chunks)
    return (b"\n".join(lines) + b"\n" for lines in chunks)


def _json_page(record: JobRecord, offset: int, end: int, chunks: Iterable[list[bytes]]) -> Iterator[bytes]:
    following = next_offset(record, end)
    facts = {"offset": offset, "total": record.total, "done": record.done, "next_offset": following}
    yield json.dumps(facts, separators=(",", ":")).encode()[:-1] + b',"predictions":['
    comma = b""
    for lines in chunks:
        yield comma + b",".join(lines)
        comma = b","
    yield b"]}"


def _csv_page(offset: int, chunks: Iterable[list[bytes]]) -> Iterator[bytes]:
    """Yields `index`, the best label and its score, and the error code of a text that failed."""
    yield b"index,label,score,error\r\n"
    for lines in chunks:
        out = io.StringIO()
        rows = csv.writer(out)
        for index, line in enumerate(lines, offset):
            rows.writerow(_row(index, json.loads(line)))
        offset += len(lines)
        yield out.getvalue().encode()


def _row(index: int, result: Any) -> tuple[object, ...]:
    if isinstance(result, dict):
        return index, "", "", result["error"]["code"]
    best = max(result, key=lambda pair: pair["score"])
    return index, best["label"], best["score"], ""


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
