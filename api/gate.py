"""Refuses requests of clients that an operator holds back, and of keys whose quota is used up."""

from __future__ import annotations

from api.backend import Hub
from api.errors import Problem
from api.traffic import Traffic


class Gate:
    """Checks a client. It costs nothing unless there is a hold or a quota."""

    def __init__(self, hub: Hub, traffic: Traffic) -> None:
        self._hub = hub
        self._traffic = traffic

    @property
    def checks(self) -> bool:
        """Whether there is anything to check."""
        return self._traffic.has_quotas or bool(self._hub.snapshot.holds)

    def check(self, client: str) -> None:
        """Raises Problem 429 `client_paused` or `quota_exceeded`."""
        hold = self._hub.snapshot.holds.get(client)
        if hold is not None and hold.what == "all" and (left_s := hold.left_s):
            raise _paused("requests", left_s)
        self._traffic.check_quota(client)

    def sheds(self, client: str) -> bool:
        """Whether texts of this client that no cache knows are refused."""
        hold = self._hub.snapshot.holds.get(client)
        return hold is not None and hold.left_s > 0

    def check_uncached(self, client: str) -> None:
        """Raises Problem 429 `client_paused` for texts that no cache knows."""
        hold = self._hub.snapshot.holds.get(client)
        if hold is not None and (left_s := hold.left_s):
            raise _paused("new texts", left_s)


def _paused(what: str, left_s: float) -> Problem:
    detail = f"an operator has paused {what} of this client"
    return Problem(429, detail, code="client_paused", retry_after_s=left_s)
