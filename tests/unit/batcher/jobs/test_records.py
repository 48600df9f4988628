"""What is derived from the record of a job."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from batcher.jobs.records import JobStatus, is_job_id
from tests.fakes import job_record

RECORD = job_record()


@pytest.mark.parametrize(("rate", "left_s"), [(0.0, None), (0.3, 23.3), (7.0, 1.0)])
def test_the_time_that_is_left_is_that_at_the_rate_of_now(rate: float, left_s: float | None) -> None:
    assert replace(RECORD, rate=rate).remaining_s == left_s


@pytest.mark.parametrize(
    ("status", "version", "ended"),
    [
        ("queued", "17-0-3-1", False),
        ("running", "17-1-3-1", False),
        ("finished", "17-2-3-1", True),
        ("failed", "17-3-3-1", True),
        ("cancelled", "17-4-3-1", True),
    ],
)
def test_the_version_of_a_record_has_its_creation_status_and_progress(
    status: JobStatus, version: str, ended: bool
) -> None:
    record = replace(RECORD, status=status, place=f"17:{RECORD.id}")
    assert (record.version, record.ended) == (version, ended)


def test_a_job_without_an_owner_and_a_client_without_one_hide_nothing() -> None:
    for owner, asks, shown in (("", "b", True), ("a", "", True), ("a", "a", True), ("a", "b", False)):
        assert replace(RECORD, owner=owner).shown_to(asks) is shown


def test_facts_of_a_record_that_have_parts() -> None:
    record = replace(
        RECORD,
        file=json.dumps({"name": "a.csv"}),
        webhook="https://example.com:444/a/b",
        input_bytes=5,
        output_bytes=3,
    )
    assert (record.file_name, record.receiver, record.held_bytes) == ("a.csv", "example.com:444", 8)
    assert RECORD.file_name == replace(RECORD, file="{}").file_name == ""
    assert [bool(is_job_id(one)) for one in ("a" * 32, "a" * 31, "a" * 33, "g" * 32)] == [True] + [False] * 3
