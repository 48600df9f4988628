"""An outage of Redis, told once at its loss and once at its return."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import time
from typing import Literal

import redis

log = logging.getLogger(__name__)

REDIS_ERRORS = (redis.exceptions.RedisError, OSError)
# Between two tries of a worker while Redis is away.
RETRY_S = 0.2
# What a server answers may name another one: MOVED 3999 10.0.0.7:6379.
_ADDRESS = re.compile(r"\S+:\d{1,5}\b")


def reason(error: BaseException) -> str:
    """What went wrong, for the log: where Redis is, and as whom it is asked, stay out of it.

    What a server answers is said as it is; of a connection its class and what the system says of it.
    """
    kind = type(error).__name__
    if isinstance(error, redis.exceptions.ResponseError):
        return f"{kind}: {_ADDRESS.sub('...', str(error))}"
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return f"{kind}: {said}" if (said := _said(seen)) else kind


def _said(error: OSError | None) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "")
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    return os.strerror(error.errno) if error is not None and error.errno else ""


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
            log.error("%s is lost: %s", self._what, reason(error), extra={"action": f"{self._what}.lost"})

    def found(self) -> None:
        """It answered."""
        if self._since is not None:
            away_s = round(self.seconds, 3)
            self._since = None
            log.warning("%s is back", self._what, extra={"action": f"{self._what}.back", "away_s": away_s})
