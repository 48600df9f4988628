"""Every Redis key and command of jobs, except RQ's own. Synchronous: call it from threads.

P is `{millrace-jobs:<name>}`. The queue's keys have another prefix, so that a Redis user can be granted
access to only one of the two. TTL is `job_ttl_s`, renewed until the job ends. A place, which identifies a
job in the lists, is `microseconds of its creation:id`.

| key                 | type | what                                              | lifetime | written by    |
|---------------------|------|---------------------------------------------------|----------|---------------|
| P:job:<id>          | hash | status, counts, times, error: what the API shows  | TTL      | all scripts   |
| P:job:<id>:input    | hash | chunk number -> JSON list, null: text is too long | job ends | create        |
| P:job:<id>:output   | list | chunks of results, one line of JSON per entry     | TTL      | append        |
| P:job:<id>:upload:* | hash | input that is still arriving                      | 10 min   | upload        |
| P:file:<id>         | hash | an uploaded file, and facts about it             | 2 TTL    | file_*        |
| P:webhooks          | zset | jobs whose webhook is to be sent -> when         | TTL      | webhook_*     |
| P:jobs              | zset | places of all jobs                                | TTL      | create        |
| P:jobs:<status>     | zset | places of the jobs of each status                 | TTL      | all scripts   |
| P:jobs:ends         | zset | place or upload -> when its lifetime ends         | TTL      | all scripts   |
| P:jobs:sizes        | hash | place or upload -> bytes it holds, client         | TTL      | all scripts   |
| P:jobs:bytes        | hash | bytes that jobs hold: all, and by client          | TTL      | all scripts   |
| P:jobs:totals       | hash | ended jobs by status, texts done, since the start | TTL      | append, end   |
| P:history           | list | what the page charts, one JSON line per second    | 15 min   | remember      |

A chunk holds `chunk_texts` entries (the last one may hold fewer), so an entry's number gives its position.
Every script is idempotent, and none changes a job that has ended. Scripts that list or count jobs first
remove those whose lifetime has ended.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import redis

from batcher.core.scripts import call
from batcher.jobs.files import FileStore
from batcher.jobs.records import Attempt, Counts, Created, JobRecord, JobStatus, Totals, read_record
from batcher.jobs.upload import UNBOUNDED, Budget, Submission, Upload

# The package of the scripts.
SCRIPTS = "batcher.jobs"
CHUNK_TEXTS = 256
# After this many consecutive attempts without progress a job fails: something in it must be ending them.
MOST_STALLED = 5
# Most jobs examined for one page of a list, which omits jobs of other owners.
MOST_LOOKS = 1000
HISTORY_S = 900  # of the page's charts, which survive a restart of the API


def jobs_prefix(name: str) -> str:
    """P: the prefix of all job keys of the service `name`."""
    return f"{{millrace-jobs:{name}}}"


class JobStore:
    """The jobs of one service. Thread-safe, as its client is. Redis errors are not caught."""

    def __init__(self, client: redis.Redis, name: str, ttl_s: float) -> None:
        self._client = client
        self._prefix = jobs_prefix(name)
        self._ttl_ms = int(ttl_s * 1000)
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
        """Turns an upload into a job, atomically. By the `digest` of its texts a repeat is recognized."""
        submission = upload.submission
        args = [upload.total, upload.chunk_texts, upload.chunks, digest, self._ttl_ms, most_waiting]
        options = [submission.owner, submission.client, int(submission.keep_input), submission.trace]
        options += [submission.batch, submission.webhook, submission.file(), submission.model]
        outcome, known = self._run("job_create", upload.job_id, upload.nonce, *args, *options)
        return Created(outcome.decode(), (known or b"").decode())

    # -- running -----------------------------------------------------------------------------------

    def start(self, job_id: str) -> Attempt:
        """Begins an attempt; earlier attempts can no longer write."""
        token = secrets.token_hex(8)
        status, *numbers = self._run("job_start", job_id, token, self._ttl_ms, MOST_STALLED)
        return Attempt(job_id, token, status.decode(), *map(int, numbers))

    def trace(self, job_id: str) -> str:
        """The traceparent of the request that submitted the job; "" if there is none."""
        raw = cast("bytes | None", self._client.hget(self._job(job_id), "trace"))
        return (raw or b"").decode("ascii", "replace")

    def input(self, job_id: str, chunk: int) -> list[str | None] | None:
        """The texts of one chunk, with None for a text that is too long. None if the chunk does not exist."""
        raw = cast("bytes | None", self._client.hget(f"{self._job(job_id)}:input", str(chunk)))
        return None if raw is None else cast("list[str | None]", json.loads(raw))

    def append(
        self, attempt: Attempt, at: int, chunks: Sequence[bytes], *, counts: Counts, rate: float, model: str
    ) -> str:
        """Appends results from chunk `at` on. Returns `running`, or why the attempt must not continue."""
        args = [attempt.token, at, *counts, round(rate, 1), model, self._ttl_ms]
        status: bytes = self._run("job_append", attempt.job_id, *args, *chunks)
        return status.decode()

    def end(self, attempt: Attempt, status: JobStatus, code: str = "", error: str = "") -> str:
        """Ends a job on behalf of an attempt. Returns the status afterwards, or `superseded`."""
        after: bytes = self._run("job_end", attempt.job_id, attempt.token, status, code, error, self._ttl_ms)
        return after.decode()

    def cancel(self, job_id: str) -> str:
        """Cancels a job unless it has ended. Returns the status afterwards, or `gone`."""
        after: bytes = self._run("job_end", job_id, "", "cancelled", "", "", self._ttl_ms)
        return after.decode()

    def forgive(self, attempt: Attempt) -> None:
        """Stops an interrupted attempt from counting as one without progress."""
        self._run("job_forgive", attempt.job_id, attempt.token)

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

    # -- reading -----------------------------------------------------------------------------------

    def records(self, job_ids: Sequence[str]) -> list[JobRecord | None]:
        """The record of each job, None for one that does not exist, in one round trip."""
        pipe = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hgetall(self._job(job_id))
        return [read_record(job_id, raw) for job_id, raw in zip(job_ids, pipe.execute(), strict=True)]

    def record(self, job_id: str) -> JobRecord | None:
        return self.records([job_id])[0]

    def position(self, record: JobRecord) -> int | None:
        """The job's position in the queue, from 1; None unless it is queued."""
        rank = cast("int | None", self._client.zrank(f"{self._prefix}:jobs:queued", record.place))
        return None if rank is None else rank + 1

    def waiting(self) -> int:
        """The number of queued jobs."""
        return self._client.zcard(f"{self._prefix}:jobs:queued")

    def totals(self) -> Totals:
        """Counts over all jobs, in one round trip."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(f"{self._prefix}:jobs:totals")
        pipe.zcard(f"{self._prefix}:jobs:running")
        pipe.zcard(f"{self._prefix}:jobs:queued")
        pipe.zrange(f"{self._prefix}:jobs:queued", 0, 0)
        pipe.hget(f"{self._prefix}:jobs:bytes", "all")
        pipe.time()
        raw, running, queued, oldest, held, (now_s, now_us) = pipe.execute()
        counts = {name.decode(): int(value) for name, value in raw.items()}
        now_ms = now_s * 1000 + now_us // 1000
        created_ms = int(oldest[0].partition(b":")[0]) // 1000 if oldest else now_ms
        return Totals(
            queued=queued,
            running=running,
            oldest_ms=max(now_ms - created_ms, 0),
            held_bytes=int(held or 0),
            texts=counts.pop("texts", 0),
            failed_texts=counts.pop("failed_texts", 0),
            ended=counts,
        )

    def remember(self, line: bytes) -> None:
        """Adds a line to the history, of which HISTORY_S are kept for as many seconds."""
        key, pipe = f"{self._prefix}:history", self._client.pipeline(transaction=False)
        pipe.rpush(key, line)
        pipe.ltrim(key, -HISTORY_S, -1)
        pipe.expire(key, HISTORY_S)
        pipe.execute()

    def remembered(self) -> list[bytes]:
        """The lines of the history, oldest first."""
        return cast("list[bytes]", self._client.lrange(f"{self._prefix}:history", 0, -1))

    def running_ids(self) -> list[str]:
        places: Any = self._client.zrange(f"{self._prefix}:jobs:running", 0, -1)
        return [place.decode().partition(":")[2] for place in places]

    def open_ids(self) -> list[str]:
        """Every job that has not ended. Renews their lifetime, and drops expired jobs from the lists."""
        return [job_id.decode() for job_id in self._run("job_renew", self._ttl_ms)]

    def newest(
        self, count: int, before: str = "", *, status: str | None = None, owner: str = ""
    ) -> tuple[list[str], str | None]:
        """Up to `count` ids of jobs that `owner` may see ("": all), newest first, and a cursor.

        Pass the cursor as `before` to get the next page; a cursor of None means that there are no more jobs.
        """
        following, *ids = self._run("job_list", status or "", owner, before, count, MOST_LOOKS)
        return [job_id.decode() for job_id in ids], following.decode() or None

    def output(self, record: JobRecord, start: int, stop: int) -> Iterator[list[bytes]]:
        """Yields the finished results of entries [start, stop) as JSON, one list for each chunk."""
        stop = min(stop, record.done)
        key, size = f"{self._job(record.id)}:output", record.chunk_texts
        while start < stop:
            chunk = start // size
            raw = cast("bytes | None", self._client.lindex(key, chunk))
            if raw is None:
                raise LookupError(f"the results of job {record.id} no longer exist")
            lines = raw.split(b"\n")[start - chunk * size : stop - chunk * size]
            yield lines
            start += len(lines)

    def labelled(self, record: JobRecord, start: int, stop: int) -> Iterator[tuple[list[bytes], Any]]:
        """As `output`, each chunk with its texts (None for one that was too long), which must be kept."""
        for lines in self.output(record, start, stop):
            chunk, first = divmod(start, record.chunk_texts)
            texts = self.input(record.id, chunk) or []
            yield lines, texts[first : first + len(lines)]
            start += len(lines)

    def delete(self, job_id: str) -> bool:
        """Removes a job that has ended, with its data."""
        return bool(self._run("job_delete", job_id))

    # -- Redis -------------------------------------------------------------------------------------

    def _job(self, job_id: str) -> str:
        return f"{self._prefix}:job:{job_id}"

    def _run(self, script: str, *args: Any) -> Any:
        client: Any = self._client
        try:
            return client.execute_command(*call(script, True, SCRIPTS), 1, self._prefix, *args)
        except redis.exceptions.NoScriptError:
            return client.execute_command(*call(script, False, SCRIPTS), 1, self._prefix, *args)
