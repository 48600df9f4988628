"""Writes the rows of a file with the results beside them, in the notation that the rows have in the file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any, Literal

from text_files.cells import Best, Row
from text_files.decoding import MARK
from text_files.formats import FileFormat
from text_files.typed import TYPED, require

OutputFormat = Literal["csv", "tsv", "ndjson", "parquet", "arrow", "xlsx"]
OUTPUTS: dict[str, OutputFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".xlsx": "xlsx",
}
# Rows that are encoded at once.
_ROWS = 500
# Names of the added fields; the second set is used if the file already has a field of the first set.
_CSV_NAMES = (("label", "score", "error"), ("predicted_label", "predicted_score", "prediction_error"))
_NDJSON_NAMES = (("prediction", "error"), ("predicted", "prediction_error"))
# Outside of strings, where JSON has line ends only as white space.
_line_ends = re.compile(r"[\r\n][ \t\r\n]*")


def like(source: FileFormat) -> OutputFormat:
    """The format of the results of a file, if the user chooses none."""
    if source.name == "json":
        return "ndjson"
    return "csv" if source.name == "txt" else source.name


@dataclass(frozen=True, slots=True)
class Output:
    """How results are written: a table as the table they belong to, if it has the same format."""

    format: OutputFormat
    delimiter: str
    source: FileFormat

    @classmethod
    def of(cls, source: FileFormat, form: OutputFormat | None = None) -> Output:
        """Results of a file in `form`, by default in its own format. Raises BadFile if none can write it."""
        form = form or like(source)
        if form in TYPED:
            require(form)
        same = source.delimiter if form == source.name else ""
        return cls(form, same or ("\t" if form == "tsv" else ","), source)

    def blocks(
        self, names: Sequence[str], rows: Iterable[tuple[Row, Any]], errors: str = "strict"
    ) -> Iterator[bytes]:
        """Every row with its result: labels with scores, or {"error": {"code", "detail"}}.

        In a table, the best label and its score or the error's code; in NDJSON, all labels or the error.
        `names` are all columns, or all fields that occur in any row. `errors` says what becomes of half a
        surrogate pair, which JSON may have and UTF-8 has not.
        """
        if self.format in TYPED:
            return self._typed(names, rows)
        lines = self.lines(names, rows)
        return ("".join(some).encode("utf-8", errors) for some in iter(lambda: [*islice(lines, _ROWS)], []))

    def _typed(self, names: Sequence[str], rows: Iterable[tuple[Row, Any]]) -> Iterator[bytes]:
        added = _free(_CSV_NAMES, names)
        results = ((row, best_of(result)) for row, result in rows)
        if self.format == "xlsx":
            from text_files import sheets

            return sheets.write_table(names, added, results, header=self.source.header)
        from text_files import arrow

        same = self.format == self.source.name
        return arrow.write_table(self.format, _unique(names), added, results, same)

    def lines(self, names: Sequence[str], rows: Iterable[tuple[Row, Any]]) -> Iterator[str]:
        """The same as lines, of formats that are text."""
        if self.format == "ndjson":
            return self._objects(names, rows)
        return self._table(names, rows)

    def _objects(self, names: Sequence[str], rows: Iterable[tuple[Row, Any]]) -> Iterator[str]:
        prediction, error = _free(_NDJSON_NAMES, names)
        unique = _unique(names) if self.source.table else names
        for row, result in rows:
            added = {error: result["error"]} if isinstance(result, dict) else {prediction: result}
            if row.fields is not None:
                begun = row.source[:-1].rstrip()
            else:
                values = row.cells if row.part is None else row.part.rows[row.at]
                begun = json.dumps(dict(zip(unique, values, strict=True)), ensure_ascii=False)[:-1]
            yield f"{_line_ends.sub(' ', begun)}, {json.dumps(added, ensure_ascii=False)[1:]}\n"

    def _table(self, names: Sequence[str], rows: Iterable[tuple[Row, Any]]) -> Iterator[str]:
        same = self.format == self.source.name
        write = self._literal if same and self.source.literal else self._writer(same and self.source.quoted)
        if self.source.mark:
            yield MARK
        if same:
            yield self.source.preamble
        if self.source.header or not same:
            yield write([*names, *_free(_CSV_NAMES, names)])
        for row, result in rows:
            yield write([*row.shown(names), *("" if one is None else one for one in best_of(result))])

    def _writer(self, quoted: bool) -> Callable[[Sequence[object]], str]:
        quoting: Literal[0, 1] = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
        # The csv module puts those line ends in quotes that it writes itself.
        writer = csv.writer(_Echo(), delimiter=self.delimiter, quoting=quoting)
        end = self.source.newline if self.source.table or self.source.newline != "\r" else "\n"
        return lambda cells: writer.writerow(cells)[:-2] + end

    def _literal(self, cells: Sequence[object]) -> str:
        """Without quotes, cells have neither delimiters nor line ends."""
        never = re.compile(f"[{re.escape(self.delimiter)}\r\n]")
        return self.delimiter.join(never.sub(" ", str(one)) for one in cells) + self.source.newline


class _Echo:
    """What a csv.writer writes to, so that it returns the line."""

    def write(self, line: str) -> str:
        return line


def best_of(result: Any) -> Best:
    """The best label and its score, or the code of the error."""
    if isinstance(result, dict):
        return None, None, result["error"]["code"]
    best = max(result, key=lambda pair: pair["score"])
    return best["label"], best["score"], None


def _unique(names: Sequence[str]) -> list[str]:
    """Names for the fields of an object: those of a table may be empty or repeated."""
    taken, found, following = set(names), dict[str, None](), dict[str, int]()
    for number, name in enumerate(names, 1):
        new = base = name or f"column_{number}"
        more = max(number, following.get(base, 0))
        while new in found or (new != name and new in taken):
            new, more = f"{base}_{more}", more + 1
        found[new], following[base] = None, more
    return list(found)


def _free(choices: Sequence[tuple[str, ...]], taken: Sequence[str]) -> tuple[str, ...]:
    """The first set of names that the file does not use; numbered names if it uses some of every set."""
    numbered = (tuple(f"{name}_{number}" for name in choices[-1]) for number in count(2))
    used = set(taken)
    return next(names for names in chain(choices, numbered) if used.isdisjoint(names))
