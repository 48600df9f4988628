"""Batches as OpenAI's clients create them: an uploaded file whose lines become the texts of a job."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

from starlette.types import Receive

from api.asgi.http import RequestHeaders
from api.asgi.ignored import MAX_NAMES
from api.batches.lines import STATUS_OF, BatchLines, custom_ids, first_model, output_line
from api.batches.multipart import FormReader, boundary_of, malformed
from api.batches.schemas import BatchRequest, FileObject, file_body, output_body
from api.compat import openai, vllm
from api.compat.fields import ignored_in, models_in
from api.compat.openai_error import openai_error
from api.compat.reading import parse, refused, texts_of
from api.compat.service import HOW_TO_NAME, DialectService
from api.errors import Problem, invalid_body
from api.jobs.body import Receiver, Sender
from api.jobs.service import BatchFacts, JobService
from api.jobs.upload import no_room
from batcher.connection.outage import REDIS_ERRORS
from batcher.errors import DataMissing
from batcher.jobs.records import JobRecord
from batcher.jobs.upload import FileRecord, NoRoom, account_of

# The scores of one text, as a job keeps them: label and score of each.
Scores = list[dict[str, Any]]


class BatchAnswers:
    """Finds the models that batches ask for, and writes answers."""

    def __init__(self, service: DialectService) -> None:
        self._service = service
        self._moderation = openai.Moderation(service.settings)

    def model(self, endpoint: str, name: str | None) -> str:
        """The model of a line as clients call it, "" before the first worker.

        Raises Problem 400 if it is not served, or cannot answer this endpoint.
        """
        moderation = endpoint == "/v1/moderations"
        try:
            found = self._service.find(name, of_first=moderation and openai.is_name_of_openai(name))
        except Problem as problem:
            problem.status = 400 if problem.status == 404 else problem.status
            raise
        if moderation and (model := found.hub.snapshot.model) is not None:
            self._moderation.categories(model.labels)
        return found.name

    def texts(self, endpoint: str, model: str, ignored: dict[str, None], body: bytes) -> Sequence[str]:
        """The texts of a request to this endpoint, which `model` answers.

        Raises Problem as the route does, but for their length.

        Adds to `ignored` the places of fields that the route names in X-Ignored.
        """
        if endpoint == "/v1/moderations":
            return openai.texts_in(parse(body, openai.ModerationRequest))
        asked = parse(body, vllm.ClassifyRequest)
        if not all(type(name) is str and self.is_same(endpoint, name, model) for name in models_in(asked)):
            raise refused(f"model: {model} would answer; {HOW_TO_NAME}", "model")
        if len(ignored) <= MAX_NAMES:
            ignored |= dict.fromkeys(ignored_in(asked, "body."))
        texts = texts_of(asked.input, "input")
        vllm.check_uncut(asked, texts)
        return texts

    def is_same(self, endpoint: str, name: str | None, model: str) -> bool:
        """Whether a line that asks for this name asks for this model."""
        try:
            return self.model(endpoint, name) == model
        except Problem:
            return False

    def write(
        self, endpoint: str, request_id: str, model: str, created_s: int, scores: Scores
    ) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer for one text: 400 if the labels in its result are not categories."""
        pairs = [(pair["label"], pair["score"]) for pair in scores]
        if endpoint == "/v1/moderations":
            try:
                categories = self._moderation.categories(label for label, _ in pairs)
            except Problem as problem:
                error = openai_error(str(problem.detail), problem.status, problem.code)
                return problem.status, error.model_dump()
            result = self._moderation.result(pairs, categories)
            return 200, {"id": f"modr-{request_id}", "model": model, "results": [result]}
        return 200, {
            "id": f"classify-{request_id}",
            "object": "list",
            "created": created_s,
            "model": model,
            "data": [vllm.classify_result(0, pairs)],
        }


MAX_NAME = 255
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FIELDS = ("file", "purpose", ANCHOR, SECONDS)
_file_id = re.compile(r"file-([0-9a-f]{32})(?:-(output|errors))?").fullmatch
_batch_id = re.compile(r"batch_([0-9a-f]{32})").fullmatch


class BatchService:
    """Stores files, turns them into jobs, and writes the results of these jobs as files."""

    def __init__(self, jobs: JobService, answers: BatchAnswers) -> None:
        self._jobs = jobs
        self._answers = answers
        self._files = jobs.store.files

    # -- files -------------------------------------------------------------------------------------

    async def upload(self, headers: RequestHeaders, receive: Receive) -> FileObject:
        """Stores the file of a form while it arrives. Raises Problem, QueueUnavailable, ClientDisconnect."""
        client = account_of(self._jobs.check_sender(headers))
        boundary = boundary_of(headers.by_name.get(b"content-type", b"").decode("latin-1"))
        owner = self._jobs.owner(headers)
        sender = Sender(receive, headers.left)
        form = FormReader(self._jobs.blocks(headers, sender), boundary)
        return file_body(await self._jobs.upload(headers, sender, self._store, form, owner, client))

    def _store(self, form: FormReader, owner: str, client: str) -> FileRecord:
        """Either the whole file is kept, or nothing."""
        file_id = secrets.token_hex(16)
        budget = self._jobs.uploader.budget
        try:
            name = ""
            fields = dict[str, str]()
            stored: tuple[int, int] | None = None
            for part in form.parts():
                if part.name not in FIELDS:
                    raise malformed(f'unknown field "{part.name[:MAX_NAME]}"; known are {", ".join(FIELDS)}')
                if part.name in fields:
                    raise malformed(f"the form has more than one {part.name}")
                if part.name == "file":
                    name = (part.filename or "").encode("utf-8", "replace").decode()[:MAX_NAME]
                    stored = self._files.put(file_id, part.content, client, budget)
                fields[part.name] = "" if part.name == "file" else part.value()
            if stored is None or fields.get("purpose") != "batch":
                raise malformed('the form needs the fields "file" and "purpose", the latter with "batch"')
            record = self._files.complete(file_id, name, stored, owner, self._ttl_s(fields))
            if record is None:
                raise malformed("the file is empty")
            return record
        except BaseException as error:
            with suppress(*REDIS_ERRORS):  # else it expires
                self._files.delete(file_id)
            if isinstance(error, NoRoom):
                raise no_room(error, budget, 0) from None
            raise

    def _ttl_s(self, fields: Mapping[str, str]) -> int:
        """How long a file is kept, by the fields of its form. Raises Problem 422."""
        if ANCHOR not in fields and SECONDS not in fields:
            return self._files.ttl_s
        seconds = fields.get(SECONDS, "")
        if fields.get(ANCHOR) != "created_at" or not re.fullmatch("[1-9][0-9]{0,9}", seconds):
            raise malformed(f"{ANCHOR} must be created_at, and {SECONDS} a number of seconds from 1 on")
        return shorter(int(seconds), self._files.ttl_s, SECONDS)

    async def file(self, file_id: str, owner: str) -> FileObject:
        """A file of `owner`. Raises Problem 404."""
        given = await self._find(file_id, owner)
        if isinstance(given, FileRecord):
            return file_body(given)
        return output_body(file_id, given, self._jobs.store.ttl_s)

    async def content(self, file_id: str, owner: str, receiver: Receiver) -> Iterator[bytes]:
        """The content of a file of `owner`, read block by block. Raises Problem 404, DataMissing."""
        given = await self._find(file_id, owner)
        if isinstance(given, FileRecord):
            return self._files.content(given)
        return self._results(given, receiver, failed=file_id.endswith("errors"))

    async def delete(self, file_id: str, owner: str) -> None:
        """Deletes a file; a file of results with all data of the batch. Raises Problem 404 and 409."""
        given = await self._find(file_id, owner)
        if isinstance(given, FileRecord):
            await self._jobs.call(self._files.delete, given.id)
        elif not await self._jobs.call(self._jobs.store.delete, given.id):
            raise Problem(409, "the batch has not ended: cancel it first, or wait", code="batch_running")

    async def _find(self, file_id: str, owner: str) -> FileRecord | JobRecord:
        """An uploaded file, or the batch whose results a file has, with the file it was created from."""
        match = _file_id(file_id)
        if match is None:
            raise _no_file()
        if match[2] is not None:
            record = await self.find(f"batch_{match[1]}", owner)
            if await self._jobs.call(self._files.record, json.loads(record.batch)["file"]) is None:
                raise _no_file(
                    "the input file of this batch, which the results take their ids from, was deleted"
                )
            return record
        found: FileRecord | None = await self._jobs.call(self._files.record, match[1])
        if found is None or not found.shown_to(owner):
            raise _no_file()
        return found

    def _results(self, record: JobRecord, receiver: Receiver, *, failed: bool) -> Iterator[bytes]:
        """Yields the lines of all results that are errors, or of all that are not."""
        batch = json.loads(record.batch)
        file = self._files.record(batch["file"])
        if file is None:
            raise DataMissing(f"file {batch['file']} was deleted, or has expired")
        ids = custom_ids(receiver.waited_for(self._files.content(file)))
        endpoint = batch["endpoint"]
        created_s = record.created_ms // 1000
        index = 0
        read = 0
        for chunk in self._jobs.chunks(record, 0, record.done, ("model",)):
            written: list[bytes] = []
            # The results come first in `zip`, so that it does not consume an id without using it.
            results = zip(map(json.loads, chunk.lines), chunk.models or (), ids, strict=False)
            for result, model, custom_id in results:
                request_id = f"{record.id}-{index}"
                index += 1
                if isinstance(result, dict) != failed:
                    continue
                if failed:
                    error = result["error"]
                    status = STATUS_OF.get(error["code"], 500)
                    body = openai_error(error["detail"], status, error["code"]).model_dump()
                else:
                    # An earlier version did not note which model has answered a text.
                    model = model or record.model
                    status, body = self._answers.write(endpoint, request_id, model, created_s, result)
                written.append(output_line(request_id, custom_id, status, body))
            read += len(chunk.lines)
            if index < read:
                raise DataMissing(f"file {batch['file']} has fewer lines than the batch has results")
            yield b"".join(written)

    # -- batches -----------------------------------------------------------------------------------

    async def create(
        self, headers: RequestHeaders, receive: Receive, asked: BatchRequest
    ) -> tuple[JobRecord, Iterable[str]]:
        """Creates a job from the lines of a file. Returns it, and the places of fields without effect.

        Raises Problem, QueueUnavailable, ClientDisconnect.
        """
        file = await self._find(asked.input_file_id, self._jobs.owner(headers))
        if not isinstance(file, FileRecord):
            raise _no_file()
        sender = Sender(receive, headers.left, whole=True)
        content = sender.waited_for(self._files.content(file))
        name = await self._jobs.upload(headers, sender, first_model, content)
        model = self._answers.model(asked.endpoint, name)
        ignored: dict[str, None] = {}
        lines = BatchLines(
            lambda: sender.waited_for(self._files.content(file)),
            asked.endpoint,
            partial(self._answers.texts, asked.endpoint, model, ignored),
            lru_cache(1)(lambda name: self._answers.is_same(asked.endpoint, name, model)),
        )
        options = {"endpoint": asked.endpoint, "metadata": asked.metadata}
        facts = json.dumps({"file": file.id, **options})
        ttl_s = None
        if (expiry := asked.output_expires_after) is not None:
            ttl_s = shorter(expiry.seconds, self._jobs.store.ttl_s, "output_expires_after")
        batch = BatchFacts(facts, lambda: {**options, "ttl_s": ttl_s, "custom_ids": lines.digest}, ttl_s)
        record, _ = await self._jobs.take_batch(headers, lines.texts(), batch, sender, model)
        return record, ignored

    async def find(self, batch_id: str, owner: str) -> JobRecord:
        """The job of a batch of `owner`. Raises Problem 404."""
        match = _batch_id(batch_id)
        record = await self._jobs.find(match[1], owner) if match else None
        if record is None or not record.batch:
            raise Problem(404, "no such batch, or it has expired")
        return record

    async def newest(self, limit: int, after: str, owner: str) -> tuple[list[JobRecord], bool]:
        """Up to `limit` batches after the batch `after`, newest first, and whether more follow."""
        cursor: str | None = (await self.find(after, owner)).place if after else ""
        found: list[JobRecord] = []
        while cursor is not None and len(found) <= limit:
            records, cursor = await self._jobs.newest(None, limit + 1, cursor, owner, batches=True)
            found += records
        return found[:limit], len(found) > limit

    async def cancel(self, batch_id: str, owner: str) -> JobRecord:
        """Cancels a batch unless it has ended. Raises Problem 404."""
        record = await self.find(batch_id, owner)
        return record if record.ended else await self._jobs.cancel(record)


def _no_file(detail: str = "no such file, or it has expired") -> Problem:
    return Problem(404, detail)


def shorter(seconds: int, most: int, name: str) -> int:
    """A lifetime that a client asks for, which may be shorter than the service's. Raises Problem 422."""
    if seconds > most:
        why = (
            f"{name}: this service keeps it for {most} s (MILLRACE_JOB_TTL_S): ask for less, or leave it out"
        )
        raise invalid_body("less_than_equal", why, name)
    return seconds
