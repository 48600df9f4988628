"""Uploaded files of batches in Redis: chunks of bytes, counted towards the same budgets as jobs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import redis

from batcher.connection.clients import leave_replica
from batcher.errors import DataMissing
from batcher.jobs.upload import UPLOAD_TTL_MS, Budget, NoRoom, Refusal

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A complete file. Times are in seconds since 1970; `owner` as in jobs."""

    id: str
    name: str
    bytes: int
    chunks: int
    created_s: int
    expires_s: int
    owner: str

    def shown_to(self, owner: str) -> bool:
        return not owner or self.owner in ("", owner)


class FileStore:
    """The files of one service. Synchronous; Redis errors are not caught.

    They are kept for twice as long as ended jobs, and that after the last batch of them has ended, so that a
    file outlives the results of its batches.
    """

    def __init__(self, client: redis.Redis, run: Callable[..., Any], prefix: str, ttl_ms: int) -> None:
        self._client = client
        self._run = run
        self._prefix = prefix
        self._ttl_ms = 2 * ttl_ms

    def put(self, file_id: str, blocks: Iterable[bytes], client: str, budget: Budget) -> tuple[int, int]:
        """Stores the content of a file that is not complete yet; returns its bytes and chunks.

        Raises NoRoom. The caller completes the file, or deletes it.
        """
        size = 0
        number = 0
        for chunk in _chunks(blocks):
            args = [client, UPLOAD_TTL_MS, budget.total, budget.client]
            verdict: bytes = self._run("file_put", file_id, number, chunk, *args)
            if verdict != b"stored":
                raise NoRoom(cast(Refusal, verdict.decode()))
            size += len(chunk)
            number += 1
        return size, number

    @property
    def ttl_s(self) -> int:
        """How long files are kept."""
        return self._ttl_ms // 1000

    def complete(
        self, file_id: str, name: str, stored: tuple[int, int], owner: str, ttl_s: int
    ) -> FileRecord | None:
        """Makes a file visible for `ttl_s`; None if it has expired meanwhile, or is empty.

        `stored` are its bytes and chunks, as `put` has returned them.
        """
        now_s = int(time.time())
        record = FileRecord(file_id, name, *stored, now_s, now_s + ttl_s, owner)
        kept = self._run("file_keep", file_id, ttl_s * 1000, json.dumps(asdict(record)))
        return record if kept else None

    def record(self, file_id: str) -> FileRecord | None:
        """The record of a complete file; None if it does not exist."""
        key = self._key(file_id)
        raw = cast("bytes | None", self._client.hget(key, "facts"))
        if raw is None:
            leave_replica(self._client, key)
            raw = cast("bytes | None", self._client.hget(key, "facts"))
        return None if raw is None else FileRecord(**json.loads(raw))

    def content(self, record: FileRecord) -> Iterator[bytes]:
        """Yields the content in chunks. Raises DataMissing if the file is deleted meanwhile."""
        for number in range(record.chunks):
            chunk = cast("bytes | None", self._client.hget(self._key(record.id), str(number)))
            if chunk is None:
                raise DataMissing(f"file {record.id} was deleted, or has expired")
            yield chunk

    def delete(self, file_id: str) -> bool:
        return bool(self._run("file_delete", file_id))

    def _key(self, file_id: str) -> str:
        return f"{self._prefix}:file:{file_id}"


def _chunks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for block in blocks:
        held += block
        while len(held) >= CHUNK_BYTES:
            yield bytes(held[:CHUNK_BYTES])
            del held[:CHUNK_BYTES]
    if held:
        yield bytes(held)
