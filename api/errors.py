"""Maps errors to an HTTP status, a stable code and Retry-After, and builds the body of error responses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from batcher import errors

Header = tuple[bytes, bytes]
# Every error links to the page where requests can be tried.
HELP: Header = (b"link", b'</docs>; rel="help"')

# 429: this request was shed, and can be retried later. 503: no request can be served at the moment.
STATUS_OF: dict[type[errors.MillraceError], int] = {
    errors.QueueFull: 429,
    errors.NoWorker: 503,
    errors.Paused: 503,
    errors.QueueUnavailable: 503,
    errors.RevisionsMixed: 503,
    errors.NoJobs: 501,
    errors.BudgetExceeded: 504,
    errors.TextTooSlow: 413,
    errors.EntryFailed: 500,
    errors.EntryPoisoned: 422,
    errors.TextUnknown: 422,
    errors.LabelsDiffer: 409,
    errors.SeveralLabels: 409,
    errors.DataMissing: 404,
}
# The default code of each status, for errors without their own: protocol errors and bare HTTPExceptions.
CODE_OF: dict[int, str] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_timeout",
    409: "conflict",
    413: "too_large",
    414: "target_too_long",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "queue_full",
    431: "head_too_large",
    500: "internal",
    503: "unavailable",
    504: "budget_exceeded",
}
# Default Retry-After in seconds, for errors that do not set one.
RETRY_AFTER_S: dict[int, float] = {429: 1.0, 503: 2.0, 504: 1.0}


class Problem(Exception):
    """An error response. `fields` are added to the body, next to detail, code and request_id."""

    def __init__(
        self,
        status: int,
        detail: str | Sequence[dict[str, Any]],
        *,
        code: str = "",
        headers: Sequence[Header] = (),
        retry_after_s: float | None = None,
        **fields: object,
    ) -> None:
        super().__init__(code or CODE_OF.get(status, "error"))
        self.status = status
        self.code: str = self.args[0]
        self.detail = detail
        self.fields = fields
        # The id of the entry that failed, for the log.
        self.entry = ""
        wait = RETRY_AFTER_S.get(status) if retry_after_s is None else retry_after_s
        self.headers = [HELP, *headers]
        if wait is not None:
            self.headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait))))

    def body(self, request_id: str) -> bytes:
        content = {"detail": self.detail, "code": self.code, "request_id": request_id, **self.fields}
        return json.dumps(content, separators=(",", ":"), default=str).encode()


class ResponseCut(Exception):
    """A body ends before its end, because of an error after the head was sent."""


def let_go(error: BaseException | None) -> None:
    """Takes their frames from an error that is answered and from those before it.

    A frame that has its own error in a variable keeps all its other values, such as a body, until garbage is
    collected, which happens rarely (batcher/gc_tuning.py).
    """
    while error is not None:
        error.with_traceback(None)
        error = error.__cause__ or error.__context__


def invalid_body(
    kind: str, message: str, *place: str, line: int | None = None, index: int | None = None
) -> Problem:
    """A 422 in FastAPI's format: the first error in the body, and where it is.

    `line` or `index` (the position in the list of texts) is also a separate field in the response.
    """
    loc: list[str | int] = ["body", *place]
    fields: dict[str, Any] = {}
    if line is not None:
        loc = ["body", line]
        fields = {"line": line}
        message = f"line {line}: {message}"
    elif index is not None:
        loc = ["body", "text", index]
        fields = {"index": index}
        message = f"text {index}: {message}"
    return Problem(422, [{"type": kind, "loc": loc, "msg": message}], **fields)


def problem_of(error: errors.MillraceError, index: int | None = None) -> Problem:
    """The response for a domain error. `index` is the position in the request of the text that failed."""
    status = STATUS_OF.get(type(error), 500)
    if index is None:
        return Problem(status, str(error), code=error.code, retry_after_s=error.retry_after_s)
    return Problem(status, f"text {index}: {error}", code=error.code, index=index)


def not_started() -> Problem:
    """The response of an application whose lifespan has not begun."""
    detail = (
        "the application was not started: its lifespan did not run. An application that mounts it must run "
        "its lifespan; docs/deploy.md shows how"
    )
    return Problem(503, detail, code="not_started")


def internal() -> Problem:
    """The response for an unexpected error: the traceback goes to the log, the client gets the request id."""
    return Problem(500, "internal error; the log has the details under this request_id")
