"""Who may ask, how often, and how much one client may have waiting.

Keys, rates and caps are off unless the settings say otherwise; fairness is always on: a client with little
waiting goes before one with much.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from api.asgi.wire import RequestHeaders
from api.errors import Problem
from api.keys import Keys
from api.rate_limit import RateCounter

# What stays open when API keys are set: probes, scrapes and the description of the service.
OPEN_PATHS = frozenset(("/health", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/"))
# The files of the page.
OPEN_PREFIX = "/static/"


class RateLimit:
    """Requests of each client, in sliding windows, counted by each process for itself. "" is no limit.

    `rate` is "100/second", or several: "20/second;500/minute".
    """

    def __init__(self, rate: str) -> None:
        self._counter = RateCounter(rate)

    def admit(self, keys: Keys, head: RequestHeaders) -> str:
        """Counts a request and says whose it is. Raises Problem 401, or 429: vain tries are counted, too."""
        try:
            client = keys.client(head)
        except Problem:
            self.count(head.client)
            raise
        self.count(client)
        return client

    def count(self, client: str) -> None:
        """Counts a request. Raises Problem 429 `rate_limited`."""
        self._counter.count(client)


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
