"""API keys: who asks. Each has a name, to which jobs, limits, metrics and log lines belong.

Several keys may share a name, so that one can be replaced by another. Only their SHA-256 digests are known.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from hashlib import sha256

from api.asgi.headers import RequestHeaders
from api.errors import Problem

# What `sha256sum` says of a variable that is not set, after printf and after echo.
_EMPTY = frozenset(sha256(nothing).hexdigest() for nothing in (b"", b"\n"))
# Digits of its digest that name a key without a name of its own.
DERIVED = 12
_key = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63}):)?([0-9a-fA-F]{64})").fullmatch
_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch


def parse_keys(value: str) -> dict[str, str]:
    """Digest -> name of a comma-separated list of `name:digest` or `digest`. Raises ValueError."""
    names: dict[str, str] = {}
    for entry in filter(None, map(str.strip, value.split(","))):
        match = _key(entry)
        if match is None:
            raise ValueError(
                "each API key is given as NAME:DIGEST, separated by commas: a name of letters, digits, "
                "'.', '_' and '-', and the SHA-256 digest, 64 hex digits; `millrace key new NAME` prints both"
            )
        digest = match[2].lower()
        name = match[1] or digest[:DERIVED]
        if digest in _EMPTY:
            raise ValueError(
                "one of them is the digest of an empty key, as an unset shell variable has it; "
                "`millrace key new NAME` makes a key and prints its digest"
            )
        if names.setdefault(digest, name) != name:
            raise ValueError(f"the same key has the names {names[digest]} and {name}")
    return names


def valid_name(name: str) -> bool:
    """Whether a key may have this name."""
    return _name(name) is not None


class Keys:
    """Accepted API keys: digest (hex) -> name. Without any, everyone may ask."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = [(bytes.fromhex(digest), f"key:{name}") for digest, name in names.items()]

    def client(self, head: RequestHeaders) -> str:
        """Who asks: `key:` and the name of the key, else the address. Raises Problem 401."""
        return self._named(head) if self._names else head.client

    def owner(self, head: RequestHeaders) -> str:
        """Whose jobs this request may see: those of its key's name, or all ("") where there are no keys."""
        return self._named(head) if self._names else ""

    def _named(self, head: RequestHeaders) -> str:
        key = _shown_key(head)
        shown, found = sha256(key).digest(), ""
        # Every digest is compared, so that the time taken says nothing of which one matched.
        for digest, client in self._names:
            if hmac.compare_digest(shown, digest):
                found = client
        if not found or not key:
            detail = "a valid API key is needed: send Authorization: Bearer KEY, or X-API-Key: KEY"
            raise Problem(401, detail, headers=((b"www-authenticate", b"Bearer"),))
        return found


def key_name(client: str) -> str:
    """The name of the key behind a client; "" for a client without one."""
    return client[4:] if client.startswith("key:") else ""


def _shown_key(head: RequestHeaders) -> bytes:
    scheme, _, token = head.found.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token:
        return token.strip()
    return head.found.get(b"x-api-key", b"")
