"""Options of a client, and how long it pauses before a request is sent again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom

# The upper bound of the first random pause in seconds. It doubles with each attempt, up to MAX_BACKOFF_S.
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
# Clients that were refused together spread their return over this share of Retry-After beyond it.
SPREAD = 0.25


@dataclass(frozen=True, slots=True)
class Options:
    """How a client splits, sends and retries.

    `budget_s` limits the seconds from the first attempt at a request until its answer; Unavailable is raised
    after that. A request has at most `batch_texts` different texts, and at most `concurrency` requests of one
    call are in progress (see `Window`). A list of at least `job_from` texts becomes a job; None: never.

    `now` (seconds) and `random` (0 to 1) are the clock and the source of jitter.
    """

    budget_s: float = 120.0
    batch_texts: int = 32
    concurrency: int = 8
    job_from: int | None = 10_000
    now: Callable[[], float] = time.monotonic
    random: Callable[[], float] = SystemRandom().random

    def __post_init__(self) -> None:
        if self.budget_s <= 0 or self.batch_texts < 1 or self.concurrency < 1:
            raise ValueError("budget_s must be above 0; batch_texts and concurrency must be at least 1")

    def pause_s(self, attempt: int, retry_after_s: float) -> float:
        """Seconds to wait after refusal number `attempt` (from 0): never less than the service asked for."""
        backoff_s = min(FIRST_BACKOFF_S * 2.0 ** min(attempt, 16), MAX_BACKOFF_S)
        return retry_after_s + self.random() * max(retry_after_s * SPREAD, backoff_s)


class Window:
    """How many requests of one call may be in progress: one at first, one more with each answer.

    After a refusal it is one again. So a crowd of clients sends an overloaded service hardly more than it
    answers, which keeps Retry-After short and the service busy.
    """

    def __init__(self, most: int) -> None:
        self.size = 1
        self._most = most

    def answered(self) -> None:
        self.size = min(self.size + 1, self._most)

    def refused(self) -> None:
        self.size = 1
