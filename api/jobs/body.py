"""The body of POST /jobs: its blocks while they arrive, and its texts by content type or by file name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from time import monotonic
from typing import Annotated, Any, TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, fail_after, from_thread
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.asgi.http import CLOSE, RequestHeaders, is_json, next_part
from api.asgi.json_reader import read_json
from api.errors import Problem, invalid_body
from api.jobs.schemas import JobFile
from text_files.decoding import decoded, filled_lines
from text_files.errors import BadFile
from text_files.formats import FormatName, Hints
from text_files.json_rows import read_lines
from text_files.rows import FileRows

T = TypeVar("T")
# The content types of a body without a file name, and the format of those that are files.
KINDS: dict[str, FormatName | None] = {
    "application/json": None,
    "application/x-ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
}
_charset = re.compile(r';\s*charset\s*=\s*"?([^\s;"]+)', re.IGNORECASE).search
# The bytes of a body that arrive before it takes one of the few places for uploads.
SMALL = 64 * 1024
# The longest pause between two parts of a body, and the lowest average rate in bytes/s after that time.
BLOCK_S = 30.0
SLOWEST = 16 * 1024
# Parts of a body, of up to 256 KiB each, that are received before they are read.
AHEAD = 24
# How often to look whether the client is still there, whose last byte may be behind what is received ahead.
LOOK_S = 0.1


class FileQuery(BaseModel):
    """How the file in a body is read."""

    filename: str = Field(
        "", max_length=255, description="The name of the file in the body; its format is detected"
    )
    column: str = Field("text", max_length=255, description="With filename: the column or field of the texts")
    delimiter: Annotated[str, Field(pattern=r"^[^\w\s\"]?$|^\t$")] = Field(
        "", description="With filename: the delimiter of CSV; detected by default"
    )
    encoding: str = Field("", max_length=40, description="With filename: the encoding; detected by default")
    format: FormatName | SkipJsonSchema[None] = Field(
        None, description="With filename: the format; detected by default"
    )
    header: bool = Field(True, description="With filename: whether the first line names the columns")
    quotes: bool | SkipJsonSchema[None] = Field(
        None, description="With filename: whether fields of a table may be in quotes; detected by default"
    )

    def hints(self, encoding: str | None) -> Hints:
        """How to read the file; `encoding` is used unless the parameters have one."""
        used = self.encoding or encoding
        return Hints(self.column, self.format, self.delimiter or None, used, self.header, self.quotes)


class SubmitQuery(FileQuery):
    """The parameters of POST /jobs."""

    model: str = Field("", max_length=130, description="The name of a model; the first one by default")
    keep_input: bool = Field(False, description="Keep the texts after the job has ended")


def described(rows: FileRows) -> JobFile:
    """How a file was read. Only after its first row has been read."""
    found = rows.format
    assert found is not None, "a file without texts does not become a job"
    facts = asdict(found) | {
        "format": found.name,
        "delimiter": found.delimiter or None,
        "compression": found.compression or None,
        "gzipped": found.compression == "gzip",
        "name": rows.filename,
    }
    return JobFile.model_validate(facts | {"column": rows.column, "description": str(found)})


def file_texts(rows: FileRows) -> Iterator[str]:
    """The texts of a file. Raises Problem 422."""
    with refused():
        for row in rows:
            yield row.text


@contextmanager
def refused() -> Generator[None]:
    """Raises Problem 422 for a file that cannot be read."""
    try:
        yield
    except BadFile as error:
        problem = invalid_body(error.kind, str(error), line=error.line)
        if error.columns is not None:
            problem.fields["columns"] = error.columns
        raise problem from None


def json_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, Any, str]]:
    """Yields the number of each line of NDJSON, its JSON value, and the line. Raises Problem 422."""
    with refused():
        yield from read_lines(filled_lines(decoded(blocks, "utf-8")))


def read_texts(kind: str, blocks: Iterable[bytes], encoding: str | None = None) -> Iterator[str]:
    """The texts of a body of one of `KINDS`. Raises Problem 422."""
    form = KINDS[kind]
    if form is None:
        return read_json(blocks)
    hints = Hints("text", form, "," if form == "csv" else None, encoding)
    return file_texts(FileRows(blocks, "", hints))


def charset(headers: RequestHeaders) -> str | None:
    """The encoding that the content type names. UTF-8 is what is read anyway, if there is no other mark."""
    found = _charset(headers.by_name.get(b"content-type", b"").decode("latin-1"))
    return None if found is None or found[1].lower() in ("utf-8", "utf8") else found[1]


def media_type(headers: RequestHeaders) -> str:
    """The type of the body; "application/json" for every JSON type. Raises Problem 415."""
    given = headers.by_name.get(b"content-type", b"")
    kind = "application/json" if is_json(given) else given.decode("latin-1").partition(";")[0].strip().lower()
    if kind not in KINDS:
        accepted = ", ".join(KINDS)
        detail = f"the content type must be one of {accepted}; or name a file with /jobs?filename=reviews.csv"
        if kind == "multipart/form-data":
            detail = (
                "send the file itself and not a form: --data-binary @reviews.csv -H 'Content-Type: text/csv'"
            )
        raise Problem(415, detail, headers=(CLOSE, (b"accept", accepted.encode())))
    return kind


class Receiver:
    """The client that a thread works for, which reads what is `waited_for` until the client is `gone`."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.gone = False

    def leave(self) -> None:
        """Nothing more is read for it."""
        self.gone = True

    def waited_for(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items. Raises ClientDisconnect instead once the client has left."""
        for item in items:
            if self.gone:
                raise ClientDisconnect
            yield item


def too_slow() -> Problem:
    return Problem(408, "the body arrives too slowly", headers=(CLOSE,))


class Places:
    """So many bodies at a time, and so many that wait; one client has three quarters of them at most."""

    def __init__(self, most: int, waiting: int = 0) -> None:
        self._most, self._limit = most, most + waiting
        self._all = CapacityLimiter(most)
        self._bodies = 0
        self._clients: WeakValueDictionary[str, CapacityLimiter] = WeakValueDictionary()

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """Waits for a place."""
        self._bodies += 1
        try:
            async with self._of(client), self._all:
                yield
        finally:
            self._bodies -= 1

    def full(self, client: str) -> bool:
        """Whether no more bodies of this client may wait."""
        limiter = self._of(client)
        own = limiter.borrowed_tokens + limiter.statistics().tasks_waiting
        return self._bodies >= self._limit or own >= _share(self._limit)

    def _of(self, client: str) -> CapacityLimiter:
        return self._clients.setdefault(client, CapacityLimiter(_share(self._most)))


def _share(places: int) -> int:
    """How many of these one client may have."""
    return places - places // 4


class Sender(Receiver):
    """The client of an upload, whose body a thread reads.

    `left` says whether it has left; `whole` that the body has been read already, and `plain` that it is
    neither compressed nor a table. `small`: it has arrived before a thread reads it, and is whole or plain.
    """

    def __init__(
        self, receive: Receive, left: Callable[[], bool], *, whole: bool = False, plain: bool = False
    ) -> None:
        super().__init__(receive)
        self._left = left
        self._plain = plain
        self.small = whole
        self._more = not whole
        self._begun = asyncio.Event()
        self._arrived = asyncio.Event()
        self._ahead: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue(AHEAD)
        if whole:
            self._begun.set()
            self._arrived.set()

    async def watch(self) -> None:
        """Receives blocks ahead of the thread that reads them, until the client has left.

        Of bodies that wait for one, no more than the beginning is kept here.
        """
        receiving = asyncio.create_task(self._receive_ahead())
        try:
            while not (await asyncio.wait([receiving], timeout=LOOK_S))[0] and not self._left():
                pass
        finally:
            receiving.cancel()
        self.gone = True
        self._arrived.set()
        if self._ahead.empty():
            self._ahead.put_nowait((b"", False))  # for a thread that waits

    async def _receive_ahead(self) -> None:
        """Returns when all that came before the end of the connection has been received."""
        with suppress(ClientDisconnect):
            if self._more:
                beginning = bytearray()
                while self._more and len(beginning) < SMALL:
                    part, self._more = await next_part(self.receive)
                    beginning += part
                self.small = self._plain and not self._more
                self._ahead.put_nowait((bytes(beginning), self._more))
                self._arrived.set()
            await self._begun.wait()
            while True:
                part, more = await next_part(self.receive)
                if self._more:
                    self._more = more
                    await self._ahead.put((part, more))

    async def arrive(self) -> None:
        """Returns once the beginning of the body is here, or its client has left. Raises Problem 408."""
        try:
            with fail_after(BLOCK_S + SMALL / SLOWEST):
                await self._arrived.wait()
        except TimeoutError:
            raise too_slow() from None

    def blocks(self) -> Iterator[bytes]:
        """Yields the blocks of the body in a worker thread, while `watch` runs on the event loop.

        Raises ClientDisconnect, or Problem 408 if the client pauses for too long or sends too slowly.
        """
        waited_s = 0.0
        size = 0
        more = True
        while more:
            began = monotonic()
            block, more = from_thread.run(self._fetch)
            waited_s += monotonic() - began  # excludes the time that the caller spends on a block
            size += len(block)
            if waited_s > BLOCK_S + size / SLOWEST:
                raise too_slow()
            yield block

    async def _fetch(self) -> tuple[bytes, bool]:
        self._begun.set()
        try:
            with fail_after(BLOCK_S):
                block, more = await self._ahead.get()
        except TimeoutError:
            raise Problem(408, "the body stopped arriving", headers=(CLOSE,)) from None
        if self.gone:
            raise ClientDisconnect
        return block, more
