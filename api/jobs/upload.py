"""How a body becomes a job: blocks -> texts -> chunks in Redis -> one job, or nothing at all.

It runs in a thread, since parsing and RQ are synchronous, and asks the event loop for each block: so the
client sends no faster than Redis takes, and the process never holds more than a chunk of texts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from threading import Semaphore

from api.asgi.body import too_large
from api.asgi.headers import CLOSE
from api.errors import Problem
from batcher.core.outage import REDIS_ERRORS, reason
from batcher.jobs.records import JobRecord
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import CHUNK_TEXTS, JobStore
from batcher.jobs.upload import Budget, NoRoom, Submission, Upload, encode_text

log = logging.getLogger(__name__)

# When a waiting job can be expected to begin: while nothing is known of the running ones, and at most.
RETRY_AFTER_S = 10.0
MOST_RETRY_AFTER_S = 60.0
# Chunks that are sent to Redis at once: each is held three times meanwhile.
STORING = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may have. A longer text becomes an entry with an error."""

    body_bytes: int
    text_chars: int
    waiting_jobs: int
    budget: Budget


class JobUploader:
    """Makes jobs of bodies."""

    def __init__(self, store: JobStore, queue: JobQueue, limits: Limits) -> None:
        self._store = store
        self._queue = queue
        self._limits = limits
        self._storing = Semaphore(STORING)

    def take(
        self, job_id: str, texts: Iterator[str], submission: Submission, size: int = 0
    ) -> tuple[JobRecord, bool]:
        """The job of these texts, and whether it is new. The same texts are a repeat, in whatever form.

        `size` is what the body says of its own size in bytes. Raises what `texts` raises, Problem 408, 409,
        413, 422, 429 or 507, and what Redis raises; then nothing is kept.
        """
        known = self._store.record(job_id)
        if known is None and self._store.waiting() >= self._limits.waiting_jobs:
            raise self._too_many()
        digest = sha256()
        texts = _digested(texts, digest.update)
        if known is not None:
            for _ in texts:
                pass
            return self._same(known, digest.hexdigest()), False
        upload = self._store.upload(job_id, CHUNK_TEXTS, submission, self._limits.budget)
        with self._within_budget():
            upload.check(size)
        try:
            with self._within_budget():
                self._fill(upload, texts)
            outcome = self._store.create(upload, digest.hexdigest(), self._limits.waiting_jobs)
        except BaseException:
            self._drop(upload)
            raise
        if outcome.outcome == "full":
            raise self._too_many()
        if outcome.outcome == "lost":
            raise Problem(408, "the body took too long to arrive")
        record = self._store.record(job_id)
        if record is None:
            raise Problem(503, "the job was lost as it was made")
        if outcome.outcome == "exists":
            return self._same(record, digest.hexdigest()), False
        self._enqueue(job_id)
        return record, True

    def counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The blocks of a body. Raises Problem 413 as soon as it is too large."""
        size = 0
        for block in blocks:
            size += len(block)
            if size > self._limits.body_bytes:
                raise too_large(self._limits.body_bytes)
            yield block

    def _fill(self, upload: Upload, texts: Iterator[str]) -> None:
        longest = self._limits.text_chars
        # One by one: a chunk of strings, or of texts that are too long, could take hundreds of megabytes.
        entries = (encode_text(text if len(text) <= longest else None) for text in texts)
        while chunk := list(islice(entries, CHUNK_TEXTS)):
            with self._storing:
                upload.add(chunk)
        if not upload.total:
            raise Problem(422, [{"type": "too_short", "loc": ["body"], "msg": "no texts in the body"}])

    @contextmanager
    def _within_budget(self) -> Generator[None]:
        """Makes an answer of what does not fit."""
        try:
            yield
        except NoRoom as error:
            raise _no_room(error, self._limits.budget) from None

    def _same(self, record: JobRecord, digest: str) -> JobRecord:
        if record.digest != digest:
            detail = "this Idempotency-Key belongs to a job with other texts"
            raise Problem(409, detail, code="idempotency_conflict", job=record.id)
        return record

    def _drop(self, upload: Upload) -> None:
        try:
            upload.drop()
        except REDIS_ERRORS as error:  # it goes by itself
            log.warning("an upload was left: %s", reason(error), extra={"action": "job.upload_left"})

    def _enqueue(self, job_id: str) -> None:
        """The job exists from here on: if RQ cannot be told now, recovery tells it."""
        try:
            self._queue.enqueue(job_id)
        except REDIS_ERRORS as error:
            log.warning("left to recovery: %s", reason(error), extra={"action": "job.enqueue", "job": job_id})

    def _too_many(self) -> Problem:
        """A place becomes free when a running job ends and the next one begins."""
        running = self._store.records(self._store.running_ids())
        left_s = [record.remaining_s for record in running if record and record.remaining_s is not None]
        retry_after_s = min(max(min(left_s, default=RETRY_AFTER_S), 1.0), MOST_RETRY_AFTER_S)
        return Problem(429, "too many jobs are waiting", code="too_many_jobs", retry_after_s=retry_after_s)


def _digested(texts: Iterator[str], update: Callable[[bytes], None]) -> Iterator[str]:
    """The texts. Each is told to `update` with its length, so that no others tell the same."""
    for text in texts:
        encoded = text.encode()
        update(b"%d:" % len(encoded))
        update(encoded)
        yield text


def _no_room(error: NoRoom, budget: Budget) -> Problem:
    """Waiting frees nothing, so it is no 429 with Retry-After."""
    advice = "delete jobs that have ended"
    if error.refusal == "large":
        most = min(budget.total, budget.client)
        detail = f"the texts and their results would take more than the {most} bytes that a job may hold"
        return Problem(413, detail, code="job_too_large", headers=(CLOSE,))
    if error.refusal == "client_full":
        detail = f"your jobs hold as much as they may, {budget.client} bytes: {advice}"
        return Problem(507, detail, code="client_jobs_full", headers=(CLOSE,))
    detail = f"all jobs hold as much as they may, {budget.total} bytes: {advice}"
    return Problem(507, detail, code="jobs_full", headers=(CLOSE,))
