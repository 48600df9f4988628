"""The only kind of job that RQ may run: `batcher.jobs.run` for one id, whatever Redis contains.

RQ imports any function and callback that a job names, sends webhooks and enqueues dependent jobs. All of this
is disabled here, so that write access to Redis allows running a classification job and nothing else.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping

from rq.exceptions import NoSuchJobError
from rq.job import Job

FUNCTION = "batcher.jobs.run"
# High enough never to apply: attempts without progress are counted in the job's record instead.
MAX_RETRIES = 10_000
is_job_id = re.compile("[0-9a-f]{32}").fullmatch
# RQ's bookkeeping for a job. All other fields define the job, and are not read because they are known.
_BOOKKEEPING = (
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
    """An item in RQ's queue that is not a job of this service. RQ treats it as nonexistent."""


class ClassifyJob(Job):
    """A job as RQ sees it. `restore` refuses any job that this service did not write."""

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Reads RQ's bookkeeping. Raises RefusedJob."""
        if not is_job_id(self.id):
            raise RefusedJob("its id is not a job id of this service")
        call = json.dumps([FUNCTION, None, [self.id], {}]).encode()
        if _inflated(raw_data.get(b"data", b""), len(call)) != call:
            raise RefusedJob(f"it does not call {FUNCTION} for its own id")
        try:
            bookkeeping = {name: raw_data[name] for name in _BOOKKEEPING if name in raw_data}
            super().restore({**bookkeeping, b"data": call})
        except (ValueError, TypeError) as error:
            raise RefusedJob("its RQ bookkeeping cannot be read") from error
        self.retries_left = MAX_RETRIES
        self.enqueue_at_front_on_retry = True


def _inflated(data: bytes, most: int) -> bytes:
    """Decompresses `data`, up to one byte more than `most`; returns b"" if it is not valid."""
    try:
        return zlib.decompressobj().decompress(data, most + 1)
    except zlib.error:
        return b""
