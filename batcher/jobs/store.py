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
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any, cast

import redis
from pydantic_core import from_json

from batcher.connection import scripts
from batcher.connection.clients import connect, leave_replica
from batcher.core.commands import COUNTS
from batcher.errors import DataMissing
from batcher.jobs.records import (
    Attempt,
    Claimed,
    Counts,
    Created,
    JobRecord,
    JobStatus,
    Left,
    Totals,
    Used,
    read_attempt,
    read_record,
)
from batcher.jobs.results import decode_models, labels_of, names_of
from batcher.jobs.upload import UNBOUNDED, Budget, FileStore, Submission, Upload
from batcher.settings import USAGE_DAYS, JobSettings

# The package of the scripts.
SCRIPTS = "batcher.jobs"
# Most jobs examined for one page of a list, which omits jobs of other owners.
MAX_LOOKS = 1000
DAY_MS = 86_400_000
HISTORY_S = 900  # of the page's charts, which survive a restart of the API
CHUNK_TEXTS = 256
# After this many consecutive attempts without progress a job fails: something in it must be ending them.
MAX_STALLED = 5
# A running job of which nothing was heard for so long, by the clock of Redis, is begun by another process.
# Each attempt without progress doubles this, up to LOST_S: slow processes must not make a job fail.
SILENT_S = 1.5
# After this long, any process begins it.
LOST_S = 20.0
# Most fields of a record: 50 or fewer facts, and the labels that its texts had first.
MAX_FIELDS = 250
# How many digits of the token of a claim identify the process.
PROCESS_DIGITS = 16
# A job with at most so many texts left is a small one: large ones never keep it waiting.
SMALL_TEXTS = 1024


def jobs_prefix(name: str) -> str:
    """P: the prefix of all job keys of the service `name`."""
    return f"{{millrace-jobs:{name}}}"


def connect_jobs(settings: JobSettings, *, timeout_s: float, connections: int) -> redis.Redis:
    """A client of the Redis of jobs; in a cluster, of the node that has their slot."""
    key = jobs_prefix(settings.name)
    return connect(settings.jobs_url, timeout_s=timeout_s, retries=1, connections=connections, key=key)


class JobStore:
    """The jobs of one service. Thread-safe, as its client is. Redis errors are not caught."""

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        ttl_s: float,
        budget: Budget = UNBOUNDED,
        usage_days: int = USAGE_DAYS,
    ) -> None:
        self.client = self._client = client
        self._prefix = jobs_prefix(name)
        self._ttl_ms = int(ttl_s * 1000)
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

    def claim(
        self,
        small: int,
        large: int,
        blocked: Sequence[str] = (),
        token: str = "",
        silent_s: float = SILENT_S,
    ) -> Claimed:
        """Begins attempts at up to so many small and large jobs that wait, or whose process was lost.

        `blocked` are the queues of models whose jobs cannot go on. `token` begins with PROCESS_DIGITS that
        identify the process; a call with that of an earlier one, whose reply was lost, returns its attempts.
        """
        durations = [int(seconds * 1000) for seconds in (silent_s, LOST_S)]
        args = [token or secrets.token_hex(16), self._ttl_ms, MAX_STALLED, *durations, SMALL_TEXTS]
        left, *found = self._run("job_claim", *args, small, large, *blocked)
        waiting = [Left(size == b"large", client.decode(), running) for size, client, running in left]
        return Claimed([read_attempt(raw) for raw in found], waiting)

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
        args += [ran_ms, self.usage_days * DAY_MS, labels_of(chunks), MAX_FIELDS, len(chunks)]
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

    def claim_webhook(self, lease_s: float, busy: Sequence[str] = ()) -> tuple[JobRecord, float] | None:
        """The job whose webhook is due next; no other caller gets it until the lease ends.

        With it comes the time by the clock of Redis, in seconds since 1970: that of a host may be wrong.
        `busy` are receivers, as `JobRecord.receiver` has them, that get no more for now.
        """
        claimed = self._run("webhook_claim", int(lease_s * 1000), *busy)
        record = self.record(claimed[0].decode()) if claimed else None
        return None if record is None else (record, claimed[1] / 1000)

    def record_webhook(
        self, record: JobRecord, attempts: Sequence[Mapping[str, object]], pause_s: float | None
    ) -> None:
        """Records the attempts so far, and that the next is due after `pause_s`; None: there is no other."""
        pause = "" if pause_s is None else int(pause_s * 1000)
        self._run("webhook_record", record.id, record.place, json.dumps(attempts), pause)

    def redact(self, job_id: str, chunk: int, texts: bytes, others: str) -> int:
        """Replaces a chunk of texts, as it is stored. Returns 1, or 0 if it has changed meanwhile.

        The attempt at the job, if there is one, ends with its next results.
        """
        return int(self._run("job_redact", job_id, chunk, texts, others))

    def delete(self, job_id: str) -> bool:
        """Removes a job that has ended, with its data."""
        return bool(self._run("job_delete", job_id))

    # -- reading -----------------------------------------------------------------------------------

    def records(self, job_ids: Sequence[str]) -> list[JobRecord | None]:
        """The record of each job, None for one that does not exist, in one round trip."""
        pipe = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hgetall(self._job(job_id))
        return [read_record(job_id, raw) for job_id, raw in zip(job_ids, pipe.execute(), strict=True)]

    def record(self, job_id: str) -> JobRecord | None:
        """The record of a job; None if it does not exist."""
        if (found := self.records([job_id])[0]) is not None:
            return found
        leave_replica(self._client, self._job(job_id))
        return self.records([job_id])[0]

    def position(self, record: JobRecord) -> int | None:
        """The job's position in the queue, from 1; None unless it is queued."""
        rank = cast("int | None", self._client.zrank(f"{self._prefix}:jobs:queued", record.place))
        return None if rank is None else rank + 1

    def crowded(self, client: str, most_waiting: int) -> str:
        """`full` if so many jobs are queued, `client_full` if half as many are its own, or ""."""
        return str(self._run("job_crowded", client, most_waiting).decode())

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

    def skipped_commands(self) -> int:
        """How many commands of its file or its master Redis has refused; 0 if its user may not see that."""
        try:
            stats = self._client.info("stats")
        except redis.exceptions.ResponseError:
            return 0
        return int(stats.get("unexpected_error_replies", 0))

    def remember(self, line: bytes) -> None:
        """Adds a line to the history, of which HISTORY_S are kept for as many seconds."""
        key = f"{self._prefix}:history"
        pipe = self._client.pipeline()
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
        """Every job that has not ended. Drops expired jobs, and those without a record, from the lists."""
        return [job_id.decode() for job_id in self._run("job_open", self._ttl_ms)]

    def newest(
        self,
        count: int,
        before: str = "",
        *,
        status: str | None = None,
        owner: str = "",
        batches: bool = False,
    ) -> tuple[list[str], str | None]:
        """Up to `count` ids of jobs that `owner` may see ("": all), newest first, and a cursor.

        Pass the cursor as `before` to get the next page; a cursor of None means that there are no more jobs.
        With `batches`, jobs that are not batches are left out.
        """
        following, *ids = self._run("job_list", status or "", owner, before, count, MAX_LOOKS, int(batches))
        return [job_id.decode() for job_id in ids], following.decode() or None

    def used(self, names: Sequence[str]) -> Used:
        """What the jobs of each of these keys use today."""
        at_us, *texts = map(int, self._run("job_used", *names))
        return Used(at_us, dict(zip(names, texts, strict=True)))

    def usage(self, days: Sequence[date]) -> list[dict[bytes, bytes]]:
        """What jobs have used on each of these days (UTC), by `NAME COUNT`."""
        pipe = self._client.pipeline(transaction=False)
        for day in days:
            pipe.hgetall(self._usage_key(day))
        return cast("list[dict[bytes, bytes]]", pipe.execute())

    def forget_usage(self, name: str, days: Sequence[date]) -> None:
        """Removes what the jobs of a key have used."""
        pipe = self._client.pipeline(transaction=False)
        for day in days:
            pipe.hdel(self._usage_key(day), *(f"{name} {count}" for count in COUNTS))
        pipe.execute()

    def _usage_key(self, day: date) -> str:
        return f"{self._prefix}:usage:{(day - date(1970, 1, 1)).days}"

    def output(self, record: JobRecord, start: int, stop: int) -> Iterator[list[bytes]]:
        """Yields the results [start, stop) as JSON, one list for each chunk. Raises DataMissing."""
        stop = min(stop, record.done)
        key = f"{self._job(record.id)}:output"
        size = record.chunk_texts
        while start < stop:
            chunk = start // size
            raw = self._of(record, "LINDEX", key, chunk)
            if raw is None:
                raise DataMissing(f"the results of job {record.id} were deleted, or have expired")
            lines = raw.split(b"\n")[start - chunk * size : stop - chunk * size]
            if len(lines) < min(stop, (chunk + 1) * size) - start:
                raise DataMissing(f"some results of job {record.id} are missing: submit its texts again")
            yield lines
            start += len(lines)

    def texts(self, record: JobRecord, start: int, count: int) -> list[str | None]:
        """The texts of `count` entries of a chunk, None for one that was too long.

        Raises DataMissing if they are gone.
        """
        chunk, first = divmod(start, record.chunk_texts)
        raw = self._of(record, "HGET", f"{self._job(record.id)}:input", chunk)
        if raw is None:
            raise DataMissing(f"the texts of job {record.id} were deleted, or have expired")
        texts: list[str | None] = from_json(raw)
        return texts[first : first + count]

    def models(self, record: JobRecord, start: int, count: int) -> list[str]:
        """Which model answered each of `count` entries of a chunk: name@revision, "" for an error.

        Those of entries that an earlier version has classified are "" too. Raises DataMissing if the job is
        gone.
        """
        chunk, first = divmod(start, record.chunk_texts)
        raw = self._of(record, "LINDEX", f"{self._job(record.id)}:models", chunk)
        return decode_models(raw or b"", first + count)[first : first + count]

    def _of(self, record: JobRecord, *command: Any) -> bytes | None:
        """The reply to a command about a job. Raises DataMissing if it is gone, or another has its id."""
        pipe: Any = self._client.pipeline(transaction=False)
        pipe.execute_command(*command)
        pipe.hget(self._job(record.id), "place")
        reply, place = pipe.execute()
        if place != record.place.encode():
            raise DataMissing(f"job {record.id} was deleted, or has expired")
        return cast("bytes | None", reply)

    def input(self, job_id: str, chunk: int) -> list[str | None] | None:
        """The texts of one chunk, with None for a text that is too long. None if the chunk does not exist."""
        raw = cast("bytes | None", self._client.hget(f"{self._job(job_id)}:input", str(chunk)))
        return None if raw is None else cast("list[str | None]", from_json(raw))

    def _job(self, job_id: str) -> str:
        return f"{self._prefix}:job:{job_id}"

    def _run(self, script: str, *args: Any) -> Any:
        return scripts.run(self._client, script, self._prefix, *args, package=SCRIPTS)
