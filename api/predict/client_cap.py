"""How many texts one client may have waiting, and which clients go first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from api.errors import Problem


class ClientCap:
    """Texts that each client has waiting, and the most it may (0: no limit)."""

    def __init__(self, most: int, first: int) -> None:
        self._most = most
        self._first = first
        self._waiting: dict[str, int] = {}

    def has_room(self, client: str, texts: int) -> bool:
        """Whether `hold` would let them in."""
        waiting = self._waiting.get(client, 0)
        return not (self._most and waiting and waiting + texts > self._most)

    @contextmanager
    def hold(self, client: str, texts: int) -> Iterator[bool]:
        """Counts `texts` for as long as they wait; says whether they go before those of heavier clients.

        Raises Problem 429 `client_limit`. One request is always taken: its size has a limit of its own.
        """
        waiting = self._waiting.get(client, 0)
        if not self.has_room(client, texts):
            detail = f"{waiting} of at most {self._most} texts of this client are waiting already"
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
