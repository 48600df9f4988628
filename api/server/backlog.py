"""State shared by the connections of one process: memory bounds, and reserved connections for probes.

Each connection has its own bounds. With ten thousand connections, the total of bodies that have not been read
and of responses that have not been sent must also be bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Generic, Protocol, TypeVar

# Connections beyond the limit that may only be used for probes.
RESERVE = 64
# After finding all connections busy, wait this long before searching again: a search visits all of them.
ALL_BUSY_S = 0.05
# The key under which connections find the shared backlog in the server's state.
BACKLOG = "backlog"
# The most bytes of bodies that have arrived but that the application has not read.
UNREAD_BYTES = 24 * 1024**2
# Summing up the unread bytes visits every connection that has some, so wait at least this long in between.
ADDED_UP_S = 0.01
# The most bytes of responses that the application has sent but that clients have not read.
UNSENT_BYTES = 32 * 1024**2


class Peer(Protocol):
    """A connection. `unread_bytes` is the size of the unread bodies that it holds at the moment."""

    @property
    def unread_bytes(self) -> int: ...


P = TypeVar("P", bound=Peer)


class Backlog(Generic[P]):
    """Tracks the unread bodies, the unsent responses and the reserved connections of a process."""

    def __init__(self, unread_bytes: int = UNREAD_BYTES, unsent_bytes: int = UNSENT_BYTES) -> None:
        self._most_unread = unread_bytes
        self._most_unsent = unsent_bytes
        self._arrived = 0
        self._added_up_at = 0.0
        self._unread: set[P] = set()
        self._unsent: dict[P, tuple[int, float]] = {}
        self._unsent_bytes = 0
        self._reserve: dict[P, None] = {}
        self._all_busy_until = 0.0

    @property
    def all_busy(self) -> bool:
        """Whether the last search, less than ALL_BUSY_S ago, found all connections busy."""
        return monotonic() < self._all_busy_until

    def searched(self, *, found: bool) -> None:
        """Notes whether a search has found a connection that is not busy."""
        self._all_busy_until = 0.0 if found else monotonic() + ALL_BUSY_S

    def reserve(self, peer: P) -> list[P]:
        """Adds a reserved connection. If there are too many, returns the oldest one, to be closed."""
        self._reserve[peer] = None
        if len(self._reserve) <= RESERVE:
            return []
        oldest = next(iter(self._reserve))
        del self._reserve[oldest]
        return [oldest]

    def unread(self, peer: P, size: int) -> bool:
        """Notes that `size` bytes of a body have arrived. Returns False if they exceed the limit.

        The application does not report when it reads them, so the actual total is only computed once the
        bytes that have arrived exceed the limit.
        """
        self._unread.add(peer)
        self._arrived += size
        if self._arrived <= self._most_unread:
            return True
        now = monotonic()
        if now - self._added_up_at < ADDED_UP_S:
            return False
        self._added_up_at = now
        self._unread = {one for one in self._unread if one.unread_bytes}
        self._arrived = sum(one.unread_bytes for one in self._unread)
        return self._arrived <= self._most_unread

    def unsent(self, peer: P, size: int) -> Iterator[P]:
        """Notes that a client has `size` bytes of a response to read.

        Yields the connections to close while the total is above the limit, longest waiting first.
        """
        self.sent(peer)
        self._unsent[peer] = (size, monotonic())
        self._unsent_bytes += size
        while self._unsent_bytes > self._most_unsent:
            longest = next(iter(self._unsent))
            self.sent(longest)
            yield longest

    def sent(self, peer: P) -> None:
        """Notes that the client has read most of its response."""
        size, _ = self._unsent.pop(peer, (0, 0.0))
        self._unsent_bytes -= size

    def stalled(self, seconds: float) -> list[P]:
        """Connections whose response has been waiting for more than `seconds`, longest waiting first."""
        until = monotonic() - seconds
        return [peer for peer, (_, since) in self._unsent.items() if since < until]

    def forget(self, peer: P) -> None:
        """Removes a closed connection."""
        self._unread.discard(peer)
        self._reserve.pop(peer, None)
        self.sent(peer)
