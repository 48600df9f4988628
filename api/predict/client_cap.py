"""Limits how many texts each client may have waiting, and decides which clients go first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from api.errors import Problem


class ClientCap:
    """Counts the waiting texts of each client. `most` is the limit (0: no limit).

    Clients with at most `first` waiting texts go before the others.
    """

    def __init__(self, most: int, first: int) -> None:
        self._most = most
        self._first = first
        self._waiting: dict[str, int] = {}

    @property
    def waiting(self) -> Mapping[str, int]:
        """The waiting texts of each client that has any."""
        return self._waiting

    def has_room(self, client: str, texts: int) -> bool:
        """Whether `hold` would accept these texts."""
        waiting = self._waiting.get(client, 0)
        return not (self._most and waiting and waiting + texts > self._most)

    @contextmanager
    def hold(self, client: str, texts: int) -> Iterator[bool]:
        """Counts texts while they wait. Yields whether they go before those of heavier clients.

        Raises Problem 429 `client_limit`. A client with nothing waiting is never refused, because the size of
        a single request is limited elsewhere.
        """
        waiting = self._waiting.get(client, 0)
        if not self.has_room(client, texts):
            detail = f"this client has {waiting} texts waiting already, of at most {self._most}"
            raise Problem(429, detail, code="client_limit")
        self._waiting[client] = waiting + texts
        try:
            yield waiting + texts <= self._first
        finally:
            left = self._waiting[client] - texts
            if left:
                self._waiting[client] = left
            else:
                del self._waiting[client]
