"""What can go wrong with one text. Knows no HTTP: `api.errors` maps each code to a status, once."""

from __future__ import annotations

from typing import ClassVar


class MillraceError(Exception):
    """Base of every error a caller can meet. `code` is stable and public."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(MillraceError):
    """Shed: the lane's waiting cost is over its cap. Retry after it has drained."""

    code = "queue_full"


class NoWorker(MillraceError):
    """No live worker that could answer."""

    code = "no_worker"


class QueueUnavailable(MillraceError):
    """Redis does not answer, refuses writes, or is loading."""

    code = "redis_unavailable"


class NoJobs(MillraceError):
    """Jobs cannot be kept in the Redis that is set for them."""

    code = "no_jobs"


class BudgetExceeded(MillraceError):
    """The caller's budget ended before the result came."""

    code = "budget_exceeded"


class EntryFailed(MillraceError):
    """The model raised on this text alone."""

    code = "inference_failed"


class EntryPoisoned(MillraceError):
    """This text ended the process of every worker that ran it, three times over."""

    code = "poison"


class Malformed(ValueError):
    """Bytes read from Redis that this program did not write (or not in this version)."""
