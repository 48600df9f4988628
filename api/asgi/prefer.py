"""Parses the `Prefer` header (RFC 7240)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# White space in header values.
BLANK = b" \t"
_seconds = re.compile(rb"\d{1,9}(?:\.\d{1,6})?").fullmatch


@dataclass(frozen=True, slots=True)
class Preference:
    """Seconds to wait for the results, and whether the request may become a job."""

    wait_s: float | None = None
    respond_async: bool = False


NO_PREFERENCE = Preference()


def parse_prefer(lines: Iterable[bytes]) -> Preference:
    """Ignores malformed, unknown and repeated preferences, as RFC 7240 requires."""
    wait_s: float | None = None
    respond_async = False
    for part in b",".join(lines).split(b","):
        # Parameters after ";" are ignored. A quoted string that contains "," or ";" is split in the wrong
        # place, but neither of the known preferences has one.
        name, _, value = part.partition(b";")[0].partition(b"=")
        name = name.strip(BLANK).lower()
        value = _unquoted(value.strip(BLANK))
        if name == b"wait" and wait_s is None and _seconds(value):
            wait_s = float(value)
        elif name == b"respond-async":
            respond_async = True
    return Preference(wait_s, respond_async)


def _unquoted(value: bytes) -> bytes:
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value
