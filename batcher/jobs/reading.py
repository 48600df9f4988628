"""Reads the store of jobs: records, lists, texts and results. batcher/jobs/store.py lists the keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, cast

import redis
from pydantic_core import from_json

from batcher.connection.clients import leave_replica
from batcher.connection.scripts import call
from batcher.core.commands import COUNTS
from batcher.errors import DataMissing
from batcher.jobs.records import JobRecord, Totals, read_record
from batcher.jobs.results import decode_models

# The package of the scripts.
SCRIPTS = "batcher.jobs"
# Most jobs examined for one page of a list, which omits jobs of other owners.
MAX_LOOKS = 1000
DAY_MS = 86_400_000
HISTORY_S = 900  # of the page's charts, which survive a restart of the API


class JobReader:
    """Reads jobs, and keeps the history of the page. `prefix` is P, and `ttl_ms` the lifetime of jobs."""

    def __init__(self, client: redis.Redis, prefix: str, ttl_ms: int) -> None:
        self.client = self._client = client
        self._prefix = prefix
        self._ttl_ms = ttl_ms

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

    def used(self, names: Sequence[str]) -> list[int]:
        """Of each of these keys, the texts that its jobs have used today, and have yet to use."""
        return [int(texts) for texts in self._run("job_used", *names)]

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

    def trace(self, job_id: str) -> str:
        """The traceparent of the request that submitted the job; "" if there is none."""
        raw = cast("bytes | None", self._client.hget(self._job(job_id), "trace"))
        return (raw or b"").decode("ascii", "replace")

    def input(self, job_id: str, chunk: int) -> list[str | None] | None:
        """The texts of one chunk, with None for a text that is too long. None if the chunk does not exist."""
        raw = cast("bytes | None", self._client.hget(f"{self._job(job_id)}:input", str(chunk)))
        return None if raw is None else cast("list[str | None]", from_json(raw))

    def _job(self, job_id: str) -> str:
        return f"{self._prefix}:job:{job_id}"

    def _run(self, script: str, *args: Any) -> Any:
        client: Any = self._client
        try:
            return client.execute_command(*call(script, True, SCRIPTS), 1, self._prefix, *args)
        except redis.exceptions.NoScriptError:
            return client.execute_command(*call(script, False, SCRIPTS), 1, self._prefix, *args)
