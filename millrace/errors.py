"""What a person can do wrong, or a machine can lack: told in one sentence, without a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """Ends a command with its sentence on stderr. `status` is 2 for something the person can put right."""

    def __init__(self, sentence: str, status: int = 2) -> None:
        super().__init__(sentence)
        self.status = status
