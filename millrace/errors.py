"""The error of commands, which is reported in one sentence, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CommandError(Exception):
    """Ends a command with a sentence on stderr. An exit `status` of 2 means that the user can correct it."""

    def __init__(self, sentence: str, status: int = 2) -> None:
        super().__init__(sentence)
        self.status = status


@contextmanager
def saying(what: str) -> Iterator[None]:
    """Ends a command with these words and the reason if the system refuses something."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{what}: {error.strerror}.") from None
