"""What the API shows of a batch and of the files of its results, by the record of its job."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from api.batches.schemas import batch_body, file_body, output_body
from batcher.jobs.records import JobRecord
from batcher.jobs.upload import FileRecord
from tests.fakes import job_record

JOB = "0" * 32
QUEUED = job_record(
    id=JOB,
    status="queued",
    total=9,
    done=0,
    failed=0,
    created_ms=1_700_000_001_999,
    attempt=0,
    batch=json.dumps({"file": "f" * 32, "endpoint": "/v1/classify", "metadata": {"day": "mon"}}),
)
SHOWN = {
    "id": f"batch_{JOB}",
    "object": "batch",
    "endpoint": "/v1/classify",
    "model": None,
    "errors": None,
    "input_file_id": f"file-{'f' * 32}",
    "completion_window": "24h",
    "status": "validating",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1_700_000_001,
    "in_progress_at": None,
    "completed_at": None,
    "failed_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 9, "completed": 0, "failed": 0},
    "metadata": {"day": "mon"},
}


def job(**fields: Any) -> JobRecord:
    """Of nine texts; four of these are done, one of them without a result."""
    return replace(QUEUED, model="m@r", started_ms=1_700_000_002_999, done=4, failed=1, **fields)


STARTED = {
    "model": "m@r",
    "in_progress_at": 1_700_000_002,
    "request_counts": {"total": 9, "completed": 3, "failed": 1},
}
FILES = {"output_file_id": f"file-{JOB}-output", "error_file_id": f"file-{JOB}-errors"}
ENDED: dict[str, Any] = {"finished_ms": 1_700_000_003_999}
WHY = {"object": "list", "data": [{"code": "job_timeout", "message": "long", "line": None, "param": None}]}


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (QUEUED, {}),
        (job(status="running"), {"status": "in_progress", **STARTED}),
        (
            job(status="finished", **ENDED),
            {"status": "completed", "completed_at": 1_700_000_003, **STARTED, **FILES},
        ),
        (
            job(status="failed", error_code="job_timeout", error="long", **ENDED),
            {"status": "failed", "failed_at": 1_700_000_003, "errors": WHY, **STARTED, **FILES},
        ),
        (
            job(status="cancelled", **ENDED),
            {"status": "cancelled", "cancelled_at": 1_700_000_003, **STARTED, **FILES},
        ),
    ],
)
def test_a_batch_is_shown_with_the_times_of_its_job_in_seconds(
    record: JobRecord, shown: dict[str, Any]
) -> None:
    assert batch_body(record).model_dump() == SHOWN | shown


@pytest.mark.parametrize(
    ("kind", "record", "shown"),
    [
        ("output", job(status="running"), {"bytes": 90, "created_at": 1_700_000_001, "expires_at": None}),
        (
            "output",
            job(status="finished", **ENDED),
            {"bytes": 90, "created_at": 1_700_000_003, "expires_at": 1_700_000_063},
        ),
        (
            "errors",
            job(status="finished", ttl_ms=7_000, **ENDED),
            {"bytes": 10, "created_at": 1_700_000_003, "expires_at": 1_700_000_010},
        ),
    ],
)
def test_a_file_of_results_is_kept_from_the_end_of_its_batch_on(
    kind: str, record: JobRecord, shown: dict[str, Any]
) -> None:
    name = f"file-{JOB}-{kind}"
    file = output_body(name, replace(record, output_bytes=100, failed_bytes=10), 60)
    assert file.model_dump() == {
        "id": name,
        "object": "file",
        "filename": f"{name}.jsonl",
        "purpose": "batch_output",
        "status": "processed",
        **shown,
    }


def test_an_uploaded_file_is_shown_as_it_is_kept() -> None:
    record = FileRecord("f" * 32, "in.jsonl", 9, 1, 1_700_000_001, 1_700_000_061, "key:mine")
    assert file_body(record).model_dump() == {
        "id": f"file-{'f' * 32}",
        "object": "file",
        "bytes": 9,
        "created_at": 1_700_000_001,
        "expires_at": 1_700_000_061,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
