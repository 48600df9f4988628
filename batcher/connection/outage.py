"""Detects outages of Redis and logs each one when it begins, when its reason changes, and when it ends."""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from random import SystemRandom
from typing import Literal

import redis

# Not the global generator of `random`: a program that seeds it would make all its processes act in step.
RANDOM = SystemRandom()
# A random factor between two bounds, so that many processes do not act at the same moment.
jitter = RANDOM.uniform

log = logging.getLogger(__name__)

REDIS_ERRORS = (redis.exceptions.RedisError, OSError)
ClusterCrossSlotError = redis.exceptions.ClusterCrossSlotError
NoScriptError = redis.exceptions.NoScriptError
# With these, a server says why it does not do what it is asked.
_ANSWERS = (redis.exceptions.ResponseError, redis.exceptions.AuthenticationError)
# Time between retries during an outage: at first, and at most.
RETRY_S = 0.1
RETRY_MAX_S = 1.0
# Where the error of a server begins: Redis 6 puts it inside that of a script, redis-py behind the command of
# a pipeline.
_BEGIN = r"(?:^|-|caused error: )"
# Errors of a server that cannot run the command while another one can: it has become a replica, is out of
# date, is loading, has too few replicas (`min-replicas-to-write`: perhaps they follow another master by now),
# or its cluster has no quorum.
_ELSEWHERE = re.compile(_BEGIN + r"(READONLY|MASTERDOWN|LOADING|NOREPLICAS|CLUSTERDOWN|UNBLOCKED) ")
_FULL = re.compile(f"{_BEGIN}OOM ")
FULL = "Redis is full and stores nothing new: delete jobs that have ended, or raise its maxmemory"
# What Redis says of itself in replies to all writes, or to all commands, and what to do about it.
_STATES = {
    "MISCONF": "Redis refuses writes because it cannot save its data (MISCONF): look at its disk and its log",
    "BUSY": "Redis is busy with the script of a client (BUSY): SCRIPT KILL ends it",
}
_STATE = re.compile(f"{_BEGIN}({'|'.join(_STATES)}) ")
NO_ANSWER = "Redis does not answer"
REFUSED = "Redis refused to queue the text; try again"
# An error may contain the address of another server: MOVED 3999 10.0.0.7:6379.
_ADDRESS = re.compile(r"\S+:\d{1,5}\b")


def elsewhere(answer: object) -> bool:
    """Whether this reply means that another server has to be used, which the name may resolve to by now.

    The connection must then be closed, or it would stay with this server forever.
    """
    kinds = (redis.exceptions.ReadOnlyError, redis.exceptions.ClusterDownError)
    if isinstance(answer, kinds):
        return True
    return isinstance(answer, redis.exceptions.ResponseError) and bool(_ELSEWHERE.search(str(answer)))


def moved(answer: object) -> bool:
    """Whether this reply of a node means that the slot of the keys is elsewhere, or on its way there."""
    return isinstance(answer, (redis.exceptions.AskError, redis.exceptions.TryAgainError))  # and MovedError


def lost_to(answer: Exception) -> redis.exceptions.ConnectionError:
    """The error to raise instead of such a reply."""
    lost = redis.exceptions.ConnectionError(f"this server cannot be used now: {answer}")
    lost.__cause__ = answer
    return lost


def refused(error: BaseException | None) -> bool:
    """Whether Redis answered with an error, so that it is not lost."""
    return isinstance(error, redis.exceptions.ResponseError)


def full(error: BaseException | None) -> bool:
    """Whether Redis refused a command because it has no memory left."""
    known = isinstance(error, redis.exceptions.OutOfMemoryError)
    return known or (refused(error) and bool(_FULL.search(str(error))))


def refused_cache(error: BaseException | None) -> bool:
    """Whether an enqueue may have failed because of a cache key that is forbidden or on another server.

    The script reads cache keys before it writes anything, so it is safe to run again without them.
    """
    return refused(error) and not full(error)


def refused_to_all(error: BaseException) -> str:
    """Why Redis refuses a command to every client for now; "" if that is not so."""
    if full(error):
        return FULL
    state = _STATE.search(str(error)) if refused(error) else None
    return _STATES[state[1]] if state else ""


def unavailable(error: BaseException) -> str:
    """What to say to a client of a command that failed: that Redis does not answer, or what it answers."""
    return refused_to_all(error) or NO_ANSWER


def reason(error: BaseException) -> str:
    """Describes an error for the log, without the address or the user of Redis.

    Server errors keep their message; connection errors become their class and the message of the system.
    """
    if isinstance(error.__cause__, redis.exceptions.ResponseError):
        error = error.__cause__
    kind = type(error).__name__
    if isinstance(error, redis.exceptions.ResponseError):
        return f"{kind}: {_ADDRESS.sub('...', str(error))}"
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__cause__ or seen.__context__
    return f"{kind}: {message}" if (message := _system_message(seen)) else kind


def _system_message(error: OSError | None) -> str:
    if isinstance(error, ssl.SSLError):
        return str(error.reason or "")
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    return os.strerror(error.errno) if error is not None and error.errno else ""


class Outage:
    """Whether a Redis is unavailable, since when, why, and how often it was. One for each Redis of a process.

    `reason` is for the log, and `said` for clients.

    `now` is a clock in seconds.
    """

    def __init__(
        self, what: Literal["redis", "cache"] = "redis", now: Callable[[], float] = time.monotonic
    ) -> None:
        self.over = True
        self.count = 0
        self.reason = ""
        self.said = NO_ANSWER
        self.now = now
        self._what = what
        self._since = 0.0
        # That of the last error that was logged.
        self._kind: type[BaseException] | None = None

    @property
    def seconds(self) -> float:
        """How long the outage has lasted; 0 if there is none."""
        return 0.0 if self.over else self.now() - self._since

    @property
    def pause_s(self) -> float:
        """How long to wait before the next retry, growing with the length of the outage."""
        return min(max(RETRY_S, self.seconds / 8), RETRY_MAX_S) * jitter(0.8, 1.2)

    def lost(self, error: BaseException) -> None:
        """Reports that Redis did not answer, or what it answered: a wrong password may follow a failover."""
        kind = type(error)
        if self.over:
            self.over = False
            self._since = self.now()
            self.count += 1
        elif kind is self._kind or not issubclass(kind, _ANSWERS):
            return
        self._kind = kind
        self.reason, self.said = reason(error), unavailable(error)
        log.error("%s is unavailable: %s", self._what, self.reason, extra={"action": f"{self._what}.lost"})

    def found(self) -> None:
        """Reports that Redis answered."""
        if not self.over:
            away_s = round(self.seconds, 3)
            self.over = True
            extra = {"action": f"{self._what}.back", "away_s": away_s}
            log.warning("%s is available again", self._what, extra=extra)
