"""The requests of jobs: submit, follow, fetch, cancel. No I/O."""

from __future__ import annotations

import tempfile
import uuid
from typing import IO

from millrace_client.errors import RequestError, Unavailable, body_of
from millrace_client.exchange import Flow, Send, Sleep, exchange
from millrace_client.options import Options
from millrace_client.predict import encode
from millrace_client.results import Job, OnProgress, Progress, Result, read_job, read_results

NDJSON = "application/x-ndjson"
# Texts beyond this many bytes are kept in a temporary file until they have been sent.
IN_MEMORY_BYTES = 8 * 1024**2
# How long the service may take to store the texts of a job.
SUBMIT_S = 300.0
# How long one request waits for progress, and the pause if there was none.
WAIT_S = 10.0
PAUSE_S = 0.5
PAGE = 5000
# How long to try to delete the job of results that have been read, or that are no longer wanted.
CLEAN_UP_S = 5.0


class Submission:
    """A request that creates a job. It may be sent several times, although the texts are read once."""

    def __init__(self, model: str, keep_input: bool, idempotency_key: str, webhook_url: str) -> None:
        self.params = ({"model": model} if model else {}) | ({"keep_input": "true"} if keep_input else {})
        # The key makes it safe to repeat.
        self.headers = {"content-type": NDJSON, "idempotency-key": idempotency_key or uuid.uuid4().hex}
        if webhook_url:
            self.headers["webhook-url"] = webhook_url
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115
        self._texts = 0

    def add(self, text: str) -> None:
        self.file.write(encode(text, self._texts) + b"\n")
        self._texts += 1


def submit(options: Options, job: Submission) -> Flow[Job]:
    """Creates a job. Raises RequestError and Unavailable."""
    send = Send("POST", "/jobs", job.file, job.params, job.headers, wait_s=SUBMIT_S)
    response = yield from exchange(options, send, options.now() + max(options.budget_s, SUBMIT_S))
    return read_job(response)


def get(options: Options, job_id: str, wait_s: float = 0.0, until: float | None = None) -> Flow[Job]:
    """Reads a job, and waits up to `wait_s` for a change of it first. Is sent again until `until` at most."""
    send = Send("GET", f"/jobs/{job_id}", params={"wait": f"{wait_s:.3f}"})
    last = options.now() + options.budget_s
    response = yield from exchange(options, send, last if until is None else min(until, last))
    return read_job(response)


def wait(options: Options, job: Job, timeout_s: float | None, progress: OnProgress | None) -> Flow[Job]:
    """Follows a job until it has ended. Raises TimeoutError, RequestError and Unavailable."""
    until = None if timeout_s is None else options.now() + timeout_s
    while True:
        if progress is not None:
            progress(Progress(job.done, job.total, job))
        if job.ended:
            return job
        left_s = WAIT_S if until is None else until - options.now()
        if left_s <= 0:
            raise _late(job, timeout_s)
        before = job
        try:
            job = yield from get(options, job.id, min(WAIT_S, left_s), until)
        except Unavailable as error:
            if until is None or left_s > options.budget_s:
                raise
            raise _late(job, timeout_s) from error
        if job == before:  # a process that is stopping answers at once
            yield Sleep(PAUSE_S)


def _late(job: Job, timeout_s: float | None) -> TimeoutError:
    return TimeoutError(
        f"job {job.id} has not ended after {timeout_s} s, and continues: wait again, or cancel it"
    )


def page(options: Options, job_id: str, offset: int) -> Flow[tuple[list[Result], int | None]]:
    """The results from position `offset` on, and the offset of the next page; None after the last one.

    While the job is running, waits until there are any.
    """
    while True:
        send = Send(
            "GET", f"/jobs/{job_id}/predictions", params={"offset": offset, "limit": PAGE, "models": "true"}
        )
        response = yield from exchange(options, send, options.now() + options.budget_s)
        body = body_of(response, "next_offset")
        following: int | None = body["next_offset"]
        results = read_results(response, offset)
        if results or following is None:
            return results, following
        yield Sleep(PAUSE_S)
        yield from get(options, job_id, WAIT_S)


def cancel(options: Options, job_id: str, within_s: float) -> Flow[None]:
    """Cancels a job, or deletes it if it has ended. A job that does not exist is not an error."""
    send = Send("DELETE", f"/jobs/{job_id}", repeatable=False)  # a second one would delete the results
    try:
        yield from exchange(options, send, options.now() + within_s)
    except RequestError as error:
        if error.status != 404:
            raise
