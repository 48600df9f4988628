"""Every Redis key and command of jobs, except RQ's own. Synchronous: call it from threads.

P is `{millrace-jobs:<name>}`: the queue's keys begin otherwise, so a Redis user may have one and not the other.
TTL is `job_ttl_s`, renewed while a job lives.

| key                 | type | what                                              | lifetime | written by    |
|---------------------|------|---------------------------------------------------|----------|---------------|
| P:job:<id>          | hash | status, counts, times, error: what the API shows  | TTL      | all scripts   |
| P:job:<id>:input    | hash | chunk number -> JSON list, null: text is too long | TTL      | create        |
| P:job:<id>:output   | list | chunks of results in order, a JSON line an entry  | TTL      | append        |
| P:job:<id>:upload:* | hash | input that is still arriving                      | 10 min   | Upload        |
| P:jobs              | zset | every job, by creation                            | TTL      | create        |
| P:jobs:queued       | zset | jobs that wait, id -> created ms                  | TTL      | create, start |
| P:jobs:running      | zset | jobs that run, id -> started ms                   | TTL      | start, end    |
| P:jobs:totals       | hash | ended jobs by status, texts done, since it began  | TTL      | append, end   |

A chunk holds `chunk_texts` entries (the last one fewer), so an entry's place follows from its number.
Every script is idempotent, and none lets a job that has ended change again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, cast

import redis

from batcher.job_record import Attempt, Created, JobRecord, JobStatus, Totals, read_record
from batcher.redis_queue import script_sha, script_source

CHUNK_TEXTS = 256
UPLOAD_TTL_MS = 600_000
# A job whose attempts end without progress this often in a row has something about it that ends them.
MOST_STALLED = 5


def jobs_prefix(name: str) -> str:
    """P: what every key of the jobs of the service `name` starts with."""
    return f"{{millrace-jobs:{name}}}"


class JobStore:
    """The jobs of one service. Thread-safe, as its client is. Raises what the client raises."""

    def __init__(self, client: redis.Redis, name: str, ttl_s: float) -> None:
        self._client = client
        self._prefix = jobs_prefix(name)
        self._ttl_ms = int(ttl_s * 1000)

    # -- coming in ---------------------------------------------------------------------------------

    def upload(self, job_id: str, chunk_texts: int = CHUNK_TEXTS, owner: str = "") -> Upload:
        """Input to be stored chunk by chunk, then made a job of `owner` by `create`, or dropped."""
        nonce = secrets.token_hex(8)
        return Upload(self._client, f"{self._job(job_id)}:upload:{nonce}", job_id, nonce, chunk_texts, owner)

    def create(self, upload: Upload, digest: str, most_waiting: int) -> Created:
        """Makes a job of an upload, all at once. `digest`, of the texts, tells repeats from conflicts."""
        facts = [upload.total, upload.chunk_texts, upload.chunks, digest, self._ttl_ms, most_waiting]
        outcome, known = self._run("job_create", upload.job_id, upload.nonce, *facts, upload.owner)
        return Created(outcome.decode(), (known or b"").decode())

    # -- being run ---------------------------------------------------------------------------------

    def start(self, job_id: str) -> Attempt:
        """Begins an attempt, which ends the right of any earlier one to write."""
        status, *numbers = self._run("job_start", job_id, self._ttl_ms, MOST_STALLED)
        return Attempt(job_id, status.decode(), *map(int, numbers))

    def input(self, job_id: str, chunk: int) -> list[str | None] | None:
        """The texts of one chunk, None for one that is too long. None when the chunk is gone."""
        raw = cast("bytes | None", self._client.hget(f"{self._job(job_id)}:input", str(chunk)))
        return None if raw is None else cast("list[str | None]", json.loads(raw))

    def append(
        self, attempt: Attempt, first: int, chunks: Sequence[bytes], *, failed: int, rate: float, model: str
    ) -> str:
        """Adds results from chunk `first` on. Returns `running` while the attempt may go on, else why not."""
        facts = [attempt.number, first, failed, round(rate, 1), model, self._ttl_ms]
        status: bytes = self._run("job_append", attempt.job_id, *facts, *chunks)
        return status.decode()

    def end(self, attempt: Attempt, status: JobStatus, code: str = "", error: str = "") -> str:
        """Ends a job on behalf of an attempt. Returns the status afterwards, or `superseded`."""
        said: bytes = self._run("job_end", attempt.job_id, attempt.number, status, code, error, self._ttl_ms)
        return said.decode()

    def cancel(self, job_id: str) -> str:
        """Ends a job unless it has ended. Returns the status afterwards, or `gone`."""
        said: bytes = self._run("job_end", job_id, "", "cancelled", "", "", self._ttl_ms)
        return said.decode()

    def forgive(self, attempt: Attempt) -> None:
        """This attempt ends because it was asked to: it does not count as one without progress."""
        self._client.hincrby(self._job(attempt.job_id), "stalled", -1)

    # -- being asked -------------------------------------------------------------------------------

    def records(self, job_ids: Sequence[str]) -> list[JobRecord | None]:
        """What is known of each job, None where there is none; one round trip."""
        pipe = self._client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hgetall(self._job(job_id))
        return [read_record(job_id, raw) for job_id, raw in zip(job_ids, pipe.execute(), strict=True)]

    def record(self, job_id: str) -> JobRecord | None:
        """What is known of one job."""
        return self.records([job_id])[0]

    def position(self, job_id: str) -> int | None:
        """Jobs that will begin before this one, plus one; None unless it is queued."""
        rank = cast("int | None", self._client.zrank(f"{self._prefix}:jobs:queued", job_id))
        return None if rank is None else rank + 1

    def waiting(self) -> int:
        """How many jobs are queued."""
        return self._client.zcard(f"{self._prefix}:jobs:queued")

    def totals(self) -> Totals:
        """Counts over all jobs, in one round trip."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(f"{self._prefix}:jobs:totals")
        pipe.zcard(f"{self._prefix}:jobs:running")
        pipe.zcard(f"{self._prefix}:jobs:queued")
        pipe.zrange(f"{self._prefix}:jobs:queued", 0, 0, withscores=True)
        pipe.time()
        raw, running, queued, oldest, (now_s, now_us) = pipe.execute()
        counts = {name.decode(): int(value) for name, value in raw.items()}
        now_ms = now_s * 1000 + now_us // 1000
        return Totals(
            queued=queued,
            running=running,
            oldest_ms=max(now_ms - int(oldest[0][1]), 0) if oldest else 0,
            texts=counts.pop("texts", 0),
            failed_texts=counts.pop("failed_texts", 0),
            ended=counts,
        )

    def running_ids(self) -> list[str]:
        """Jobs that run."""
        return [member.decode() for member in self._members("running")]

    def open_ids(self) -> list[str]:
        """Every job that has not ended. Renews their lifetime, and forgets those that are gone."""
        ids: list[str] = []
        for kind in ("queued", "running"):
            key = f"{self._prefix}:jobs:{kind}"
            members = [member.decode() for member in self._members(kind)]
            pipe = self._client.pipeline(transaction=False)
            for job_id in members:
                pipe.pexpire(self._job(job_id), self._ttl_ms)
                pipe.pexpire(f"{self._job(job_id)}:input", self._ttl_ms)
                pipe.pexpire(f"{self._job(job_id)}:output", self._ttl_ms)
            pipe.pexpire(key, self._ttl_ms)
            pipe.pexpire(f"{self._prefix}:jobs", self._ttl_ms)
            there = pipe.execute()[: 3 * len(members) : 3]
            gone = [job_id for job_id, held in zip(members, there, strict=True) if not held]
            if gone:
                self._client.zrem(key, *gone)
            ids += [job_id for job_id in members if job_id not in gone]
        return ids

    def places(self, before: str, count: int) -> list[str]:
        """The places of up to `count` jobs that are older than `before` ("": all are), newest first."""
        top = f"({before}" if before else "+"
        found: Any = self._client.zrevrangebylex(f"{self._prefix}:jobs", top, "-", start=0, num=count)
        return [place.decode() for place in found]

    def forget_places(self, places: Sequence[str]) -> None:
        """Takes jobs whose lifetime has ended off the list."""
        if places:
            self._client.zrem(f"{self._prefix}:jobs", *places)

    def output(self, record: JobRecord, start: int, stop: int) -> Iterator[list[bytes]]:
        """The results of entries [start, stop), as far as done: JSON each, in a list for each chunk."""
        stop = min(stop, record.done)
        key, size = f"{self._job(record.id)}:output", record.chunk_texts
        while start < stop:
            chunk = start // size
            raw = cast("bytes | None", self._client.lindex(key, chunk))
            if raw is None:
                raise LookupError(f"results of job {record.id} are gone")
            lines = raw.split(b"\n")[start - chunk * size : stop - chunk * size]
            yield lines
            start += len(lines)

    def delete(self, job_id: str) -> bool:
        """Removes a job that has ended, with its data."""
        return bool(self._run("job_delete", job_id))

    # -- Redis -------------------------------------------------------------------------------------

    def _members(self, kind: str) -> list[bytes]:
        return cast("list[bytes]", self._client.zrange(f"{self._prefix}:jobs:{kind}", 0, -1))

    def _job(self, job_id: str) -> str:
        return f"{self._prefix}:job:{job_id}"

    def _run(self, script: str, *args: Any) -> Any:
        try:
            return self._client.evalsha(script_sha(script), 1, self._prefix, *args)
        except redis.exceptions.NoScriptError:
            return self._client.eval(script_source(script), 1, self._prefix, *args)


class Upload:
    """Input on its way into Redis. It is nobody's job yet, and goes by itself if it is left alone."""

    def __init__(
        self, client: redis.Redis, key: str, job_id: str, nonce: str, chunk_texts: int, owner: str
    ) -> None:
        self.job_id = job_id
        self.owner = owner
        self.nonce = nonce
        self.chunk_texts = chunk_texts
        self.chunks = 0
        self.total = 0
        self._client = client
        self._key = key

    def add(self, texts: Sequence[str | None]) -> None:
        """Stores the next chunk: `chunk_texts` of them, fewer only in the last one. None: too long a text."""
        payload = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode()
        pipe = self._client.pipeline(transaction=False)
        pipe.hset(self._key, str(self.chunks), payload)
        pipe.pexpire(self._key, UPLOAD_TTL_MS)
        pipe.execute()
        self.chunks += 1
        self.total += len(texts)

    def drop(self) -> None:
        """Removes what was stored."""
        self._client.unlink(self._key)
