"""Files and forms that cost the most of their size."""

from __future__ import annotations

import gzip
from base64 import encodebytes
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from random import Random

MIB = 1024**2
MULTIPART = "multipart/form-data; boundary=B"
_FORM = (
    b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--B\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)


def _names(size: int, name: Callable[[int], bytes], most: int) -> bytes:
    """A header of different names; a record may not be larger than 1 MiB, and from there on they repeat."""
    names = b",".join(map(name, range(min(size, MIB) // most))) + b","
    return names * max(size // len(names), 1)


def _shuffled(number: int) -> bytes:
    """A name with the letters of "abab...", in another order."""
    letters = list("ab" * 99)
    Random(number).shuffle(letters)
    return "".join(letters).encode()


def _in_records(record: Callable[[int], bytes], most: int) -> Callable[[int], bytes]:
    """A file of records of `most` bytes, or of one smaller one."""
    return lambda size: record(min(size, most)) * max(size // most, 1)


def _wide_rows(size: int) -> bytes:
    columns = min(16_000, size // 10)
    header = b"text" + b",%d" * columns % (*range(columns),)
    return header + (b"\na" + b",1" * columns) * max((size - len(header)) // (2 * columns), 1)


def _most_columns(size: int) -> bytes:
    names = b"text," + _names(min(size, MIB - 10), lambda n: b"%x" % n, 6)[:-1]
    row = b"\na" + b"," * names.count(b",")
    return names + row * max((size - len(names)) // len(row), 1)


# Files of about so many bytes, by what is worst in them.
FILES: Mapping[str, Callable[[int], bytes]] = {
    "a wide header": lambda size: b"text," + _names(size, lambda n: b"%x" % n, 6) + b"\n",
    "empty names": lambda size: b"text" + b"," * size,
    "columns with long names": lambda size: _names(size, _shuffled, 199),
    "one column often": lambda size: b"text" + b",a" * (size // 2) + b"\n",
    "wide rows": _wide_rows,
    "one record of most columns": _most_columns,
    "one record over many lines": lambda size: b'text\n"' + b"x\n" * (size // 2) + b'"\n',
    "one wide record over many lines": lambda size: b"text\n" + b'"ab\n",' * (size // 6) + b"\n",
    "a header over many lines": lambda size: b"text," + b'"ab\n",' * (size // 6) + b"\n",
    "one long record": lambda size: (
        b'text\n"' + _in_records(lambda n: b"x" * n + b"\n", 500_000)(size) + b'"'
    ),
    "one long line": lambda size: b'text\n"' + b"x" * size + b'"\n',
    "many short rows": lambda size: b"text\n" + b"a\n" * (size // 2),
    "rows that end in CR": lambda size: b"text\r" + b"a\r" * (size // 2),
    "blank lines": lambda size: b"text\n" + b"\n" * size + b"a",
    "blank lines of a table": lambda size: b"text,more\na,b\n" + b"\n" * size + b"a,b\n",
    "lines of spaces": lambda size: b'{"text":"a"}\n' + b" \n" * (size // 2) + b'{"text":"a"}\n',
    "lines of other spaces": lambda size: b"a\n" + "\v\n\u2003\n".encode() * (size // 6) + b"a\n",
    "spaces without a line end": _in_records(lambda n: b" " * n + b"\n", 900_000),
    "wide lines of JSON": _in_records(lambda n: b'{"text":"a","b":[%b0]}\n' % (b"{}," * (n // 3)), 900_000),
    "fields of JSON": _in_records(
        lambda n: b'{"text":"a"%b}\n' % b"".join(b',"%x":0' % k for k in range(n // 10)), 900_000
    ),
    "one field of JSON often": _in_records(lambda n: b'{%b"text":"a"}\n' % (b'"a":1,' * (n // 6)), 900_000),
    "deep lines of JSON": _in_records(lambda n: b"[" * n + b"\n", 100_000),
    "digits": _in_records(lambda n: b'{"text":"a","b":%b}\n' % (b"9" * n), 900_000),
    "a list": lambda size: b"[" + b'"a",' * (size // 4) + b'"a"]',
    "quotes": lambda size: b'text\n"' + b'""' * (size // 2) + b'"\n',
    "quotes and commas": lambda size: b"text\n" + b'"a""b",' * (size // 7) + b"\n",
    "quotes without an end": lambda size: b"text\n" + b'a"b\n' * (size // 4),
    "null bytes": bytes,
    "the first bytes of UTF-16": lambda size: b"\xff\xfe" + b"a\0" * (size // 2),
    "halves of pairs": _in_records(lambda n: b'{"text":"%b"}\n' % (rb"\ud83d" * (n // 6)), 900_000),
}


def _workbook(size: int) -> bytes:
    """A workbook of many short rows; one of MiBs takes long to make."""
    import openpyxl

    book, written = openpyxl.Workbook(write_only=True), BytesIO()
    sheet = book.create_sheet()
    for row in ("text", *"a" * (min(size, MIB // 2) // 5)):
        sheet.append([row])
    book.save(written)
    return written.getvalue()


# Files that a process of their own reads, once it has started.
TABLES: Mapping[str, Callable[[int], bytes]] = {
    "a damaged Parquet file": lambda size: b"PAR1" + b"\xff" * size + b"PAR1",
    "a damaged Arrow file": lambda size: b"ARROW1\0\0" + bytes(size),
    "a workbook": _workbook,
    "a workbook without an end": lambda size: _workbook(size)[:-100],
}


def _wide_workbook(size: int) -> bytes:
    import openpyxl

    book, written = openpyxl.Workbook(write_only=True), BytesIO()
    sheet, columns = book.create_sheet(), range(min(size // 12, 16_000))
    for row in (["text", *map(str, columns)], *[["a"] * (len(columns) + 1)] * 2):
        sheet.append(row)
    book.save(written)
    return written.getvalue()


def _wide_parquet(size: int) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = BytesIO()
    pq.write_table(pa.table({name: ["a", "a"] for name in ("text", *map(str, range(size // 300)))}), written)
    return written.getvalue()


# Tables of the same two texts, by their format, beside which there are as many columns as possible.
WIDE_TABLES: Mapping[str, Callable[[int], bytes]] = {"xlsx": _wide_workbook, "parquet": _wide_parquet}
# By what it is sent as: the query and the content type.
KINDS = {
    "csv": ("?filename=a.csv", ""),
    "column": ("?filename=a.csv&column=" + "ab" * 99, ""),
    "tsv": ("?filename=a.tsv&column=a", ""),
    "delimiter": ("?filename=a.csv&delimiter=;", ""),
    "unknown": ("?filename=a", ""),
    "json": ("?filename=a.json", ""),
    "ndjson": ("?filename=a.ndjson", ""),
    "txt": ("?filename=a.txt", ""),
    "body": ("", "application/json"),
    "body of lines": ("", "application/x-ndjson"),
    "body of a table": ("", "text/csv"),
}


def files(size: int, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, str, bytes]]:
    """Bodies of POST /jobs: a name, the query, the content type and the body."""
    for kind, (query, content_type) in KINDS.items():
        for name, make in FILES.items():
            if wanted(f"{kind}: {name}"):
                yield f"{kind}: {name}", query, content_type, make(size)
    for name, make in TABLES.items():
        if wanted(name):
            yield name, "?filename=a.xlsx", "", make(size)


def read_again(size: int, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Bodies for a route that knows how to read them."""
    yield from ((name, make(size)) for name, make in FILES.items() if wanted(name))


def tables_again(size: int, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, bytes]]:
    """Bodies for jobs that are made of tables: a name, the format of the job, and the body."""
    for form, wide in WIDE_TABLES.items():
        for name, make in {**TABLES, "a wide table": wide}.items():
            if wanted(name := f"{form}: {name}"):
                yield name, form, make(size)


def zipped(size: int, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes, int]]:
    """Bodies of POST /jobs whose content has about so many bytes: a name, the body, and that number."""
    for name in ("blank lines", "blank lines of a table", "many short rows", "one long record"):
        if wanted(f"gzip: {name}"):
            yield f"gzip: {name}", gzip.compress(FILES[name](size), 1), size
    if wanted("gzip: blank lines before others"):
        others = encodebytes(Random(1).randbytes(2 * MIB))
        packed = gzip.compress(FILES["blank lines"](size), 1) + gzip.compress(others, 0)
        yield "gzip: blank lines before others", packed, size  # the others are as many in twice the body
    if wanted("gzip: empty members"):
        yield "gzip: empty members", gzip.compress(b"") * (size // 160), size
    if wanted("gzip: members of a byte"):
        yield "gzip: members of a byte", gzip.compress(b"a\n") * (size // 176), 0


_PART = b'--B\r\nContent-Disposition: form-data; name="'
# Headers of a part, which may have 8 KiB.
_HEADERS = {
    "many parts": b'a"\r\n\r\n\r\n',
    "quotes of a header": b";" * 8000 + b"\r\n\r\n",
    "parameters of a header": b'a"' + b";a=b" * 2000 + b"\r\n\r\n",
    "a parameter in parts": b'a"' + b"".join(b"; filename*%d=b" % n for n in range(450)) + b"\r\n\r\n",
    "encoded words": b'a"; filename="' + b"=?utf-8?q?=41?=" * 500 + b'"\r\n\r\n',
    "many headers": b'a"\r\n' + b"a:b\r\n" * 1500 + b"\r\n",
    "a header over many lines": b'a";\r\n' + b" a=b;\r\n" * 1100 + b"\r\n",
    "digits of a parameter": b'a"; name*' + b"9" * 8000 + b"=b\r\n\r\n",
}


def forms(size: int, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str, bytes]]:
    """Bodies of POST /v1/files: a name, the content type and the body."""
    contents: dict[str, Callable[[int], bytes]] = {
        **{name: lambda n, make=make: form(make(n)) for name, make in FILES.items()},
        **{name: lambda n, rest=rest: _parts(rest, n) for name, rest in _HEADERS.items()},
        "beginnings of a boundary": lambda n: _FORM + b"\r\n--" * (n // 4) + b"\r\n--B--\r\n",
        "no boundary": lambda n: b"\r\n" * (n // 2),
        "no end": lambda n: _FORM + b"x" * n,
        "a long end": lambda n: _FORM + b"\r\n--B--" + b"\r\n--B" * (n // 5),
        "two forms of a name": lambda n: (
            b"--B\r\nContent-Disposition: form-data; name*=x; name*1=y\r\n\r\n\r\n--B--\r\n"
        ),
    }
    yield from ((name, MULTIPART, make(size)) for name, make in contents.items() if wanted(name))
    for name, boundary in {"almost a long boundary": b"B" * 70, "almost another": b"AB" * 35}.items():
        if wanted(name):
            kind = MULTIPART.replace("=B", f"={boundary.decode()}")
            almost = form((b"\r\n--" + boundary[:-1]) * (size // 73))
            yield name, kind, almost.replace(b"--B\r\n", b"--%b\r\n" % boundary)


def form(content: bytes) -> bytes:
    """A body of POST /v1/files with this file."""
    return _FORM + content + b"\r\n--B--\r\n"


def _parts(rest: bytes, size: int) -> bytes:
    return (_PART + rest) * max(size // len(_PART + rest), 1) + b"--B--\r\n"
