"""Erases a text, a client or a revision from jobs and uploaded files."""

from __future__ import annotations

import json
from codecs import iterdecode
from collections.abc import Callable, Iterator
from typing import cast

import redis

from batcher.admin.scanning import SLICE
from batcher.admin.usage import kept_days
from batcher.errors import DataMissing
from batcher.jobs.records import JobRecord
from batcher.jobs.store import JobStore, jobs_prefix
from batcher.jobs.upload import FileRecord, account_of
from text_files.decoding import filled_lines
from text_files.errors import BadFile

PAGE = 500


class JobEraser:
    """Works on one service. `unqueue` removes the id of a job from RQ's queue."""

    def __init__(
        self, client: redis.Redis, name: str, store: JobStore, unqueue: Callable[[str], None]
    ) -> None:
        self._client = client
        self._prefix = jobs_prefix(name)
        self._store = store
        self._unqueue = unqueue

    def text(self, text: str) -> tuple[int, int]:
        """Replaces a text in the kept input of jobs by null, and deletes the files with it as an input.

        Returns how many chunks were changed, and how many files deleted. A job that still has to run the text
        reports it as too long.
        """
        holding = (record for record in self._jobs() if record.keep_input or not record.ended)
        chunks = sum(self._redact(record, text) for record in holding)
        found = [file.id for file in self._files() if self._contains(file, text)]
        return chunks, sum(map(self._store.files.delete, found))

    def client(self, client: str) -> tuple[list[str], int]:
        """Deletes the jobs and files of a client, running jobs too. Returns ids of jobs, and a count."""
        account = account_of(client).encode()
        self._store.forget_usage(client.removeprefix("key:"), [*kept_days(self._store.usage_days)])
        sizes = self._client.hscan_iter(f"{self._prefix}:jobs:sizes", count=SLICE)
        held = {member.decode() for member, value in sizes if value.partition(b" ")[2] == account}
        files = [member.removeprefix("file:") for member in held if member.startswith("file:")]
        ids = {member.partition(":")[2] for member in held if not member.startswith(("file:", "upload:"))}
        ids |= {record.id for record in self._jobs() if record.owner == client}
        return list(filter(self._delete, ids)), sum(map(self._store.files.delete, files))

    def revision(self, revision: str) -> int:
        """Deletes ended jobs that such a revision has answered, if in part. Returns how many."""
        found = [record.id for record in self._jobs() if record.ended and _answered(record, revision)]
        return sum(map(self._store.delete, found))

    def _delete(self, job_id: str) -> bool:
        if self._store.cancel(job_id) == "cancelled":
            self._unqueue(job_id)
        return self._store.delete(job_id)

    def _jobs(self) -> Iterator[JobRecord]:
        cursor: str | None = ""
        while cursor is not None:
            ids, cursor = self._store.newest(PAGE, cursor)
            yield from (record for record in self._store.records(ids) if record is not None)

    def _redact(self, record: JobRecord, text: str) -> int:
        """Replaces the text in one job. Reads a chunk at a time."""
        key = f"{self._prefix}:job:{record.id}:input"
        changed = number = 0
        while raw := cast("bytes | None", self._client.hget(key, str(number))):
            texts = json.loads(raw)
            if text in texts:
                cleared = json.dumps([None if one == text else one for one in texts], ensure_ascii=False)
                changed += self._store.redact(record.id, number, raw, cleared)
            number += 1
        return changed

    def _files(self) -> Iterator[FileRecord]:
        """Those of batches that run too: they have no end meanwhile."""
        sizes = f"{self._prefix}:jobs:sizes"
        for member, _ in self._client.hscan_iter(sizes, match="file:*", count=SLICE):
            if file := self._store.files.record(member.removeprefix(b"file:").decode()):
                yield file

    def _contains(self, file: FileRecord, text: str) -> bool:
        blocks = self._store.files.content(file)
        try:
            lines = filled_lines(iterdecode(blocks, "utf-8", "replace"))
            return any(_asks(line, text) for _, line in lines)
        except (DataMissing, BadFile):  # it is gone, or has a line that is too long for a batch
            return False


def _answered(record: JobRecord, revision: str) -> bool:
    names = (record.model, *record.models)  # a cascade, and its members
    return any(name.rpartition("@")[2].startswith(revision[:12]) for name in names)


def _asks(line: str, text: str) -> bool:
    """Whether a line of a batch is a request with this text as its input, or among them."""
    try:
        given = json.loads(line)["body"]["input"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return False  # no batch can be created from this file
    return bool(given == text) or (isinstance(given, list) and text in given)
