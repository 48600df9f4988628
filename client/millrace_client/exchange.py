"""Sends one request until it is answered, without doing any I/O itself.

A flow is a generator that yields steps: `Send` a request, for which it gets a response or an httpx error, or
`Sleep`. `Client` runs flows with threads, `AsyncClient` with asyncio; what they decide is written only once.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import IO, Any, TypeVar

import httpx

from millrace_client.errors import Unavailable, error_of
from millrace_client.options import Options, Window

# Overload, outage and restart, also as proxies report them.
RETRIED = frozenset((408, 425, 429, 502, 503, 504))
# Those that say that the request was not carried out, and errors before it was sent.
NOT_DONE = frozenset((429, 503))
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# How long one attempt may wait in the service's queue. The service has a limit, too.
ATTEMPT_S = 10.0
# Time for the network on top of it.
MARGIN_S = 5.0
# How much of a file is read at a time.
BLOCK_BYTES = 64 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """A request. `body` may be a file; it is read from its start for each attempt.

    The service may take `wait_s` to answer; with `prefer` it is asked not to take longer. A request that is
    not `repeatable` is sent again only if it was certainly not carried out.
    """

    method: str
    path: str
    body: bytes | IO[bytes] = b""
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = ATTEMPT_S
    prefer: bool = False
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


Flow = Generator[Send | Sleep, Any, T]


def exchange(
    options: Options, send: Send, until: float, window: Window | None = None
) -> Flow[httpx.Response]:
    """Sends a request until it succeeds, at the latest at the time `until`. Reports outcomes to `window`.

    Raises RequestError for a refusal that would be repeated, and Unavailable if the request may not be sent
    again.
    """
    window = window or Window(1)
    for attempt in count():
        request_id = uuid.uuid4().hex
        retry_after_s = 0.0
        try:
            response: httpx.Response = yield _attempt(send, request_id, until - options.now())
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            raise
        except (httpx.TransportError, httpx.DecodingError) as error:
            cause: Exception = error
            detail, code = f"the service does not answer: {str(error) or type(error).__name__}", "unreachable"
            again = send.repeatable or isinstance(error, NOT_SENT)
        else:
            if response.is_success:
                window.answered()
                return response
            refusal = error_of(response, request_id)
            if refusal.status not in RETRIED:
                raise refusal
            again = send.repeatable or refusal.status in NOT_DONE
            cause, detail, code = refusal, refusal.detail, refusal.code
            request_id = refusal.request_id
            retry_after_s = read_retry_after(response.headers.get("retry-after", ""))
        window.refused()
        pause_s = options.pause_s(attempt, retry_after_s)
        if not again or options.now() + pause_s >= until:
            raise Unavailable(detail, code=code, request_id=request_id) from cause
        yield Sleep(pause_s)
    raise AssertionError("not reached")


def _attempt(send: Send, request_id: str, left_s: float) -> Send:
    wait_s = max(min(send.wait_s, left_s), 0.001)
    headers = {**send.headers, "x-request-id": request_id}
    if send.prefer:
        headers["prefer"] = f"wait={wait_s:.3f}"
    return replace(send, headers=headers, wait_s=wait_s)


def read_retry_after(value: str) -> float:
    """Seconds of a Retry-After header, which may be a date; 0 if it is absent or malformed."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return 0.0
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return seconds if 0 < seconds < float("inf") else 0.0


def timeout_of(step: Send, most_s: float | None = None) -> httpx.Timeout:
    """The timeouts of one attempt: connecting takes seconds at most, whatever the service may take."""
    most_s = most_s or step.wait_s + MARGIN_S
    return httpx.Timeout(min(step.wait_s + MARGIN_S, most_s), connect=min(MARGIN_S, most_s))
