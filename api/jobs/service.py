"""The async interface to jobs. RQ and the job store are synchronous, so they run in separate threads.

The errors that they raise if Redis does not answer become QueueUnavailable.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar, cast

from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.asgi.http import CLOSE, RequestHeaders, check_encoding, check_length, unless_disconnected, unpacked
from api.errors import Problem, ResponseCut
from api.jobs.body import (
    FileQuery,
    Places,
    Receiver,
    Sender,
    SubmitQuery,
    charset,
    described,
    file_texts,
    media_type,
    read_texts,
    refused,
)
from api.jobs.pages import Chunk, json_line
from api.jobs.schemas import FilePreview, Job, WaitsFor, job_body
from api.jobs.upload import JobUploader
from api.jobs.watcher import JobWatch
from api.keys import Keys, key_name
from api.settings import ApiSettings
from batcher import tracing
from batcher.connection.outage import REDIS_ERRORS, unavailable
from batcher.errors import MillraceError, QueueUnavailable
from batcher.jobs.records import JobRecord, JobStatus, is_job_id
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import JobStore, connect_jobs
from batcher.jobs.upload import Submission, account_of, result_bytes
from batcher.webhook_security import AddressRefused, parse_url
from text_files.formats import Hints
from text_files.preview import preview
from text_files.rows import FileRows

# How many commands run, and how many large and how many small bodies are read, at the same time. Only the
# beginning of further bodies is.
THREADS = 4
UPLOADS = 4
# How many bodies may wait.
WAITING_UPLOADS = 64
REDIS_TIMEOUT_S = 2.0
# How long to wait before another look whether a thread still reads.
PAUSE_S = 0.05
MAX_KEY = 255
# Characters of a cell of a preview.
MAX_CELL = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobBackend:
    """Jobs in Redis: their store, and RQ's queue. Both are synchronous."""

    store: JobStore
    queue: JobQueue

    @classmethod
    def connect(cls, settings: ApiSettings) -> JobBackend:
        """With a client of the Redis in the settings, which connects when it is first used."""
        connections = 2 * (THREADS + 2 * UPLOADS)
        client = connect_jobs(settings, timeout_s=REDIS_TIMEOUT_S, connections=connections)
        queue = JobQueue.connect(settings, timeout_s=REDIS_TIMEOUT_S)
        store = JobStore(client, settings.name, settings.job_ttl_s, usage_days=settings.usage_days)
        return cls(store, queue)


@dataclass(frozen=True, slots=True)
class JobHooks:
    """What jobs ask of the rest of the service.

    `check_client` is called before the texts of a job are read, with the client and whether its request has
    an Idempotency-Key; `reserve_texts` with the number that have been read, and how many of them it has
    returned before. Both may raise Problem 429. `count_texts` is called once a job is accepted, with its
    texts, and `release_texts` at last with those that are reserved. `find_model` returns the name of a
    model's queue by the name that a client uses, and raises Problem if there is none. `labels` returns
    those of the model of such a queue, none while they are not known, and `waits_for` why a job of it
    cannot go on now.
    """

    draining: Callable[[], bool] = lambda: False
    check_client: Callable[[str, bool], None] = lambda client, keyed: None
    reserve_texts: Callable[[str, int, int], int] = lambda client, texts, reserved: 0
    count_texts: Callable[[str, JobRecord], None] = lambda client, record: None
    release_texts: Callable[[str, int], None] = lambda client, texts: None
    find_model: Callable[[str], str] = lambda name: name
    labels: Callable[[str], Sequence[str]] = lambda queue: ()
    waits_for: Callable[[str], WaitsFor | None] = lambda queue: None


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What the record of a job keeps of its batch, as JSON, and what identifies the batch beside its texts.

    The latter is asked for once the texts have been read. `ttl_s`: as in Submission.
    """

    facts: str
    identity: Callable[[], Mapping[str, object]]
    ttl_s: int | None = None


class _Streamed(StreamingResponse):
    """Ends its blocks once it has been sent or its client has left: the garbage collector would be late."""

    def __init__(
        self, body: AsyncIterator[bytes], receiver: Receiver, blocks: Iterator[bytes], **more: Any
    ) -> None:
        super().__init__(body, **more)
        self._receiver, self._blocks = receiver, blocks

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except asyncio.CancelledError as error:
            # Its task keeps it, and it would keep the frames of the task, with the last block.
            raise error.with_traceback(None) from None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._receiver.leave()
            while isinstance(self._blocks, Generator):
                try:
                    await asyncio.to_thread(self._blocks.close)
                    break
                except ValueError:  # a thread still reads one
                    await asyncio.sleep(PAUSE_S)


class JobService:
    """Creates jobs, reads their records and results, and cancels or deletes them."""

    def __init__(self, backend: JobBackend, settings: ApiSettings, keys: Keys, hooks: JobHooks) -> None:
        self.store = store = backend.store
        self.watch = JobWatch(partial(self.call, store.records), hooks.draining)
        self.draining = hooks.draining
        self._hooks = hooks
        self._queue = queue = backend.queue
        self._keys = keys
        self.webhooks = bool(settings.webhook_secrets.get_secret_value())
        # The owner whose jobs all viewers of /stats may see: "" (all) without keys, None with several names.
        names = sorted(set(settings.api_keys.get_secret_value().values()))
        self.shown_owner = None if len(names) > 1 else f"key:{names[0]}" if names else ""
        self.settings = settings
        self.uploader = JobUploader(store, queue, settings)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="jobs")
        self._uploads = Places(UPLOADS, WAITING_UPLOADS)
        self._small_uploads = Places(UPLOADS, WAITING_UPLOADS)
        self._beginnings = Places(WAITING_UPLOADS)
        self._upload_threads = CapacityLimiter(2 * UPLOADS)

    async def stop(self) -> None:
        await self.watch.stop()
        self._threads.shutdown(wait=False)

    # -- submitting --------------------------------------------------------------------------------

    def job_id(self, headers: RequestHeaders) -> str:
        """A job id derived from this client's `Idempotency-Key`, or a new one. Raises Problem 422."""
        keys = [value for name, value in headers.scope["headers"] if name == b"idempotency-key"]
        if not keys:
            return secrets.token_hex(16)
        if len(keys) > 1 or not 0 < len(keys[0]) <= MAX_KEY:
            raise Problem(422, f"Idempotency-Key must be given once, with 1 to {MAX_KEY} characters")
        return sha256(self.owner(headers).encode() + b"\n" + keys[0]).hexdigest()[:32]

    def owner(self, headers: RequestHeaders) -> str:
        """The owner whose jobs this request may see: `key:` and the key's name, or "" (all) without keys."""
        return self._keys.owner(headers)

    async def take_body(
        self, headers: RequestHeaders, receive: Receive, query: SubmitQuery
    ) -> tuple[JobRecord, bool]:
        """Creates a job from a request body while it arrives. Returns the job, and whether it is new.

        Raises Problem, QueueUnavailable or ClientDisconnect.
        """
        model = self._queue_of(query.model)
        plain = not query.filename and b"content-encoding" not in headers.by_name
        sender = Sender(receive, headers.left, plain=plain)
        body = self.blocks(headers, sender)
        if query.filename:
            rows = self.file_rows(sender, body, query.filename, query.hints(charset(headers)))
            submission = self._submission(
                headers, query.keep_input, file=lambda: described(rows).model_dump_json(), model=model
            )
            return await self._take(headers, file_texts(rows), submission, sender)
        kind = media_type(headers)
        texts = read_texts(kind, body, charset(headers))
        # Only the column `text` of a CSV is stored, so its Content-Length does not predict the stored size.
        size = 0 if kind == "text/csv" else int(headers.by_name.get(b"content-length", b"0"))
        submission = self._submission(headers, query.keep_input, model=model)
        return await self._take(headers, texts, submission, sender, size)

    async def preview(self, headers: RequestHeaders, receive: Receive, query: FileQuery) -> FilePreview:
        """How the file in a body would be read. Only its beginning is, unless it is a typed table."""
        sender = Sender(receive, headers.left)
        body = self.blocks(headers, sender)
        rows = self.file_rows(sender, body, query.filename, query.hints(charset(headers)))
        with refused():
            found = await self.upload(headers, sender, preview, rows)
        columns, shown = _short(found.names), [_short(row) for row in found.rows]
        return FilePreview(file=described(rows), columns=columns, column=found.column, rows=shown)

    def file_rows(self, sender: Sender, blocks: Iterable[bytes], name: str, hints: Hints) -> FileRows:
        """The rows of a file, which end once its sender has left, with Problem 413 for a large content."""
        counted = self.uploader.counted
        return FileRows(blocks, name, hints, lambda part: sender.waited_for(counted(part)))

    def blocks(self, headers: RequestHeaders, sender: Sender) -> Iterator[bytes]:
        """The blocks of a body, decompressed, for the worker thread that reads it.

        Raises Problem 413 for a body that is too large, as soon as that shows, 415 for an unknown
        Content-Encoding, and 422 for one that is not of its encoding.
        """
        check_length(headers, self.settings.max_job_body_bytes)
        encoding = check_encoding(headers)
        blocks = self.uploader.counted(sender.blocks())
        if not encoding:
            return blocks
        # A small body may have a large content, of lines without a text.
        return sender.waited_for(self.uploader.counted(unpacked(encoding, blocks)))

    async def take_texts(
        self, headers: RequestHeaders, texts: Sequence[str], model: str = ""
    ) -> tuple[JobRecord, bool]:
        """Creates a job from texts that have been read already. Raises Problem 404 as `take_batch` does."""
        return await self._take(headers, iter(texts), self._submission(headers, model=self._queue_of(model)))

    async def take_batch(
        self, headers: RequestHeaders, texts: Iterator[str], batch: BatchFacts, sender: Sender, model: str
    ) -> tuple[JobRecord, bool]:
        """Creates a job that belongs to a batch. Raises Problem 404 if no model is called `model`."""
        submission = self._submission(headers, batch=batch, model=self._queue_of(model))
        return await self._take(headers, texts, submission, sender)

    def _queue_of(self, model: str) -> str:
        return self._hooks.find_model(model) if model else ""

    async def _take(
        self,
        headers: RequestHeaders,
        texts: Iterator[str],
        submission: Submission,
        sender: Sender | None = None,
        size: int = 0,
    ) -> tuple[JobRecord, bool]:
        client, hooks, reserved = self.check_sender(headers, headers.keyed), self._hooks, 0

        def admit(texts: int) -> None:
            nonlocal reserved
            reserved = hooks.reserve_texts(client, texts, reserved)

        submission = replace(submission, admit=admit)
        texts = texts if sender is None else sender.waited_for(texts)
        try:
            record, new = await self.upload(
                headers, sender, self.uploader.take, self.job_id(headers), texts, submission, size
            )
            if new:
                hooks.count_texts(client, record)
        finally:
            hooks.release_texts(client, reserved)
        return record, new

    def _submission(
        self,
        headers: RequestHeaders,
        keep_input: bool = False,
        batch: BatchFacts | None = None,
        file: Callable[[], str] = str,
        model: str = "",
    ) -> Submission:
        owner, sender = self.owner(headers), self._keys.client(headers)
        webhook = self._webhook(headers)
        size = result_bytes(self._hooks.labels(model))
        options = {"keep_input": keep_input, "webhook": webhook}

        def identity() -> str:
            asked = {**options, **(batch.identity() if batch else {})}
            return json.dumps(asked, sort_keys=True) if any(asked.values()) else ""

        facts, ttl_s = (batch.facts, batch.ttl_s) if batch else ("", None)
        own = keep_input, tracing.current(), facts, webhook, file, model
        return Submission(owner, account_of(sender), *own, size, identity, ttl_s, key=key_name(sender))

    def _webhook(self, headers: RequestHeaders) -> str:
        """The `Webhook-URL` or "". Its addresses are checked when it is used. Raises Problem 422."""
        given = headers.by_name.get(b"webhook-url")
        if given is None:
            return ""
        if not self.webhooks:
            raise Problem(422, "webhooks are not enabled: MILLRACE_WEBHOOK_SECRETS is not set")
        url = given.decode("latin-1")
        try:
            parse_url(url)
        except AddressRefused as error:
            raise Problem(422, f"Webhook-URL {error}") from None
        return url

    def check_sender(self, headers: RequestHeaders, keyed: bool = False) -> str:
        """The client of a request. Raises Problem 429 if an operator holds it back, or above its quota."""
        client = self._keys.client(headers)
        self._hooks.check_client(client, keyed)
        return client

    async def upload(
        self, headers: RequestHeaders, sender: Sender | None, function: Callable[..., T], *args: object
    ) -> T:
        """Calls a function that reads the body of `sender`, if any, in one of the few threads for this.

        Large bodies that arrive slowly do not keep small ones waiting, nor those of other clients. Raises
        what it raises, QueueUnavailable, and Problem 503 if too many bodies wait, or 408 if the beginning
        takes too long.
        """
        client = self._keys.client(headers)
        if any(one.full(client) for one in (self._beginnings, self._uploads, self._small_uploads)):
            detail = "too many job uploads are waiting; try again shortly"
            raise Problem(503, detail, code="too_many_bodies", headers=(CLOSE,))
        watcher = asyncio.create_task(sender.watch()) if sender else None
        try:
            if sender:
                async with self._beginnings.place(client):
                    await sender.arrive()
            places = self._small_uploads if sender is None or sender.small else self._uploads
            async with places.place(client):
                return await to_thread.run_sync(self._checked, function, *args, limiter=self._upload_threads)
        except REDIS_ERRORS as error:
            raise _unavailable(error) from error
        finally:
            if watcher is not None:
                watcher.cancel()

    # -- reading and cancelling --------------------------------------------------------------------

    async def find(self, job_id: str, owner: str) -> JobRecord:
        """The record of a job of `owner`. Raises Problem 404."""
        record = await self.call(self.store.record, job_id) if is_job_id(job_id) else None
        if record is None or not record.shown_to(owner):
            raise not_found()
        return record

    async def texts(self, record: JobRecord) -> Iterator[bytes]:
        """The texts of a job, one JSON string per line; null if it was too long. Raises Problem 404."""
        return self._lines(record, await self._first_texts(record))

    async def results(
        self, record: JobRecord, start: int, stop: int, more: Sequence[str] = ()
    ) -> Iterator[Chunk]:
        """The results [start, stop) in chunks, with "text" and "model" if `more` has them.

        Raises Problem 404.
        """
        if "text" in more:
            await self._first_texts(record)
        return self.chunks(record, start, stop, more)

    def chunks(self, record: JobRecord, at: int, stop: int, more: Sequence[str]) -> Iterator[Chunk]:
        """The results [at, stop) as `results`; blocking."""
        store = self.store
        for lines in store.output(record, at, stop):
            texts = store.texts(record, at, len(lines)) if "text" in more else None
            models = store.models(record, at, len(lines)) if "model" in more else None
            yield Chunk(lines, texts, models)
            at += len(lines)

    async def streamed(
        self,
        receiver: Receiver,
        blocks: Iterator[bytes],
        kind: str,
        headers: Mapping[str, str] | None = None,
    ) -> StreamingResponse:
        """A response with these blocks, the first of which is read here: an error in it has its own status.

        After a later error, the connection is closed before the end of the body. Raises Problem,
        MillraceError and ClientDisconnect.
        """

        async def following() -> bytes | None:
            block: bytes | None
            while (block := await self.call(next, blocks, None)) == b"":  # there will be one later
                pass
            return block

        try:
            first = await unless_disconnected(receiver.receive, following())
        except ClientDisconnect:
            receiver.leave()
            raise

        async def body(block: bytes | None) -> AsyncIterator[bytes]:
            try:
                while block is not None:
                    yield block
                    block = await following()
            except (Problem, MillraceError) as error:
                raise ResponseCut(f"the body of a response ends early: {error}") from error

        return _Streamed(body(first), receiver, blocks, media_type=kind, headers=headers)

    async def _first_texts(self, record: JobRecord) -> list[str | None]:
        first = await self.call(self.store.input, record.id, 0)
        if first is None:
            detail = "the texts of this job are not kept; submit it with keep_input=true to keep them"
            raise Problem(404, detail, code="no_texts")
        return first

    def _lines(self, record: JobRecord, first: list[str | None]) -> Iterator[bytes]:
        """Raises DataMissing if the texts are dropped meanwhile, so that a part does not look complete."""
        chunk = first
        for start in range(0, record.total, record.chunk_texts):
            if start:
                chunk = self.store.texts(record, start, record.chunk_texts)
            yield b"".join(json_line(text) + b"\n" for text in chunk)

    def body(self, record: JobRecord, position: int | None = None) -> Job:
        """The job in a response."""
        return job_body(record, position, None if record.ended else self._hooks.waits_for(record.queue))

    async def placed(self, record: JobRecord) -> Job:
        """The same with the position of a queued job, from 1."""
        position = await self.call(self.store.position, record) if record.status == "queued" else None
        return self.body(record, position)

    async def cancel_or_delete(self, job_id: str, owner: str) -> JobRecord | None:
        """Cancels a job, or deletes it if it has ended and returns None. Raises Problem 404."""
        record = await self.find(job_id, owner)
        if record.ended:
            await self.call(self.store.delete, job_id)
            return None
        return await self.cancel(record)

    async def cancel(self, record: JobRecord) -> JobRecord:
        """Cancels a job unless it has ended by now. Returns its newest record. Raises Problem 404."""
        after = await self.call(self.store.cancel, record.id)
        if after == "gone":
            raise not_found()
        with suppress(QueueUnavailable):  # it is cancelled all the same: a repeated DELETE would delete it
            if record.status == "queued":
                await self.call(self._queue.forget, record.id)
            return await self.find(record.id, owner="")
        return replace(record, status=cast(JobStatus, after))

    async def newest(
        self, status: str | None, limit: int, cursor: str, owner: str, batches: bool = False
    ) -> tuple[list[JobRecord], str | None]:
        """Up to `limit` jobs that `owner` may see, newest first, and the cursor of the next page."""

        def read() -> tuple[list[JobRecord], str | None]:
            ids, following = self.store.newest(limit, cursor, status=status, owner=owner, batches=batches)
            return [record for record in self.store.records(ids) if record is not None], following

        return await self.call(read)

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Calls a function that uses Redis, in a thread. Raises what it raises, and QueueUnavailable."""
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._checked, function, *args)
        except REDIS_ERRORS as error:
            raise _unavailable(error) from error

    def _checked(self, function: Callable[..., T], *args: object) -> T:
        self._queue.check()
        return function(*args)


def not_found() -> Problem:
    return Problem(404, "no such job, or it has expired")


def _unavailable(error: BaseException) -> QueueUnavailable:
    return QueueUnavailable(unavailable(error), retry_after_s=1.0)


def _short(cells: Iterable[str]) -> list[str]:
    """What a preview shows of cells. Half a surrogate pair, which JSON may have, is escaped."""
    return [cell[:MAX_CELL].encode("utf-8", "backslashreplace").decode() for cell in cells]
