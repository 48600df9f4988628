"""The errors that a text can end with, independent of HTTP: `api.errors` maps each code to a status."""

from __future__ import annotations

from typing import ClassVar, Literal


class MillraceError(Exception):
    """Base of all errors that callers receive. `code` is stable and part of the public API."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(MillraceError):
    """The lane's waiting cost is above its cap. Retry once it has drained."""

    code = "queue_full"


class NoWorker(MillraceError):
    """No running worker can process the text."""

    code = "no_worker"


class QueueUnavailable(MillraceError):
    """Redis is unreachable, refuses writes, or is loading."""

    code = "redis_unavailable"


class RevisionsMixed(MillraceError):
    """Workers of several revisions answered, and none of these for all texts within the budget."""

    code = "revisions_mixed"


class Paused(MillraceError):
    """An operator has paused the lane. Retry once the pause is over."""

    code = "paused"


class NoJobs(MillraceError):
    """The configured Redis cannot store jobs."""

    code = "no_jobs"


class BudgetExceeded(MillraceError):
    """The caller's budget ended before the result arrived."""

    code = "budget_exceeded"


class TextTooSlow(BudgetExceeded):
    """A text is so long that its forward pass alone would take longer than the caller's budget."""

    code = "text_too_slow"


class EntryFailed(MillraceError):
    """The model failed on this text, also when it ran alone."""

    code = "inference_failed"


class EntryPoisoned(MillraceError):
    """Too many workers died while they ran this text alone, so it is not run again."""

    code = "poison"


class TextUnknown(MillraceError):
    """The model does not know more than half of the pieces of the text, and such texts are refused."""

    code = "text_unknown"


class LabelsDiffer(MillraceError):
    """The models of a cascade have different labels."""

    code: ClassVar[Literal["labels_differ"]] = "labels_differ"


class SeveralLabels(MillraceError):
    """A model of a cascade may give a text several labels."""

    code: ClassVar[Literal["several_labels"]] = "several_labels"


class DataMissing(MillraceError):
    """What is being read was deleted, has expired, or is not all there any more."""

    code = "not_found"


class Malformed(ValueError):
    """Data in Redis that this version of the program cannot read."""
