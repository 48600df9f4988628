"""An outage of Redis, told once at its loss and once at its return."""

from __future__ import annotations

import logging
import time
from typing import Literal

import redis

log = logging.getLogger(__name__)

REDIS_ERRORS = (redis.exceptions.RedisError, OSError)
# Between two tries of a worker while Redis is away.
RETRY_S = 0.2


class Outage:
    """Whether a Redis is away, since when, and how often it was: one for each that a process needs."""

    def __init__(self, what: Literal["redis", "cache"] = "redis") -> None:
        self.count = 0
        self._what = what
        self._since: float | None = None

    @property
    def over(self) -> bool:
        return self._since is None

    @property
    def seconds(self) -> float:
        """How long it has been away; 0 when it is there."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def lost(self, error: Exception) -> None:
        """It did not answer."""
        if self._since is None:
            self._since = time.monotonic()
            self.count += 1
            log.error("%s is lost: %s", self._what, error, extra={"action": f"{self._what}.lost"})

    def found(self) -> None:
        """It answered."""
        if self._since is not None:
            away_s = round(self.seconds, 3)
            self._since = None
            log.warning("%s is back", self._what, extra={"action": f"{self._what}.back", "away_s": away_s})
