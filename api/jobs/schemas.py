"""The body of a job in responses, and pages of its results as JSON, NDJSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from api.jobs.file_format import FormatName
from api.schemas import LabelScore, absent
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


class JobFile(BaseModel):
    """The file that a job came from, and how it was read."""

    name: str
    format: FormatName
    delimiter: str | None = Field(description="Of CSV and TSV")
    encoding: str
    gzipped: bool
    column: str = Field(description="The column or field that holds the texts")
    description: str = Field(description="Format, delimiter and encoding in words")


class Job(BaseModel):
    """A job. Times are UTC."""

    id: str
    status: JobStatus
    total: int = Field(description="Number of texts")
    done: int = Field(description="Number of texts with a result: a prediction or an error")
    failed: int = Field(description="Number of results that are errors")
    truncated: int = Field(description="Number of texts that were longer than the model can read")
    truncated_tokens: int = Field(description="Number of their tokens that the model did not read")
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
    file: JobFile | None = Field(description="Present if `filename` was given")


class JobList(BaseModel):
    """Jobs, newest first. `next_cursor` is the cursor of the next page; null on the last page."""

    jobs: list[Job]
    next_cursor: str | None


class EntryError(BaseModel):
    """The result of a text that failed, in place of its prediction."""

    error: JobError


class TextResult(BaseModel):
    """With `texts=true`: a text (null: too long) and its prediction, or the error in its place."""

    text: str | None
    prediction: list[LabelScore] | SkipJsonSchema[None] = Field(default=None, json_schema_extra=absent)
    error: JobError | SkipJsonSchema[None] = Field(default=None, json_schema_extra=absent)


class JobPredictions(BaseModel):
    """Results from position `offset`, in the order of the texts. `next_offset` is null on the last page."""

    offset: int
    total: int
    done: int
    next_offset: int | None
    predictions: list[list[LabelScore] | EntryError | TextResult]


def job_body(record: JobRecord, position: int | None = None) -> Job:
    """The response body of GET /jobs/{id}."""
    running = record.status == "running" and record.rate > 0
    return Job(
        id=record.id,
        status=record.status,
        total=record.total,
        done=record.done,
        failed=record.failed,
        truncated=record.truncated,
        truncated_tokens=record.truncated_tokens,
        created_at=_time(record.created_ms),
        started_at=_time(record.started_ms) if record.started_ms else None,
        finished_at=_time(record.finished_ms) if record.finished_ms else None,
        position=position if record.status == "queued" else None,
        rate=record.rate if running else None,
        remaining_s=record.remaining_s if running else None,
        model=record.model or None,
        bytes=record.held_bytes,
        error=JobError(code=record.error_code, detail=record.error) if record.error_code else None,
        file=JobFile.model_validate_json(record.file) if record.file else None,
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


# The results of a chunk as lines of JSON, and with `texts=true` their texts.
Chunk = tuple[list[bytes], list[str | None] | None]


def page(
    kind: PageType, record: JobRecord, offset: int, end: int, chunks: Iterable[Chunk], *, texts: bool = False
) -> Iterator[bytes]:
    """Yields the bytes of a page with the results [offset, end), one block per chunk."""
    if kind == "application/json":
        return _json_page(record, offset, end, chunks)
    if kind == "text/csv":
        return _csv_page(offset, chunks, texts)
    return (b"\n".join(_with_texts(*chunk)) + b"\n" for chunk in chunks)


def _with_texts(lines: list[bytes], texts: list[str | None] | None) -> list[bytes]:
    if texts is None:
        return lines
    return [_with_text(text, json.loads(line)) for line, text in zip(lines, texts, strict=True)]


def _with_text(text: str | None, result: Any) -> bytes:
    added = result if isinstance(result, dict) else {"prediction": result}
    return json.dumps({"text": text, **added}, separators=(",", ":"), ensure_ascii=False).encode()


def _json_page(record: JobRecord, offset: int, end: int, chunks: Iterable[Chunk]) -> Iterator[bytes]:
    following = next_offset(record, end)
    facts = {"offset": offset, "total": record.total, "done": record.done, "next_offset": following}
    yield json.dumps(facts, separators=(",", ":")).encode()[:-1] + b',"predictions":['
    comma = b""
    for chunk in chunks:
        yield comma + b",".join(_with_texts(*chunk))
        comma = b","
    yield b"]}"


def _csv_page(offset: int, chunks: Iterable[Chunk], with_texts: bool) -> Iterator[bytes]:
    """Yields `index`, the text if wanted, the best label and its score, and the error code if it failed."""
    yield b"index,text,label,score,error\r\n" if with_texts else b"index,label,score,error\r\n"
    for lines, texts in chunks:
        out = io.StringIO()
        rows = csv.writer(out)
        for number, line in enumerate(lines):
            text = () if texts is None else (texts[number],)
            rows.writerow((offset + number, *text, *_row(json.loads(line))))
        offset += len(lines)
        yield out.getvalue().encode()


def _row(result: Any) -> tuple[object, ...]:
    if isinstance(result, dict):
        return "", "", result["error"]["code"]
    best = max(result, key=lambda pair: pair["score"])
    return best["label"], best["score"], ""


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
