"""What was asked and answered in a situation, as the promises read it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import httpx

from tests.signing import Order, Said

# Refusals that a client may get while something is broken. Each says when to come back.
LATER = frozenset((429, 503, 504))
Phase = Literal["before", "during", "after"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(slots=True)
class Exchange:
    """One use of a route by a client. `status` is 0 without an answer; `job` is the path of an accepted job.

    `allowed` are the statuses of refusals that are right here, `order` that of labels on the native routes.
    """

    route: str
    model: str
    client: str
    texts: Sequence[str]
    phase: Phase
    order: Order = "id"
    seed: int = 0
    allowed: frozenset[int] = frozenset()
    # Whether the connection may be cut.
    cuts: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    asked_at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    status: int = 0
    code: str = ""
    retry_after: bool = False
    said: Said | None = None
    # What is wrong in a way that no other field says.
    problem: str = ""
    job: str = ""
    job_state: str = ""
    # The body that made a batch, to be sent again.
    asked: dict[str, str] | None = None

    def note(self, answer: httpx.Response) -> bool:
        """Keeps what an answer says in general. Whether it is a success."""
        self.status = answer.status_code
        self.retry_after = "retry-after" in answer.headers
        if not answer.is_success:
            self.code = code_of(answer)
            self.problem = ""
        return answer.is_success

    def says(self, rows: Sequence[Any], names: Sequence[str], *, hit: bool = False) -> None:
        """Keeps what it says of the texts."""
        self.said = Said(
            self.texts,
            rows,
            [*dict.fromkeys(names)],
            model=self.model,
            client=self.client,
            hit=hit,
            asked_at=self.asked_at,
        )

    @property
    def hit(self) -> bool:
        """Whether it says that nothing was computed for it."""
        return self.said is not None and self.said.hit

    def __str__(self) -> str:
        who = f"{self.route} ({self.phase}, {self.client}, model {self.model})"
        return f"{who}: {self.status} {self.code} {self.job_state} {self.problem}".strip()


def code_of(answer: httpx.Response) -> str:
    """The code of an error, also in the form of another service."""
    try:
        body = answer.json()
    except ValueError:
        return ""
    error = body.get("error") if isinstance(body, dict) else None
    found = body.get("code") if isinstance(body, dict) else None
    return str(found or (error.get("code") if isinstance(error, dict) else "") or "")


@dataclass(slots=True)
class Record:
    """All of a situation. The lists of sentences are what events saw that no answer shows."""

    exchanges: list[Exchange] = field(default_factory=list)
    # Those of a client that has nothing to do with the situation, and whether an event may reach it.
    others: list[Exchange] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    decided: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
