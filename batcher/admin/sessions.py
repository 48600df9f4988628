"""Sessions of operators in browsers, and the links that begin one. Redis has only digests of the secrets."""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import cast

import redis

from batcher.core.keys import prefix

LINK_S = 600
SESSION_S = 12 * 3600
# `secrets.token_urlsafe` makes this many characters of so many bytes.
_BYTES = 32
_CHARACTERS = 43


class SessionStore:
    """The links and sessions of one service. An operator is any text that the caller chooses."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._prefix = prefix(name)

    def offer(self, operator: str) -> str:
        """The secret of a new link, which begins one session within LINK_S."""
        return self._keep("link", operator, LINK_S)

    def redeem(self, link: str) -> str:
        """The operator of a link, which ends with that; "" for an unknown one."""
        if len(link) != _CHARACTERS:
            return ""
        pipe = self._client.pipeline()  # a transaction: two callers at once cannot both find it
        pipe.get(key := self._key("link", link))
        pipe.delete(key)
        return _text(pipe.execute()[0])

    def begin(self, operator: str) -> str:
        """The secret of a new session, which ends after SESSION_S."""
        return self._keep("session", operator, SESSION_S)

    def operator(self, session: str) -> str:
        """The operator of a session; "" for an unknown one."""
        if len(session) != _CHARACTERS:
            return ""
        return _text(cast("bytes | None", self._client.get(self._key("session", session))))

    def end(self, session: str) -> None:
        self._client.delete(self._key("session", session))

    def _keep(self, kind: str, operator: str, for_s: int) -> str:
        secret = secrets.token_urlsafe(_BYTES)
        self._client.set(self._key(kind, secret), operator, ex=for_s)
        return secret

    def _key(self, kind: str, secret: str) -> str:
        return f"{self._prefix}:{kind}:{sha256(secret.encode()).hexdigest()}"


def _text(operator: bytes | None) -> str:
    return "" if operator is None else operator.decode("utf-8", "replace")
