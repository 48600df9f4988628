"""The only job there is for RQ: `batcher.jobs.run` for one id. Nothing that stands in Redis changes that.

RQ imports whatever function a job names, and its callbacks; it sends webhooks and enqueues dependents. All of
this is left out here, so who can write to Redis can have a job run, and nothing else.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping

from rq.exceptions import NoSuchJobError
from rq.job import Job

FUNCTION = "batcher.jobs.run"
# RQ's own bound is out of the way: attempts without progress are counted in the job's record.
MOST_RETRIES = 10_000
is_job_id = re.compile("[0-9a-f]{32}").fullmatch
# What RQ notes of its own work on a job. Everything else is what a job is, and that is known.
_NOTES = (
    b"created_at",
    b"enqueued_at",
    b"started_at",
    b"ended_at",
    b"last_heartbeat",
    b"worker_name",
    b"origin",
    b"status",
    b"timeout",
    b"result_ttl",
    b"failure_ttl",
)


class RefusedJob(NoSuchJobError):
    """Something in RQ's queue that is none of our jobs. For RQ it does not exist."""


class ClassifyJob(Job):
    """A job as RQ sees it. `restore` refuses what does not read as this service writes it."""

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Takes over RQ's notes. Raises RefusedJob."""
        if not is_job_id(self.id):
            raise RefusedJob("its id is not one of this service")
        call = json.dumps([FUNCTION, None, [self.id], {}]).encode()
        if _inflated(raw_data.get(b"data", b""), len(call)) != call:
            raise RefusedJob(f"it does not call {FUNCTION} for its own id")
        try:
            notes = {name: raw_data[name] for name in _NOTES if name in raw_data}
            super().restore({**notes, b"data": call})
        except (ValueError, TypeError) as error:
            raise RefusedJob("what RQ noted of it cannot be read") from error
        self.retries_left, self.enqueue_at_front_on_retry = MOST_RETRIES, True


def _inflated(data: bytes, most: int) -> bytes:
    """What was compressed, as far as one byte beyond `most`; b"" for anything else."""
    try:
        return zlib.decompressobj().decompress(data, most + 1)
    except zlib.error:
        return b""
