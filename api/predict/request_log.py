"""Records a request once it has been answered: metrics, usage, a log line, the console's memory."""

from __future__ import annotations

import logging
from time import perf_counter

from api.asgi.http import client_address
from api.metrics import Metrics
from api.predict.recent import RecentRequests
from api.predict.request import RequestContext
from api.traffic import Traffic

log = logging.getLogger(__name__)

# Requests whose texts were not looked up, so that they do not count as used.
REFUSED = (429, 503)


class RequestLog:
    """Counts, remembers and logs requests for predictions. It does nothing before the answer is sent."""

    def __init__(self, metrics: Metrics, traffic: Traffic) -> None:
        self.recent = RecentRequests()
        self._metrics = metrics
        self._traffic = traffic

    def add(self, context: RequestContext, route: str, status: int) -> None:
        """Notes an answered request. `route` is its path template, and 499 the status if the client left."""
        seconds = perf_counter() - context.started
        metrics = self._metrics
        metrics.request(route, status, seconds)
        name = context.headers.client_name
        if name:
            metrics.client(name, status)
        if context.answer is not None:
            for outcome, texts in context.answer.outcomes.items():
                metrics.entries(outcome, texts)
        elif context.hit:
            metrics.hit_local(len(context.texts))
        client = context.client or client_address(context.headers.scope)
        texts = 0 if status in REFUSED else len(context.texts)
        self._traffic.count(client, texts, texts - context.computed, context.tokens, status)
        self.recent.add(context, status, seconds)
        level = logging.DEBUG if context.hit else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "request", extra=_fields(context, route, status, seconds))


def _fields(context: RequestContext, route: str, status: int, seconds: float) -> dict[str, object]:
    optional = {"client": context.headers.client_name, "code": context.code, "entry": context.entry}
    return {
        "action": "request",
        "request_id": context.headers.id,
        "route": route,
        "status": status,
        "ms": round(seconds * 1e3, 3),
        "texts": len(context.texts),
        "computed": context.computed,
        **{key: value for key, value in optional.items() if value},
    }
