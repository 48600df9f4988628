"""Uploads the input of jobs, and the files of batches, to Redis, chunk by chunk, within byte budgets."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import redis

from batcher.connection.clients import leave_replica, server_time_s
from batcher.core.publications import choice
from batcher.errors import DataMissing
from batcher.messages import longest_fragment
from batcher.settings import JobSettings

# Bytes reserved for a result of few labels, or an error; and of each chunk for the names of its models.
RESULT_BYTES = 100
MODELS_BYTES = 100
# What a result has beside its prediction: a line end, and the number of its model.
_BESIDE = 8
UPLOAD_TTL_MS = 600_000
Refusal = Literal["large", "full", "client_full"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that jobs may hold: all of them together (`total`), and those of one client."""

    total: int
    client: int


UNBOUNDED = Budget(sys.maxsize, sys.maxsize)


def budget_of(settings: JobSettings) -> Budget:
    """The budget in the settings; that of a client is never more than that of all."""
    most = settings.max_jobs_bytes
    return Budget(most, min(settings.max_client_jobs_bytes, most))


@dataclass(frozen=True, slots=True)
class Submission:
    """Who submits a job, and how.

    `owner` may see it ("": every client), its bytes count against the budget of `client`, and `trace` is the
    traceparent of the request. `batch` is what the record keeps of the batch that it belongs to, `webhook` is
    the URL that is notified of its end, and `file` describes the file it came from as JSON, once that has
    been read. `model` is the name of a model's queue; "" for the first. `result_bytes` are reserved for each
    result. `identity` is what a repeat of the request must have beside the same texts for the same model, as
    JSON once these have been read; "": nothing. `ttl_s` is how long it is kept after its end, if not as all
    jobs are. `admit` is called with the number of texts that have been read, and may raise. `key` is the name
    of the client's key, for whose usage its texts count.
    """

    owner: str = ""
    client: str = ""
    keep_input: bool = False
    trace: str = ""
    batch: str = ""
    webhook: str = ""
    file: Callable[[], str] = str
    model: str = ""
    result_bytes: int = RESULT_BYTES
    identity: Callable[[], str] = str
    ttl_s: int | None = None
    admit: Callable[[int], None] = lambda texts: None
    key: str = ""


def result_bytes(labels: Sequence[str]) -> int:
    """The most bytes that a result of a model with these labels has in a job."""
    return max(RESULT_BYTES, longest_fragment(labels) + _BESIDE)


class NoRoom(Exception):
    """The budget is exhausted. `large`: this job would exceed it even if all others were deleted."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


def account_of(client: str) -> str:
    """The name under which the bytes of a client are counted.

    A client may be an IP address, which is personal data. A hash is enough to distinguish clients. It is the
    number by which shares of clients are taken, in hexadecimal digits.
    """
    return f"{choice(client):016x}"


def encode_text(text: str | None) -> bytes:
    """A text as JSON: a quarter of the memory of a string with one wide character. None: too long a text."""
    return json.dumps(text, ensure_ascii=False).encode()


@dataclass(eq=False)
class Upload:
    """Input that is not a job yet. It expires if it is abandoned."""

    _run: Callable[..., Any]
    job_id: str
    nonce: str
    chunk_texts: int
    submission: Submission
    _budget: Budget = UNBOUNDED
    chunks = 0
    total = 0
    input_bytes = 0

    def add(self, texts: Sequence[bytes]) -> None:
        """Stores the next chunk of `chunk_texts` texts (see `encode_text`); only the last may be smaller.

        Raises NoRoom without storing anything.
        """
        payload = b"[%b]" % b",".join(texts)
        reserved = len(texts) * self.submission.result_bytes + MODELS_BYTES
        self._store(str(self.chunks), payload, len(payload) + reserved)
        self.chunks += 1
        self.total += len(texts)
        self.input_bytes += len(payload)

    def check(self, size: int) -> None:
        """Raises NoRoom if `size` more bytes do not fit into the budgets now. Stores nothing.

        A size that could never fit is accepted, because a body may be larger than the texts it contains.
        """
        try:
            self._store("", b"", size)
        except NoRoom as error:
            if error.refusal != "large":
                raise

    def drop(self) -> None:
        """Removes the upload."""
        self._run("job_drop", self.job_id, self.nonce)

    def _store(self, chunk: str, payload: bytes, size: int) -> None:
        args = [size, self.submission.client, UPLOAD_TTL_MS, self._budget.total, self._budget.client]
        verdict: bytes = self._run("job_upload", self.job_id, self.nonce, chunk, payload, *args)
        if verdict != b"stored":
            refusal: Any = verdict.decode()
            raise NoRoom(refusal)


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
        now_s = int(server_time_s(self._client))
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
