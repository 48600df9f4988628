"""Rate limits per client: sliding windows, which each process counts separately.

A sliding window is approximated by two counters, those of the current and of the previous fixed window. The
previous one is weighted by the part of it that the sliding window still covers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from api.errors import Problem

UNITS_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
# How many clients are counted per window. Beyond that, the oldest ones are forgotten.
MAX_CLIENTS = 100_000
_rate = re.compile(
    r"(\d{1,9}) ?(?:/|per) ?(\d{1,5})? ?(second|minute|hour|day)s?", re.IGNORECASE | re.ASCII
).fullmatch


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of requests per number of seconds, and the text of the setting."""

    requests: int
    seconds: float
    text: str


def parse_rate(rates: str) -> list[Rate]:
    """ "100/second", "20 per minute", or several: "20/second;500/minute". Raises ValueError."""
    return [_parse(part.strip()) for part in re.split("[;,|]", rates)] if rates.strip() else []


def _parse(text: str) -> Rate:
    found = _rate(text)
    if found is None or not int(found[1]) or found[2] == "0":
        raise ValueError("must be a number and a unit: 100/second, 20/second;500/minute")
    return Rate(int(found[1]), int(found[2] or 1) * UNITS_S[found[3].lower()], text)


class Windows:
    """The windows of one rate. Old windows are discarded when a request arrives, without a timer."""

    def __init__(self, rate: Rate, most_clients: int = MAX_CLIENTS) -> None:
        self._rate = rate
        self._most_clients = most_clients
        self._number = 0
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def wait_s(self, client: str, at: float) -> float:
        """Seconds until the client may send its next request; 0 if it may now. `at` must not go backwards."""
        number, into = divmod(at, self._rate.seconds)
        if number != self._number:
            self._before = self._now if number == self._number + 1 else {}
            self._now = {}
            self._number = int(number)
        now = self._now.get(client, 0)
        before = self._before.get(client, 0)
        room = self._rate.requests - 1 - now
        left = self._rate.seconds - into
        if before * left <= room * self._rate.seconds:
            return 0.0
        if room >= 0:
            return left - room * self._rate.seconds / before
        # The current window is full, so wait until enough of it has slid out of the next one.
        return left + self._rate.seconds * (1 - (self._rate.requests - 1) / now)

    def count(self, client: str) -> None:
        """Counts a request. Call `wait_s` first: it selects the window."""
        if client not in self._now and len(self._now) >= self._most_clients:
            del self._now[next(iter(self._now))]
        self._now[client] = self._now.get(client, 0) + 1


class RateCounter:
    """Counts the requests of each client. Without a rate there is no limit."""

    def __init__(self, rates: Sequence[Rate]) -> None:
        self._windows = [(rate, Windows(rate)) for rate in rates]

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return bool(self._windows)

    def count(self, client: str) -> None:
        """Counts a request. Above the limit, raises Problem 429 `rate_limited` and does not count it."""
        at = monotonic()
        for rate, windows in self._windows:
            if wait_s := windows.wait_s(client, at):
                detail = f"rate limit exceeded: each client may send {rate.text}"
                raise Problem(429, detail, code="rate_limited", retry_after_s=wait_s)
        for _, windows in self._windows:
            windows.count(client)
