"""Why a file cannot be read: for programs, and in a sentence for people."""

from __future__ import annotations

from collections.abc import Sequence

# A message names at most so many columns, and this much of each name.
MAX_NAMES, MAX_CHARS, MAX_MESSAGE = 20, 64, 10_000


class BadFile(ValueError):
    """A file that cannot be read: a stable type, a message, and where they apply its line and columns.

    `columns` are those to choose from in place of `wanted`.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        line: int | None = None,
        columns: Sequence[str] | None = None,
        wanted: str = "",
    ) -> None:
        super().__init__(message[:MAX_MESSAGE])
        self.kind = kind
        self.line = line
        self.columns = columns
        self.wanted = wanted


class EndsEarly(BadFile):
    """A compressed file without its end."""


class OtherEncoding(BadFile):
    """Bytes that are not characters in the encoding of the file."""


def short(names: Sequence[str]) -> tuple[str, ...]:
    """The names that an error offers as a choice."""
    return tuple(name for name in names[:MAX_NAMES] if len(name) <= MAX_CHARS)


class FileError(Exception):
    """A file cannot be read. The message is one sentence or two for the person who named it."""

    status = 2
