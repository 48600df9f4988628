"""API keys identify clients. Jobs, limits, metrics and log lines belong to the name of a key.

Several keys may share a name, so that keys can be rotated. Only the SHA-256 digests of keys are configured.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from hashlib import sha256

from api.asgi.http import RequestHeaders, client_address
from api.errors import Problem

# The digests of an unset shell variable, as `printf` and `echo` pass it to `sha256sum`.
_EMPTY = frozenset(sha256(nothing).hexdigest() for nothing in (b"", b"\n"))
# A key without a name is named after this many digits of its digest.
DERIVED = 12
_key = re.compile(r"(?:([A-Za-z0-9][A-Za-z0-9._-]{0,63}):)?([0-9a-fA-F]{64})").fullmatch
_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch


def new_key() -> str:
    return secrets.token_urlsafe(32)


def key_setting(name: str, key: str) -> str:
    """A key as settings have it."""
    return f"{name}:{sha256(key.encode()).hexdigest()}"


def parse_keys(value: str) -> dict[str, str]:
    """Parses a comma-separated list of `name:digest` or `digest` into digest -> name. Raises ValueError."""
    names: dict[str, str] = {}
    for entry in filter(None, map(str.strip, value.split(","))):
        match = _key(entry)
        if match is None:
            raise ValueError(
                "each API key must be NAME:DIGEST, separated by commas: a name of letters, digits, "
                "'.', '_' and '-', and the SHA-256 digest, 64 hex digits; `millrace key new NAME` prints both"
            )
        digest = match[2].lower()
        name = match[1] or digest[:DERIVED]
        if digest in _EMPTY:
            raise ValueError(
                "one of these is the digest of an empty key, such as an unset shell variable; "
                "`millrace key new NAME` creates a key and prints its digest"
            )
        if names.setdefault(digest, name) != name:
            raise ValueError(f"the same key has the names {names[digest]} and {name}")
    return names


def parse_quotas(value: str) -> dict[str, int]:
    """Parses a comma-separated list of `name=texts` into name -> texts. Raises ValueError."""
    quotas: dict[str, int] = {}
    for entry in filter(None, map(str.strip, value.split(","))):
        name, _, texts = (part.strip() for part in entry.partition("="))
        if not valid_name(name) or not re.fullmatch(r"[1-9][0-9]{0,11}", texts, re.ASCII):
            raise ValueError(f"{entry!r} must be the name of a key and a number of texts: web=100000")
        quotas[name] = int(texts)
    return quotas


def valid_name(name: str) -> bool:
    """Whether `name` is allowed as the name of a key."""
    return _name(name) is not None


class Keys:
    """The accepted API keys, as digest (hex) -> name. If there are none, every request is accepted."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._digests = list(map(bytes.fromhex, names))

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return bool(self._names)

    def client(self, headers: RequestHeaders) -> str:
        """The client: `key:` and the name of its key, or its address without keys. Raises Problem 401."""
        return self._key_client(headers) if self._names else client_address(headers.scope)

    def owner(self, headers: RequestHeaders) -> str:
        """The owner whose jobs this request may see: `key:` and the key's name, or "" (all) without keys."""
        return self._key_client(headers) if self._names else ""

    def find(self, headers: RequestHeaders) -> str:
        """The digest in hex of the key that the request shows, if it is one of these; "" for others."""
        key = given_key(headers)
        given = sha256(key).digest()
        # Compare with every digest, so that the time taken does not reveal which one matched.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return given.hex() if key and any(matches) else ""

    def _key_client(self, headers: RequestHeaders) -> str:
        digest = self.find(headers)
        if not digest:
            raise unauthorized("a valid API key is required")
        return f"key:{self._names[digest]}"


def unauthorized(detail: str) -> Problem:
    """A 401 that says how to send a key."""
    detail += ": send Authorization: Bearer KEY, or X-API-Key: KEY"
    return Problem(401, detail, headers=((b"www-authenticate", b"Bearer"),))


def key_name(client: str) -> str:
    """The name of the client's key; "" for a client without a key."""
    return client[4:] if client.startswith("key:") else ""


def given_key(headers: RequestHeaders) -> bytes:
    """The key that the request shows, valid or not; empty without one."""
    scheme, _, token = headers.by_name.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token:
        return token.strip()
    return headers.by_name.get(b"x-api-key", b"")
