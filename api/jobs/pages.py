"""Pages of the results of a job, as JSON, NDJSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from api.asgi.http import to_json
from batcher.jobs.records import JobRecord
from text_files.output import OutputFormat, best_of

PageType = Literal["application/json", "application/x-ndjson", "text/csv"]
_line_end = re.compile("[\u0085\u2028\u2029]")
# What files that come back with results are sent as.
MEDIA_TYPES: dict[OutputFormat, str] = {
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.file",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
# Those that any file may come back in.
TEXT_OUTPUTS: tuple[OutputFormat, ...] = ("csv", "tsv", "ndjson")
PAGE_TYPES: tuple[PageType, ...] = get_args(PageType)


def next_offset(record: JobRecord, end: int) -> int | None:
    """The offset of the page after one that ends at `end`; None if there will not be any more results."""
    last = record.done if record.ended else record.total
    return end if end < last else None


def page_type(accept: str) -> PageType:
    """The available type that `Accept` prefers; JSON if it names none of them."""
    best: tuple[float, PageType] = (0.0, "application/json")
    for part in accept.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        for known in PAGE_TYPES:
            if name == known and weight > best[0]:
                best = (weight, known)
    return best[1]


class Chunk(NamedTuple):
    """The results of a chunk as lines of JSON, and if they are wanted, its texts and what answered them."""

    lines: list[bytes]
    texts: list[str | None] | None = None
    models: list[str] | None = None


def page(
    kind: PageType,
    record: JobRecord,
    offset: int,
    end: int,
    chunks: Iterable[Chunk],
    more: Sequence[str] = (),
) -> Iterator[bytes]:
    """Yields the bytes of a page with the results [offset, end), one block per chunk.

    `more` are the further columns of CSV: "text", "model".
    """
    if kind == "application/json":
        return _json_page(record, offset, end, chunks)
    if kind == "text/csv":
        return _csv_page(offset, chunks, more)
    return (b"\n".join(_items(chunk)) + b"\n" for chunk in chunks)


def _items(chunk: Chunk) -> list[bytes]:
    """The results as they are sent: lists or errors, or objects if texts or models are wanted."""
    columns = _columns(chunk)
    if not columns:
        return chunk.lines
    rows = zip(chunk.lines, *columns.values(), strict=True)
    return [_item(json.loads(line), dict(zip(columns, facts, strict=True))) for line, *facts in rows]


def _columns(chunk: Chunk) -> dict[str, Sequence[str | None]]:
    columns: dict[str, Sequence[str | None]] = {}
    if chunk.texts is not None:
        columns["text"] = chunk.texts
    if chunk.models is not None:
        columns["model"] = [name or None for name in chunk.models]
    return columns


def json_line(value: Any) -> bytes:
    """JSON in UTF-8, on one line for every reader: some take three more characters for line ends."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return _line_end.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


def _item(result: Any, facts: Mapping[str, str | None]) -> bytes:
    added = result if isinstance(result, dict) else {"prediction": result}
    return json_line({**facts, **added})


def _json_page(record: JobRecord, offset: int, end: int, chunks: Iterable[Chunk]) -> Iterator[bytes]:
    following = next_offset(record, end)
    facts = {"offset": offset, "total": record.total, "done": record.done, "next_offset": following}
    before = to_json(facts)[:-1] + b',"predictions":['
    for chunk in chunks:
        yield before + b",".join(_items(chunk))
        before = b","
    yield b"]}" if before == b"," else before + b"]}"


def _csv_page(offset: int, chunks: Iterable[Chunk], more: Sequence[str]) -> Iterator[bytes]:
    """Yields `index`, the text if wanted, the best label and its score, or an error's code; and the model."""
    before, after = ([name for name in more if name == one] for one in ("text", "model"))
    head = ",".join(["index", *before, "label", "score", "error", *after]).encode() + b"\r\n"
    for chunk in chunks:
        out = io.StringIO()
        columns = _columns(chunk)
        rows = csv.writer(out)
        for number, line in enumerate(chunk.lines):
            own, others = ([columns[name][number] for name in names] for names in (before, after))
            rows.writerow((offset + number, *own, *best_of(json.loads(line)), *others))
        offset += len(chunk.lines)
        yield head + out.getvalue().encode()
        head = b""
    if head:
        yield head
