"""Errors of the client. Each carries the `code` of the service and the id of the request, for its log."""

from __future__ import annotations

import re
from typing import Any

import httpx

_numbered = re.compile(r"^text \d+:? (?=\S)")


class MillraceError(Exception):
    """Base of all errors. `code` is stable and meant for programs; `request_id` finds the request in logs."""

    def __init__(self, detail: str, *, code: str, request_id: str = "") -> None:
        where = f", request {request_id}" if request_id else ""
        super().__init__(f"{detail} ({code}{where})")
        self.detail = detail
        self.code = code
        self.request_id = request_id

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets other processes receive it. By default, it would be created again from its message alone."""
        return _restore, (type(self), self.args), vars(self)


def _restore(kind: type[MillraceError], args: tuple[Any, ...]) -> MillraceError:
    return kind.__new__(kind, *args)


class RequestError(MillraceError):
    """The service refused a request, and would refuse it again.

    `status` is the HTTP status; `index` is the position in the request of the text at fault, if there is one.
    """

    def __init__(
        self, detail: str, *, code: str, request_id: str, status: int, index: int | None = None
    ) -> None:
        super().__init__(detail, code=code, request_id=request_id)
        self.status = status
        self.index = index


class Unavailable(MillraceError):
    """The budget ended before the service answered. `code` is that of its last refusal, or `unreachable`."""


class TextError(MillraceError):
    """One text has no prediction. `index` is its position in the input, from 0."""

    def __init__(self, detail: str, *, code: str, request_id: str = "", index: int) -> None:
        # The service counts from the first text of a request, and does not number the texts of jobs.
        detail = f"text {index}: {_numbered.sub('', detail)}"
        super().__init__(detail, code=code, request_id=request_id)
        self.index = index

    @classmethod
    def of(cls, error: MillraceError, index: int) -> TextError:
        """What is wrong with a text, as the error of the text at this position."""
        return cls(error.detail, code=error.code, request_id=error.request_id, index=index)


class JobError(MillraceError):
    """A job failed or was cancelled. `job_id` is its id."""

    def __init__(self, detail: str, *, code: str, job_id: str) -> None:
        super().__init__(detail, code=code)
        self.job_id = job_id


def error_of(response: httpx.Response, request_id: str) -> RequestError:
    """The error of a response, also of one that a proxy has written."""
    fields = _object(response)
    detail, index = fields.get("detail"), fields.get("index")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        detail = detail[0].get("msg")
    answered = f"the service answered {response.status_code}"
    if response.has_redirect_location:
        answered += f" and redirects to {response.headers['location']}: use that address"
    return RequestError(
        str(detail or answered),
        code=str(fields.get("code") or f"http_{response.status_code}"),
        request_id=str(fields.get("request_id") or request_id),
        status=response.status_code,
        index=index if isinstance(index, int) else None,
    )


def body_of(response: httpx.Response, field: str) -> dict[str, Any]:
    """The JSON object of a successful response. Raises RequestError if it lacks `field`: another service."""
    body = _object(response)
    if field not in body:
        raise not_millrace(response)
    return body


def _object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object of a response; an empty one if it has none."""
    try:
        body = response.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {}


def not_millrace(response: httpx.Response) -> RequestError:
    """The error for a successful response that is not one of Millrace."""
    return RequestError(
        f"{response.request.url} did not answer like Millrace: is the address right?",
        code="not_millrace",
        request_id=response.request.headers.get("x-request-id", ""),
        status=response.status_code,
    )
