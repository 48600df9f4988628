"""Files and batches as OpenAI's clients expect them. Times are in seconds since 1970."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.compat.fields import ClosedFields, Positive
from batcher.jobs.records import JobRecord
from batcher.jobs.upload import FileRecord

Endpoint = Literal["/v1/moderations", "/v1/classify"]
Status = Literal["validating", "in_progress", "completed", "failed", "cancelled"]
# The name of a job's status in a batch.
STATUS_OF: dict[str, Status] = {
    "queued": "validating",
    "running": "in_progress",
    "finished": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class ExpiresAfter(ClosedFields):
    """When a file expires, in seconds after it was created."""

    model_config = ConfigDict(strict=True)

    anchor: Literal["created_at"]
    seconds: Positive


class BatchRequest(ClosedFields):
    """`completion_window` has no effect: a batch begins when the jobs before it have ended."""

    model_config = ConfigDict(strict=True)

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class BatchError(BaseModel):
    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchError]


class Batch(BaseModel):
    """A batch, which is a job: `/jobs/{id}` shows it too."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    completed_at: int | None
    failed_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    """Batches, newest first. A page may have fewer than `limit` batches even if `has_more` is true."""

    object: Literal["list"] = "list"
    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


def file_body(record: FileRecord) -> FileObject:
    return FileObject(
        id=f"file-{record.id}",
        bytes=record.bytes,
        created_at=record.created_s,
        expires_at=record.expires_s,
        filename=record.name,
        purpose="batch",
    )


def output_body(file_id: str, record: JobRecord, ttl_s: int) -> FileObject:
    """The file with the results or the errors of a batch, which are kept for `ttl_s` after its end.

    Its size is that of the results as they are stored: the file is made when it is read.
    """
    failed = file_id.endswith("-errors")
    ended_s = record.finished_ms // 1000 if record.finished_ms else None
    return FileObject(
        id=file_id,
        bytes=record.failed_bytes if failed else record.output_bytes - record.failed_bytes,
        created_at=ended_s or record.created_ms // 1000,
        expires_at=ended_s + (record.ttl_ms // 1000 or ttl_s) if ended_s else None,
        filename=f"{file_id}.jsonl",
        purpose="batch_output",
    )


def batch_body(record: JobRecord) -> Batch:
    batch = json.loads(record.batch)
    status = STATUS_OF[record.status]
    ended_at = record.finished_ms // 1000 if record.finished_ms else None
    errors = [BatchError(code=record.error_code, message=record.error)] if record.error_code else []
    completed = record.done - record.failed
    return Batch(
        id=f"batch_{record.id}",
        endpoint=batch["endpoint"],
        model=record.model or None,
        errors=BatchErrors(data=errors) if errors else None,
        input_file_id=f"file-{batch['file']}",
        status=status,
        output_file_id=f"file-{record.id}-output" if record.ended and completed else None,
        error_file_id=f"file-{record.id}-errors" if record.ended and record.failed else None,
        created_at=record.created_ms // 1000,
        in_progress_at=record.started_ms // 1000 if record.started_ms else None,
        completed_at=ended_at if status == "completed" else None,
        failed_at=ended_at if status == "failed" else None,
        cancelled_at=ended_at if status == "cancelled" else None,
        request_counts=RequestCounts(total=record.total, completed=completed, failed=record.failed),
        metadata=batch["metadata"],
    )
