"""Input of a job on its way into Redis, chunk by chunk, within the budgets of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Of a result until it is known: a place is reserved for it. The scripts know the same number.
RESULT_BYTES = 100
UPLOAD_TTL_MS = 600_000
Refusal = Literal["large", "full", "client_full"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that jobs may hold: all of them together, and those of one client."""

    total: int
    client: int


UNBOUNDED = Budget(2**53, 2**53)


@dataclass(frozen=True, slots=True)
class Submission:
    """Who hands a job in, and how.

    `owner` may see it ("": everybody), `client` has the budget, `trace` is the traceparent of the request.
    """

    owner: str = ""
    client: str = ""
    keep_input: bool = False
    trace: str = ""


class NoRoom(Exception):
    """Jobs hold as much as they may. `large`: this one alone would hold more, whatever is deleted."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def encode_text(text: str | None) -> bytes:
    """A text as JSON: a quarter of the memory of a string with one wide character. None: too long a text."""
    return json.dumps(text, ensure_ascii=False).encode()


class Upload:
    """Input that is nobody's job yet. It goes by itself if it is left alone."""

    def __init__(
        self,
        run: Callable[..., Any],
        job_id: str,
        nonce: str,
        chunk_texts: int,
        submission: Submission,
        budget: Budget = UNBOUNDED,
    ) -> None:
        self.job_id = job_id
        self.nonce = nonce
        self.chunk_texts = chunk_texts
        self.submission = submission
        self.chunks = 0
        self.total = 0
        self._run = run
        self._budget = budget

    def add(self, texts: Sequence[bytes]) -> None:
        """Stores the next chunk: `chunk_texts` texts from `encode_text`, fewer only in the last one.

        Raises NoRoom, and stores nothing then.
        """
        payload = b"[%b]" % b",".join(texts)
        self._ask(str(self.chunks), payload, len(payload) + len(texts) * RESULT_BYTES)
        self.chunks += 1
        self.total += len(texts)

    def check(self, size: int) -> None:
        """Raises NoRoom where so many bytes would not fit now beside what is there. Stores nothing.

        A size that would never fit is no reason: a body may be larger than the texts in it.
        """
        try:
            self._ask("", b"", size)
        except NoRoom as error:
            if error.refusal != "large":
                raise

    def drop(self) -> None:
        """Removes what was stored."""
        self._run("job_drop", self.job_id, self.nonce)

    def _ask(self, chunk: str, payload: bytes, size: int) -> None:
        facts = [size, self.submission.client, UPLOAD_TTL_MS, self._budget.total, self._budget.client]
        verdict: bytes = self._run("job_upload", self.job_id, self.nonce, chunk, payload, *facts)
        if verdict != b"stored":
            refusal: Any = verdict.decode()
            raise NoRoom(refusal)
