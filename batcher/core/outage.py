"""What counts as an outage of Redis, and the outage: logged once at its loss and once at its return."""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import ssl
import time
from typing import Literal

import redis

log = logging.getLogger(__name__)

REDIS_ERRORS = (redis.exceptions.RedisError, OSError)
ClusterCrossSlotError = redis.exceptions.ClusterCrossSlotError
# Between two tries while Redis is away: at first, and once it has been away for long.
RETRY_S = 0.1
RETRY_MOST_S = 1.0
# A server says so when it cannot do what it is asked for, and another can: it has become a replica, is not up
# to date, still loads, or its cluster has no quorum. In Redis 6 it stands within the error of a script.
_ELSEWHERE = re.compile(r"(^|-)(READONLY|MASTERDOWN|LOADING|CLUSTERDOWN|UNBLOCKED) ")
# What a server answers may name another one: MOVED 3999 10.0.0.7:6379.
_ADDRESS = re.compile(r"\S+:\d{1,5}\b")


def elsewhere(answer: object) -> bool:
    """Whether this answer says that another server has to be asked: the name may lead to that one by now.

    The connection that it came over must be closed. It would stay with this server, for ever.
    """
    kinds = (redis.exceptions.ReadOnlyError, redis.exceptions.ClusterDownError)
    if isinstance(answer, kinds):
        return True
    return isinstance(answer, redis.exceptions.ResponseError) and bool(_ELSEWHERE.search(str(answer)))


def lost_to(answer: Exception) -> redis.exceptions.ConnectionError:
    """What is raised in place of such an answer. Raise it from the answer."""
    return redis.exceptions.ConnectionError(f"this server cannot be used now: {answer}")


def reason(error: BaseException) -> str:
    """What went wrong, for the log: where Redis is, and as whom it is asked, stay out of it.

    What a server answers is said as it is; of a connection its class and what the system says of it.
    """
    if isinstance(error.__cause__, redis.exceptions.ResponseError):
        error = error.__cause__
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

    @property
    def pause_s(self) -> float:
        """How long to wait before the next try: the longer, the longer it has been away."""
        return min(max(RETRY_S, self.seconds / 8), RETRY_MOST_S) * random.uniform(0.8, 1.2)

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
