"""Every Redis key and command of jobs, except RQ's own. Synchronous: call it from threads.

P is `{millrace-jobs:<name>}`. The queue's keys have another prefix, so that a Redis user can be granted
access to only one of the two. TTL is `job_ttl_s`, from the end of the job on: jobs that have not ended, and
the lists while there is one, have no lifetime. A place, which identifies a job in the lists, is `microseconds
of its creation:id`. Usage is kept for `usage_days`.

| key                 | type | what                                              | lifetime | written by    |
|---------------------|------|---------------------------------------------------|----------|---------------|
| P:job:<id>          | hash | status, counts, times, error: what the API shows  | TTL      | all scripts   |
| P:job:<id>:input    | hash | chunk number -> JSON list, null: text is too long | job ends | create        |
| P:job:<id>:output   | list | chunks of results, one line of JSON per entry     | TTL      | append        |
| P:job:<id>:models   | list | which models answered the texts of each chunk     | TTL      | append        |
| P:job:<id>:upload:* | hash | input that is still arriving                      | 10 min   | upload        |
| P:file:<id>         | hash | an uploaded file, facts, how many batches use it  | 2 TTL    | file_*, all   |
| P:webhooks          | zset | jobs whose webhook is to be sent -> when         | TTL      | webhook_*     |
| P:jobs              | zset | places of all jobs                                | TTL      | create        |
| P:jobs:<status>     | zset | places of the jobs of each status                 | TTL      | all scripts   |
| P:jobs:ends         | zset | place or upload -> when its lifetime ends         | TTL      | all scripts   |
| P:jobs:sizes        | hash | place or upload -> bytes it holds, client         | TTL      | all scripts   |
| P:jobs:bytes        | hash | bytes that jobs hold: all, and by client          | TTL      | all scripts   |
| P:jobs:totals       | hash | ended jobs by status, texts done, since the start | TTL      | append, end   |
| P:usage:<day>       | hash | key name and count -> number; days since 1970     | usage    | append        |
| P:history           | list | what the page charts, one JSON line per second    | 15 min   | remember      |

A chunk holds `chunk_texts` entries (the last one may hold fewer), so an entry's number gives its position.
Every script is idempotent, and none changes a job that has ended. Scripts that list or count jobs first
remove those whose lifetime has ended.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence

import redis

from batcher.connection.clients import connect
from batcher.jobs.files import FileStore
from batcher.jobs.reading import DAY_MS, JobReader
from batcher.jobs.records import Attempt, Claimed, Counts, Created, JobRecord, JobStatus, read_attempt
from batcher.jobs.results import names_of
from batcher.jobs.upload import UNBOUNDED, Budget, Submission, Upload
from batcher.settings import USAGE_DAYS, JobSettings

CHUNK_TEXTS = 256
# After this many consecutive attempts without progress a job fails: something in it must be ending them.
MAX_STALLED = 5
# A running job whose process has not been heard of for so long, by the clock of Redis, is run by another one.
LOST_S = 20.0
# A job with at most so many texts left is a small one: large ones never keep it waiting.
SMALL_TEXTS = 1024


def jobs_prefix(name: str) -> str:
    """P: the prefix of all job keys of the service `name`."""
    return f"{{millrace-jobs:{name}}}"


def connect_jobs(settings: JobSettings, *, timeout_s: float, connections: int) -> redis.Redis:
    """A client of the Redis of jobs; in a cluster, of the node that has their slot."""
    key = jobs_prefix(settings.name)
    return connect(settings.jobs_url, timeout_s=timeout_s, retries=1, connections=connections, key=key)


class JobStore(JobReader):
    """The jobs of one service. Thread-safe, as its client is. Redis errors are not caught."""

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        ttl_s: float,
        budget: Budget = UNBOUNDED,
        usage_days: int = USAGE_DAYS,
    ) -> None:
        super().__init__(client, jobs_prefix(name), int(ttl_s * 1000))
        self._budget = budget
        self.usage_days = usage_days
        self.ttl_s = self._ttl_ms // 1000
        self.files = FileStore(client, self._run, self._prefix, self._ttl_ms)

    # -- uploading ---------------------------------------------------------------------------------

    def upload(
        self,
        job_id: str,
        chunk_texts: int = CHUNK_TEXTS,
        submission: Submission = Submission(),  # noqa: B008 - it is frozen
        budget: Budget = UNBOUNDED,
    ) -> Upload:
        """Begins an upload, which is stored in chunks and then turned into a job by `create`, or dropped."""
        return Upload(self._run, job_id, secrets.token_hex(8), chunk_texts, submission, budget)

    def create(self, upload: Upload, digest: str, most_waiting: int) -> Created:
        """Turns an upload into a job, atomically. A repeat is recognized by the `digest` of its texts."""
        submission = upload.submission
        args = [upload.total, upload.chunk_texts, upload.chunks, digest, self._ttl_ms, most_waiting]
        options = [submission.owner, submission.client, int(submission.keep_input), submission.trace]
        options += [submission.batch, submission.webhook, submission.file(), submission.model]
        options += [upload.input_bytes, "" if submission.ttl_s is None else submission.ttl_s * 1000]
        options += [submission.key]
        outcome, known = self._run("job_create", upload.job_id, upload.nonce, *args, *options)
        return Created(outcome.decode(), (known or b"").decode())

    # -- running -----------------------------------------------------------------------------------

    def start(self, job_id: str) -> Attempt:
        """Begins an attempt at this job; earlier attempts can no longer write."""
        return read_attempt(self._run("job_start", job_id, secrets.token_hex(8), self._ttl_ms, MAX_STALLED))

    def claim(self, small: int, large: int, blocked: Sequence[str] = ()) -> Claimed:
        """Begins attempts at up to so many small and large jobs that wait, or whose process was lost.

        `blocked` are the queues of models whose jobs cannot go on.
        """
        args = [secrets.token_hex(8), self._ttl_ms, MAX_STALLED, int(LOST_S * 1000), SMALL_TEXTS]
        facts, *found = self._run("job_claim", *args, small, large, *blocked)
        left = (facts[0].decode(), int(facts[1])) if facts else None
        return Claimed([read_attempt(raw) for raw in found], left)

    def append(
        self,
        attempt: Attempt,
        at: int,
        chunks: Sequence[bytes],
        *,
        counts: Counts,
        rate: float,
        model: str,
        models: Sequence[bytes] = (),
        ran_ms: int = 0,
    ) -> str:
        """Appends results from chunk `at` on. Returns `running`, or why the attempt must not continue.

        `models` are those of the texts of each chunk (see `encode_models`), if they are known; `ran_ms` is
        how long all attempts have run. The job fails if its results need more than was reserved for them, and
        this does not fit into the budget.
        """
        args = [attempt.token, at, *counts, round(rate, 1), model, self._ttl_ms]
        args += ["\n".join(names_of(models)), self._budget.total, self._budget.client]
        args += [ran_ms, self.usage_days * DAY_MS, len(chunks)]
        status: bytes = self._run("job_append", attempt.job_id, *args, *chunks, *models)
        return status.decode()

    def end(self, attempt: Attempt, status: JobStatus, code: str = "", error: str = "") -> str:
        """Ends a job on behalf of an attempt. Returns the status afterwards, or `superseded`."""
        after: bytes = self._run("job_end", attempt.job_id, attempt.token, status, code, error, self._ttl_ms)
        return after.decode()

    def cancel(self, job_id: str) -> str:
        """Cancels a job unless it has ended. Returns the status afterwards, or `gone`."""
        after: bytes = self._run("job_end", job_id, "", "cancelled", "", "", self._ttl_ms)
        return after.decode()

    def release(self, attempt: Attempt, ran_ms: int, *, failed: bool = False) -> None:
        """Ends an attempt, so that another may begin at once.

        Unless it `failed`, it does not count as one without progress. `ran_ms` is as in `append`.
        """
        self._run("job_release", attempt.job_id, attempt.token, int(not failed), ran_ms)

    # -- webhooks ----------------------------------------------------------------------------------

    def claim_webhook(self, lease_s: float) -> JobRecord | None:
        """The job whose webhook is due next; no other caller gets it until the lease ends."""
        job_id = self._run("webhook_claim", int(lease_s * 1000))
        return None if job_id is None else self.record(job_id.decode())

    def record_webhook(
        self, record: JobRecord, attempts: Sequence[Mapping[str, object]], pause_s: float | None
    ) -> None:
        """Records the attempts so far, and that the next is due after `pause_s`; None: there is no other."""
        pause = "" if pause_s is None else int(pause_s * 1000)
        self._run("webhook_record", record.id, record.place, json.dumps(attempts), pause)

    def redact(self, job_id: str, chunk: int, texts: bytes, others: str) -> int:
        """Replaces a chunk of texts, as it is stored. Returns 1, or 0 if it has changed meanwhile."""
        return int(self._run("job_redact", job_id, chunk, texts, others))

    def delete(self, job_id: str) -> bool:
        """Removes a job that has ended, with its data."""
        return bool(self._run("job_delete", job_id))
