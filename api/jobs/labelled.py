"""Joins the results of a job to the rows of its file, which is sent for that again.

The texts that are read must be those of the job, which their digest shows. So the whole file is read before
the first row is sent, and kept meanwhile, compressed: browsers read nothing of a response before they have
sent their request.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from threading import Lock

from api.asgi.http import CLOSE, RequestHeaders
from api.errors import Problem
from api.jobs.body import Sender, refused
from api.jobs.schemas import JobFile
from api.jobs.service import JobService
from api.jobs.upload import digested
from batcher.jobs.records import JobRecord
from text_files.errors import BadFile
from text_files.formats import Hints
from text_files.isolated import label_isolated
from text_files.output import Output, OutputFormat
from text_files.rows import FileRows

# Bytes of files that a process keeps at a time, compressed: text takes about a third of its size.
MAX_KEPT = 32 * 1024 * 1024
# What a table with types takes of them at least: no more than four processes write one at a time.
TYPED = MAX_KEPT // 4
# A table has a cell for each of them in every row.
MAX_FIELDS = 1024


class JobFiles:
    """Reads the files of jobs again, and writes their rows with the results."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._room = _Room(MAX_KEPT)

    async def labelled(
        self,
        headers: RequestHeaders,
        record: JobRecord,
        sender: Sender,
        blocks: Iterator[bytes],
        form: OutputFormat | None,
    ) -> tuple[OutputFormat, Iterator[bytes]]:
        """The format, and the rows that have a result, with it. `blocks` are those of the body of `sender`.

        Raises Problem 409 for another file, and ClientDisconnect.
        """
        if not record.file:
            raise Problem(
                409, "this job was not made from a file: /predictions has its results", code="no_file"
            )
        copy = _Copy(self._room)
        try:
            read = self._rows(record, copy.take(blocks), sender)
            names, output = await self._service.upload(headers, sender, self._read, record, read, form)
            if output.source.typed:
                copy.reserve(TYPED - copy.taken)
        except BaseException:
            copy.close()
            raise
        rows = self._rows(record, copy.blocks(), sender)
        return output.format, self._lines(record, copy, rows, names, output)

    def _rows(self, record: JobRecord, blocks: Iterable[bytes], sender: Sender) -> FileRows:
        how = JobFile.model_validate_json(record.file)
        return self._service.file_rows(sender, sender.waited_for(blocks), how.name, hints_of(how))

    def _read(self, record: JobRecord, rows: FileRows, form: OutputFormat | None) -> tuple[list[str], Output]:
        digest, names = sha256(), dict[str, None]()
        # One more text shows that it is another file; reading them all may take seconds.
        texts = islice(_texts(rows, names), record.total + 1)
        with refused():
            total = sum(1 for _ in digested(texts, record.queue, digest.update))
        if digest.hexdigest() != record.digest.partition(":")[0]:  # behind it is that of the options
            has = total if total <= record.total else "more"
            detail = f"these are not the {record.total} texts of the job: send the file that it came from"
            raise Problem(409, f"{detail} (this one has {has})", code="other_file")
        assert rows.format is not None, "a file without texts has another digest"
        return list(rows.names or names or [rows.column]), Output.of(rows.format, form)

    def _lines(
        self, record: JobRecord, copy: _Copy, rows: FileRows, names: list[str], output: Output
    ) -> Iterator[bytes]:
        try:
            chunks = (chunk.lines for chunk in self._service.chunks(record, 0, record.done, ()))
            with refused():
                if output.source.typed:
                    how = JobFile.model_validate_json(record.file)
                    lines = (b"%b\n" % b"\n".join(chunk) for chunk in chunks)
                    file = copy.size, copy.blocks()
                    yield from label_isolated(how.name, hints_of(how), file, lines, output.format)
                    return
                results = (json.loads(line) for chunk in chunks for line in chunk)
                # In this order, rows without a result are not read.
                joined = ((row, result) for result, row in zip(results, rows, strict=False))
                yield from output.blocks(names, joined, "backslashreplace")
        finally:
            copy.close()


def _texts(rows: FileRows, names: dict[str, None]) -> Iterator[str]:
    """The texts; the names of the fields of all objects are added to `names`."""
    for row in rows:
        names.update(dict.fromkeys(row.fields or ()))
        if len(names) > MAX_FIELDS:
            raise BadFile("too_long", f"the objects have more than {MAX_FIELDS} different fields")
        yield row.text


def hints_of(file: JobFile) -> Hints:
    """Those with which a file is read again as it was."""
    return Hints(file.column, file.format, file.delimiter, file.encoding, file.header, not file.literal)


class _Room:
    """How many bytes may be kept."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = Lock()

    def take(self, size: int) -> bool:
        """Takes so many bytes, or gives them back if negative. Returns whether there is room for them."""
        with self._lock:
            room = size <= self._left
            self._left -= size if room else 0
        return room


class _Copy:
    """A compressed copy of blocks, until it is closed or forgotten."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._parts: list[bytes] = []
        self.size = self.taken = 0

    def take(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yields the blocks and keeps them. Raises Problem 503 if too many files are kept."""
        packer = zlib.compressobj(1)
        for block in blocks:
            self._keep(packer.compress(block))
            self.size += len(block)
            yield block
        self._keep(packer.flush())

    def _keep(self, part: bytes) -> None:
        self.reserve(len(part))
        self._parts.append(part)

    def reserve(self, size: int) -> None:
        """Takes room for so many bytes, if any. Raises as `take` does."""
        size = max(size, 0)
        if not self._room.take(size):
            if self.taken + size > MAX_KEPT:
                detail = f"a file may take {MAX_KEPT} bytes compressed: use `millrace classify`"
                raise Problem(413, detail, headers=(CLOSE,))
            detail = "too many files are joined with results at once; try again, or use `millrace classify`"
            raise Problem(503, detail, code="too_many_bodies", headers=(CLOSE,))
        self.taken += size

    def blocks(self) -> Iterator[bytes]:
        unpacker = zlib.decompressobj()
        for part in self._parts:
            while part:
                yield unpacker.decompress(part, 256 * 1024)
                part = unpacker.unconsumed_tail
        yield unpacker.flush()

    def close(self) -> None:
        """Gives the room back."""
        self._room.take(-self.taken)
        self._parts, self.taken = [], 0

    def __del__(self) -> None:
        self.close()
