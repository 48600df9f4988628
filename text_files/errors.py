"""Why a file cannot be read: for programs, and in a sentence for people."""

from __future__ import annotations


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
        columns: tuple[str, ...] | None = None,
        wanted: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.line = line
        self.columns = columns
        self.wanted = wanted


class FileError(Exception):
    """A file cannot be read. The message is one sentence or two for the person who named it."""

    status = 2
