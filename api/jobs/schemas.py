"""What the API shows of a job: its body, and pages of its results as JSON, NDJSON or CSV."""

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

PageType = Literal["application/json", "application/x-ndjson", "text/csv"]
PAGE_TYPES: tuple[PageType, ...] = get_args(PageType)


class JobError(BaseModel):
    """Why a job failed, or one of its entries."""

    code: str
    detail: str


class Job(BaseModel):
    """A job. Times are UTC."""

    id: str
    status: JobStatus
    total: int = Field(description="Texts of the job")
    done: int = Field(description="Texts that have a result: a prediction or an error")
    failed: int = Field(description="Of these, the ones with an error")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    position: int | None = Field(description="While queued: 1 is the next to run")
    rate: float | None = Field(description="While running: texts per second, lately")
    remaining_s: float | None = Field(description="While running: seconds left at that rate")
    model: str | None = Field(description="name@revision that gave the newest results")
    bytes: int = Field(description="Texts and results that are kept of it: what its deletion makes room for")
    error: JobError | None


class JobList(BaseModel):
    """Jobs, newest first. `next_cursor` leads to older ones; null at the end."""

    jobs: list[Job]
    next_cursor: str | None


class EntryError(BaseModel):
    """Stands in the place of the prediction of a text that has none."""

    error: JobError


class JobPredictions(BaseModel):
    """Results from text `offset` on, in the order of the input. `next_offset` is null after the last."""

    offset: int
    total: int
    done: int
    next_offset: int | None
    predictions: list[list[LabelScore] | EntryError]


def job_body(record: JobRecord, position: int | None = None) -> Job:
    """What GET /jobs/{id} answers."""
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
    )


def next_offset(record: JobRecord, end: int) -> int | None:
    """Where the page after one that ends at `end` begins. None: a job that has ended gets no more results."""
    last = record.done if record.ended else record.total
    return end if end < last else None


def page_type(accept: str) -> PageType:
    """The type that `Accept` prefers among those there are; JSON where it names none of them."""
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
    """The bytes of one page: results [offset, end), a block for each chunk of them."""
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
    """`index`, the best label and its score, and an error code where there is no prediction."""
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
