"""What the connections of one process share: bounds on what they hold together, and a reserve for probes.

Each connection has bounds of its own; ten thousand of them need one for the sum of bodies not yet read, and
one for that of answers not yet sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Generic, Protocol, TypeVar

# Connections beyond the limit, for probes alone.
RESERVE = 64
# Where all connections were busy, nobody looks again for so long: it means looking at each of them.
ALL_BUSY_S = 0.05
# Under this key of the server's state connections find the one they share.
BACKLOG = "backlog"
# Bytes of bodies that have arrived and that the application has not taken.
UNREAD_BYTES = 24 * 1024**2
# Adding them up looks at every connection that has some, so it is done no more often than this.
ADDED_UP_S = 0.01
# Bytes of answers that the application has given and that clients have not taken.
UNSENT_BYTES = 32 * 1024**2


class Peer(Protocol):
    """A connection. `unread_bytes` is what it holds of a body at this moment."""

    @property
    def unread_bytes(self) -> int: ...


P = TypeVar("P", bound=Peer)


class Backlog(Generic[P]):
    """Shared by all connections of a process."""

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
        """Whether all connections were busy a moment ago."""
        return monotonic() < self._all_busy_until

    @all_busy.setter
    def all_busy(self, said: bool) -> None:
        self._all_busy_until = monotonic() + ALL_BUSY_S if said else 0.0

    def reserve(self, peer: P) -> list[P]:
        """Gives it a place in the reserve. Returns the connection to end for that, the oldest one there."""
        self._reserve[peer] = None
        if len(self._reserve) <= RESERVE:
            return []
        oldest = next(iter(self._reserve))
        del self._reserve[oldest]
        return [oldest]

    def unread(self, peer: P, size: int) -> bool:
        """Notes that `size` bytes of a body have arrived. False where there is no room for them.

        Nothing says when the application takes them: they are added up anew once enough has arrived to be
        over the limit.
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
        """Notes that a client has so much of an answer to take. Gives those to end: the longest waiting."""
        self.sent(peer)
        self._unsent[peer] = (size, monotonic())
        self._unsent_bytes += size
        while self._unsent_bytes > self._most_unsent:
            longest = next(iter(self._unsent))
            self.sent(longest)
            yield longest

    def sent(self, peer: P) -> None:
        """Notes that it has taken enough of it."""
        size, _ = self._unsent.pop(peer, (0, 0.0))
        self._unsent_bytes -= size

    def stalled(self, seconds: float) -> list[P]:
        """Clients that have taken nothing for so long, the longest first."""
        until = monotonic() - seconds
        return [peer for peer, (_, since) in self._unsent.items() if since < until]

    def forget(self, peer: P) -> None:
        """The connection is gone."""
        self._unread.discard(peer)
        self._reserve.pop(peer, None)
        self.sent(peer)
