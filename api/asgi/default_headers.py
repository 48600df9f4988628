"""The headers of every response, which docs/security.md promises."""

from __future__ import annotations

from collections.abc import Iterable

from api.asgi.http import NOSNIFF
from api.errors import Header

# Added to every response, unless the route sets its own value. Successful ones of /predict and /health have
# NOSNIFF only: browsers do not display them.
DEFAULT_HEADERS: tuple[Header, ...] = (
    NOSNIFF,
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def with_defaults(headers: Iterable[Header], request_id: bytes) -> list[Header]:
    """The headers of a response, those that every response has included."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    defaults = ((b"x-request-id", request_id), *DEFAULT_HEADERS)
    return given + [header for header in defaults if header[0] not in names]
