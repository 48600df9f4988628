"""Who may ask, and how much one client may have waiting. Both are off unless the settings say otherwise."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256

from api.errors import Problem
from api.wire import Head

# What stays open when API keys are set: probes, scrapes and the description of the service.
OPEN_PATHS = frozenset(("/health", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/"))
# The files of the page.
OPEN_PREFIX = "/static/"


class Keys:
    """Accepted API keys, known only by their SHA-256 digests."""

    def __init__(self, digests: Iterable[str]) -> None:
        self._digests = [bytes.fromhex(digest) for digest in digests]

    def client(self, head: Head) -> str:
        """Who asks: the start of the key's digest, else the address. Raises Problem 401."""
        if not self._digests:
            return head.client
        shown = sha256(_shown_key(head)).digest()
        # Every digest is compared, so that the time taken says nothing of which one matched.
        if sum([hmac.compare_digest(shown, digest) for digest in self._digests]):
            return f"key:{shown.hex()[:12]}"
        raise Problem(401, "a valid API key is needed", headers=((b"www-authenticate", b"Bearer"),))


def _shown_key(head: Head) -> bytes:
    scheme, _, token = head.found.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and token:
        return token.strip()
    return head.found.get(b"x-api-key", b"")


class ClientCap:
    """Texts that each client has waiting, and the most it may. 0: no limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[str, int] = {}

    @contextmanager
    def hold(self, client: str, texts: int) -> Iterator[None]:
        """Counts `texts` for as long as they wait. Raises Problem 429 `client_limit`."""
        if not self._most:
            yield
            return
        waiting = self._waiting.get(client, 0)
        if waiting + texts > self._most:
            detail = f"{waiting} of at most {self._most} texts of this client are waiting already"
            raise Problem(429, detail, code="client_limit")
        self._waiting[client] = waiting + texts
        try:
            yield
        finally:
            left = self._waiting[client] - texts
            if left:
                self._waiting[client] = left
            else:
                del self._waiting[client]
