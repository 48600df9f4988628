"""Turns a request body into a job: blocks -> texts -> chunks in Redis -> job. On failure, nothing is kept.

This runs in a thread, because parsing and RQ are synchronous, and fetches each block from the event loop. So
the client cannot send faster than Redis stores, and the process holds at most one chunk of texts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import islice
from threading import Semaphore

from api.asgi.http import CLOSE, too_large
from api.errors import Problem
from api.settings import ApiSettings
from batcher.connection.outage import REDIS_ERRORS, reason
from batcher.jobs.records import JobRecord
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import CHUNK_TEXTS, JobStore
from batcher.jobs.upload import Budget, NoRoom, Submission, Upload, budget_of, encode_text

log = logging.getLogger(__name__)

# Retry-After if too many jobs wait: the default if the progress of running jobs is unknown, and the maximum.
RETRY_AFTER_S = 10.0
MAX_RETRY_AFTER_S = 60.0
NO_TEXTS = "there are no texts; if curl sent them: -d drops line ends, --data-binary keeps them"
OTHER_JOB = (
    "this Idempotency-Key belongs to a job with other texts, of another model, or with another keep_input or "
    "Webhook-URL (of a batch, also endpoint, metadata, custom_ids or output_expires_after): use another key"
)
# Chunks that are sent to Redis at once: each is held three times meanwhile.
STORING = 2


class JobUploader:
    """Makes jobs of texts. A text that is longer than the settings allow becomes an entry with an error."""

    def __init__(self, store: JobStore, queue: JobQueue, settings: ApiSettings) -> None:
        self._store = store
        self._queue = queue
        self._settings = settings
        self.budget = budget_of(settings)
        self._storing = Semaphore(STORING)

    def take(
        self, job_id: str, texts: Iterator[str], submission: Submission, size: int = 0
    ) -> tuple[JobRecord, bool]:
        """Creates the job `job_id` from these texts. Returns the job, and whether it is new.

        If the job exists, and was asked for with the same texts and options, returns it; the formats of the
        two bodies may differ.

        `size` is the size of the body in bytes according to its headers. Raises what `texts` raises, Problem
        409, 413, 422, 429, 503 or 507, and Redis errors. If it raises, nothing is kept.
        """
        known = self._store.record(job_id)
        most = self._settings.max_waiting_jobs
        if known is None and (crowd := self._store.crowded(submission.client, most)):
            raise self._too_many(crowd)
        digest = sha256()
        texts = digested(texts, submission.model, digest.update)
        if known is not None:
            for _ in texts:
                pass
            return self._same(known, _whole(digest.hexdigest(), submission)), False
        upload = self._store.upload(job_id, CHUNK_TEXTS, submission, self.budget)
        with self._kept(upload):
            upload.check(size)
            self._fill(upload, texts)
            identity = _whole(digest.hexdigest(), submission)
            outcome = self._store.create(upload, identity, most)
        if outcome.outcome in ("full", "client_full"):
            raise self._too_many(outcome.outcome)
        record = None if outcome.outcome == "lost" else self._store.record(job_id)
        if record is None:
            raise Problem(503, "Redis lost the job while it was created; try again")
        if outcome.outcome == "exists":
            return self._same(record, identity), False
        # The job exists already, so if this fails, recovery enqueues it later.
        with _despite_redis("enqueue the job, which a jobs worker will do later", "job.enqueue", job=job_id):
            self._queue.enqueue(job_id)
        return record, True

    def counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yields the blocks of a body. Raises Problem 413 as soon as it is too large."""
        size = 0
        for block in blocks:
            size += len(block)
            if size > self._settings.max_job_body_bytes:
                raise too_large(self._settings.max_job_body_bytes)
            yield block

    def _fill(self, upload: Upload, texts: Iterator[str]) -> None:
        longest = self._settings.max_text_chars
        # Encode each text as it arrives: a chunk of strings or overlong texts could use hundreds of MiB.
        entries = (encode_text(text if len(text) <= longest else None) for text in texts)
        while chunk := list(islice(entries, CHUNK_TEXTS)):
            upload.submission.admit(upload.total + len(chunk))
            with self._storing:
                upload.add(chunk)
        if not upload.total:
            raise Problem(422, [{"type": "too_short", "loc": ["body"], "msg": NO_TEXTS}])

    @contextmanager
    def _kept(self, upload: Upload) -> Generator[None]:
        """Removes an upload that does not become a job. Raises Problem 413 or 507 instead of NoRoom."""
        try:
            yield
        except BaseException as error:
            with _despite_redis("delete an upload, which will expire", "job.upload_left"):
                upload.drop()
            if isinstance(error, NoRoom):
                raise no_room(error, self.budget, upload.submission.result_bytes) from None
            raise

    def _same(self, record: JobRecord, digest: str) -> JobRecord:
        if record.digest != digest:
            raise Problem(409, OTHER_JOB, code="idempotency_conflict", job=record.id)
        return record

    def _too_many(self, crowd: str) -> Problem:
        """A 429 whose Retry-After is the time until the first running job is expected to end."""
        running = self._store.records(self._store.running_ids())
        left_s = [record.remaining_s for record in running if record and record.remaining_s is not None]
        retry_after_s = min(max(min(left_s, default=RETRY_AFTER_S), 1.0), MAX_RETRY_AFTER_S)
        return Problem(
            429,
            f"too many {'of your ' if crowd == 'client_full' else ''}jobs are waiting; try again later",
            code="too_many_jobs",
            retry_after_s=retry_after_s,
        )


@contextmanager
def _despite_redis(what: str, action: str, **facts: str) -> Generator[None]:
    """Logs that something could not be done, if Redis does not answer."""
    try:
        yield
    except REDIS_ERRORS as error:
        log.warning("could not %s: %s", what, reason(error), extra={"action": action, **facts})


def digested(texts: Iterable[str], model: str, update: Callable[[bytes], None]) -> Iterator[str]:
    """Yields the texts, and passes the queue of their model and each of them to `update`.

    The length prefix makes the digest unambiguous.
    """
    if model:
        update(f"{model}\n".encode())
    for text in texts:
        encoded = text.encode()
        update(b"%d:" % len(encoded))
        update(encoded)
        yield text


def _whole(digest: str, submission: Submission) -> str:
    """The digest of the texts, and behind it that of what else was asked for, if anything was."""
    asked = submission.identity()
    return f"{digest}:{sha256(asked.encode()).hexdigest()}" if asked else digest


def no_room(error: NoRoom, budget: Budget, result_bytes: int) -> Problem:
    """A 413 or 507, because waiting does not free any space, as 429 with Retry-After would suggest.

    `result_bytes` are reserved for each result; 0: for a file, which has none.
    """
    advice = "delete jobs that have ended"
    if error.refusal == "large":
        most = min(budget.total, budget.client)
        detail = f"the file needs more than the {most} bytes that a job may use"
        if result_bytes:
            needs = f"the texts and their results, of up to {result_bytes} bytes each, need"
            detail = f"{needs} more than the {most} bytes that a job may use: send fewer texts in a job"
        return Problem(413, detail, code="job_too_large", headers=(CLOSE,))
    if error.refusal == "client_full":
        detail = f"your jobs have reached their limit of {budget.client} bytes: {advice}"
        return Problem(507, detail, code="client_jobs_full", headers=(CLOSE,))
    detail = f"all jobs together have reached their limit of {budget.total} bytes: {advice}"
    return Problem(507, detail, code="jobs_full", headers=(CLOSE,))
