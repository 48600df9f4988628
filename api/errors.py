"""The one table: what went wrong -> HTTP status, stable code, Retry-After. And the body that says so."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    EntryPoisoned,
    MillraceError,
    NoJobs,
    NoWorker,
    QueueFull,
    QueueUnavailable,
)

Header = tuple[bytes, bytes]

# 429 means shed: the same request will do later. 503 means not able, whatever is asked.
STATUS_OF: dict[type[MillraceError], int] = {
    QueueFull: 429,
    NoWorker: 503,
    QueueUnavailable: 503,
    NoJobs: 501,
    BudgetExceeded: 504,
    EntryFailed: 500,
    EntryPoisoned: 422,
}
# For what fails before any domain error can arise, and for routes that raise a bare HTTPException.
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
# Seconds, where the error does not know better.
RETRY_AFTER_S: dict[int, float] = {429: 1.0, 503: 2.0}


class Problem(Exception):
    """An answer that is no success. `fields` join detail, code and request_id in the body."""

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
        # Of the text that this is about, for the log.
        self.entry = ""
        wait = RETRY_AFTER_S.get(status) if retry_after_s is None else retry_after_s
        self.headers = [*headers]
        if wait is not None:
            self.headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait))))

    def body(self, request_id: str) -> bytes:
        content = {"detail": self.detail, "code": self.code, "request_id": request_id, **self.fields}
        return json.dumps(content, separators=(",", ":"), default=str).encode()


def invalid_body(
    kind: str, said: str, *place: str, line: int | None = None, index: int | None = None
) -> Problem:
    """422 in FastAPI's shape: the one thing that is wrong, and where in the body.

    `line`, or `index` (the place in the list of texts), also stands beside the detail.
    """
    loc: list[str | int] = ["body", *place]
    fields: dict[str, Any] = {}
    if line is not None:
        loc, fields, said = ["body", line], {"line": line}, f"line {line}: {said}"
    elif index is not None:
        loc, fields, said = ["body", "text", index], {"index": index}, f"text {index}: {said}"
    return Problem(422, [{"type": kind, "loc": loc, "msg": said}], **fields)


def problem_of(error: MillraceError, index: int | None = None) -> Problem:
    """The answer for a domain error; `index` is the place in the request of the one text it is about."""
    status = STATUS_OF.get(type(error), 500)
    if index is None:
        return Problem(status, str(error), code=error.code, retry_after_s=error.retry_after_s)
    return Problem(status, f"text {index}: {error}", code=error.code, index=index)


def internal() -> Problem:
    """For what nobody foresaw: the log has the traceback, the client only the id to ask about."""
    return Problem(500, "internal error; the log has it under this request_id")
