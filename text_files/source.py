"""Files of texts that commands name: what is in them, and one sentence for each that cannot be read."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from text_files.cells import Row, shown
from text_files.errors import BadFile, FileError, OtherEncoding
from text_files.formats import FORMATS, FileFormat, Hints
from text_files.preview import Preview, preview
from text_files.rows import FileRows

_BLOCK_BYTES = 256 * 1024


class TextFile:
    """A file with one text per row. It may be read several times. `name` stands for it in messages.

    Reading it to its end raises FileError if it had other texts before.
    """

    def __init__(self, path: Path, hints: Hints, name: str = "") -> None:
        self.path = path
        self.name = name or str(path)
        self.column = hints.column
        self._hints = hints
        self._seen: int | None = None

    def preview(self) -> Preview:
        """How it is read, and its first rows. Raises FileError if it is not a file of texts."""
        rows = self._open()
        try:
            return preview(rows)
        except BadFile as error:
            raise FileError(self._sentence(error, rows.format)) from None

    def rows(self) -> Iterator[Row]:
        """Yields every row. Raises FileError naming the line that is invalid."""
        return self._checked(self._open())

    def beside(self, *columns: str) -> Iterator[tuple[Row, list[object]]]:
        """Yields every row and what these columns, of `also` and `if_any`, have beside its text."""
        rows = self._open(whole=False)
        for row in self._checked(rows):
            yield row, [_value(row, rows.places.get(column), column) for column in columns]

    def texts(self) -> Iterator[str]:
        """Yields the text of every row."""
        return (row.text for row in self._checked(self._open(whole=False)))

    def names(self) -> list[str]:
        """The names of all columns, or of all fields that occur in any row, in order of appearance."""
        rows = self._open(whole=False)
        names: dict[str, None] = {}
        for row in self._checked(rows):
            if rows.names is not None:
                break
            names.update(dict.fromkeys(row.fields or [self.column]))
        return list(rows.names or names or [self.column])

    def _open(self, whole: bool = True) -> FileRows:
        return FileRows(self._blocks(), self.name, self._hints, source=self.path, whole=whole)

    def _blocks(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    yield block
        except OSError as error:
            raise FileError(f"{self.name} cannot be read: {error.strerror}.") from None

    def _checked(self, rows: FileRows) -> Iterator[Row]:
        seen = 0
        try:
            for row in rows:
                seen = hash((seen, row.text))
                yield row
        except BadFile as error:
            raise FileError(self._sentence(error, rows.format)) from None
        if self._seen not in (None, seen):
            raise FileError(f"{self.name} changed while it was being read: repeat the command.")
        self._seen = seen

    def _sentence(self, error: BadFile, form: FileFormat | None) -> str:
        where = "" if error.line is None else f", line {error.line}"
        advice = ""
        if error.columns is not None:
            advice = f" Choose one with --{'label-' if error.wanted in self._hints.also else ''}column."
            if form is not None and form.note:
                advice = f"{advice[:-1]}, or read it with --no-header --column {form.headerless}."
            elif form is not None and form.delimiter and not error.columns[1:]:
                advice = f"{advice[:-1]}, or name the --delimiter between columns."
        elif isinstance(error, OtherEncoding):
            advice = " Name its encoding, e.g. --encoding windows-1252."
        return f"{self.name}{where}: {error}{'' if str(error).endswith('?') else '.'}{advice}"


def _value(row: Row, place: int | None, column: str) -> object:
    if row.part is not None and place is not None:
        value = row.part.column(place)[row.at]
        return value if isinstance(value, list) else shown(value)
    if row.fields is not None:
        return row.fields.get(column)
    return None if place is None else row.cells[place]


@contextlib.contextmanager
def opened(name: str, hints: Hints) -> Iterator[TextFile]:
    """The file, or a copy of standard input or a pipe, because the input is read several times."""
    if name == "-" and sys.stdin is None:
        raise FileError("standard input is closed: name a file.")
    path, said = Path("/dev/stdin" if name == "-" else name), "standard input" if name == "-" else name
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileError(f"file not found: {name}.") from None
    except OSError as error:
        raise FileError(f"{name} cannot be read: {error.strerror}.") from None
    if stat.S_ISDIR(mode):
        raise FileError(f"{name} is a directory: name the files in it.")
    if name != "-" and stat.S_ISREG(mode):
        yield TextFile(path, hints)
        return
    with contextlib.ExitStack() as stack:
        try:
            copy = stack.enter_context(tempfile.NamedTemporaryFile(prefix="millrace-", suffix=".in"))
            with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else path.open("rb") as source:
                shutil.copyfileobj(source, copy)
            copy.flush()
        except OSError as error:
            raise FileError(
                f"{said} cannot be copied to a temporary file: {error.strerror}; set TMPDIR to another "
                "directory."
            ) from None
        yield TextFile(Path(copy.name), hints, said)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how FILE is read."""
    column = "column or field that holds the text, by name or number (default: text)"
    parser.add_argument("--column", "--text-column", default="text", metavar="NAME", help=column)
    by_file = "format of FILE (default: by its suffix, or else its content)"
    parser.add_argument("--format", choices=FORMATS, help=by_file)
    parser.add_argument("--delimiter", help="delimiter of a CSV file (default: detected)")
    parser.add_argument("--encoding", help="encoding of FILE (default: utf-8, or by its byte order mark)")
    header = "the first line of a table is a row: columns are chosen by their number, --column 2"
    parser.add_argument("--no-header", dest="header", action="store_false", help=header)
    quotes = (
        "quotes in a table are ordinary characters (default: in TSV, if only so all rows are equally long)"
    )
    parser.add_argument("--no-quotes", dest="quotes", action="store_false", default=None, help=quotes)


def hints(args: argparse.Namespace) -> Hints:
    """What these options say. Raises FileError for a delimiter that is none."""
    delimiter = "\t" if args.delimiter == r"\t" else args.delimiter  # a shell passes two characters
    if delimiter is not None and (len(delimiter) != 1 or delimiter.isalnum() or delimiter in '" \r\n'):
        raise FileError(f"--delimiter {args.delimiter} is not a single punctuation mark or \\t.")
    return Hints(args.column, args.format, delimiter, args.encoding, args.header, args.quotes)
