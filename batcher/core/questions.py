"""Questions that the console asks all processes, which write what they remember only when asked.

API processes read the open question with the snapshot and workers with a heartbeat (decision 0602).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from batcher.core.commands import Command

# API processes are asked about the id of a REQUEST, and workers about the ids of TEXTS.
REQUEST, TEXTS = "request", "texts"
# How long a list of answers is kept.
ANSWERS_MS = 10_000


class Question(NamedTuple):
    """`kind` is REQUEST or TEXTS. Answers go to the list of the `token`."""

    token: str
    kind: str
    ids: tuple[str, ...]


def read_question(text: str) -> Question | None:
    """Reads `ends token kind id id ...`, as ask.lua writes it. None if there is no question."""
    words = text.split(" ")
    return Question(words[1], words[2], tuple(words[3:])) if len(words) > 3 else None


@dataclass(frozen=True, slots=True)
class AskQuestion(Command[bool]):
    """Asks a question for `for_ms`. False while another one is open."""

    script = "ask"
    question: Question
    for_ms: int
    ids: Sequence[str] = ()

    def args(self) -> list[Any]:
        token, kind, ids = self.question
        return [token, " ".join((kind, *ids)), self.for_ms]

    def read(self, reply: Any) -> bool:
        return bool(reply)


@dataclass(frozen=True, slots=True)
class EndQuestion(Command[int]):
    """Ends a question, so that another one can be asked."""

    script = "ask"
    token: str
    ids: Sequence[str] = ()

    def args(self) -> list[Any]:
        return [self.token, "", 0]


@dataclass(frozen=True, slots=True)
class Answer(Command[int]):
    """Answers the question with this `token`, in JSON."""

    script = "answer"
    token: str
    body: str
    ids: Sequence[str] = ()

    def args(self) -> list[Any]:
        return [self.token, self.body, ANSWERS_MS]
