"""What is known of a request while it is answered, and afterwards for its log line and the counters."""

from __future__ import annotations

from time import perf_counter

from api.asgi.http import RequestHeaders
from api.predict.found import LookupResult


class RequestContext:
    """The state of a request, and the data for its log line. `started` is a time of perf_counter."""

    __slots__ = ("by_score", "computed", "found", "headers", "known", "started", "texts", "tokens")

    def __init__(self, headers: RequestHeaders) -> None:
        self.started = perf_counter()
        self.headers = headers
        self.texts: list[str] = []
        self.known = False
        self.computed = 0
        # What the lookup found, if the in-process cache did not know all texts.
        self.found: LookupResult | None = None
        self.tokens = 0
        self.by_score = False
