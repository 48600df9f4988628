"""The error of commands, which is reported in one sentence, without a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """Ends a command with a sentence on stderr. An exit `status` of 2 means that the user can correct it."""

    def __init__(self, sentence: str, status: int = 2) -> None:
        super().__init__(sentence)
        self.status = status
