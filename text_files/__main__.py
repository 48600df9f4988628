"""The process that `isolated` starts: it reads one table from standard input, within limits."""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, get_args

from text_files.cells import Row
from text_files.decoding import HEAD_BYTES
from text_files.errors import BadFile, FileError
from text_files.formats import Hints
from text_files.isolated import CPU_S, MAX_CPU_S, MAX_MEMORY, MIB_CPU_S, REFUSED
from text_files.output import Output, OutputFormat
from text_files.rows import FileRows


def main() -> int:
    """Writes what the first line of standard input asks for."""
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    with suppress(OSError):  # where memory runs out, the kernel ends this process and not the API
        Path("/proc/self/oom_score_adj").write_text("1000")
    sys.stderr = None  # the reason of a refusal is read there once this process has ended, and nothing before
    order = json.loads(sys.stdin.buffer.readline())
    content = sys.stdin.buffer.read(order.get("size", -1))
    seconds = min(CPU_S + MIB_CPU_S * len(content) // 1024**2, MAX_CPU_S)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    hints = Hints(**order["hints"] | {"also": tuple(order["hints"]["also"])})
    rows = FileRows(
        [content[:HEAD_BYTES]], order["name"], hints, source=io.BytesIO(content), whole=order["whole"]
    )
    try:
        for block in _labelled(rows, order["form"]) if "form" in order else _lines(rows, order["whole"]):
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
    except BadFile as error:
        return _refuse(
            kind=error.kind, message=str(error), line=error.line, columns=error.columns, wanted=error.wanted
        )
    except FileError as error:
        return _refuse(kind="table_invalid", message=str(error).removesuffix("."), columns=None)
    return 0


def _refuse(**why: Any) -> int:
    os.write(2, json.dumps(why).encode())
    return REFUSED


def _lines(rows: FileRows, whole: bool) -> Iterator[bytes]:
    every = _begun(rows)
    names = rows.names or ()
    yield _json([names, rows.places])
    for row in every:
        yield _json([row.number, row.text, row.shown(names) if whole else ()])


def _begun(rows: FileRows) -> Iterator[Row]:
    """All rows. The first has been read, and with it the names of the columns."""
    rest = iter(rows)
    return chain(list(islice(rest, 1)), rest)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _labelled(rows: FileRows, form: str) -> Iterator[bytes]:
    every = _begun(rows)
    assert rows.format is not None, "its texts have been read before"
    # In this order, rows without a result are not read.
    joined = ((row, result) for result, row in zip(map(json.loads, sys.stdin.buffer), every, strict=False))
    output = Output.of(rows.format, next(one for one in get_args(OutputFormat) if one == form))
    yield from output.blocks(rows.names or (), joined, errors="backslashreplace")


if __name__ == "__main__":
    os._exit(main())  # threads of Arrow may abort a process that ends by itself
