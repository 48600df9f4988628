"""Records a request once it has been answered: metrics, usage, a log line, the console's memory."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from time import perf_counter
from typing import Any, NamedTuple

from api.asgi.http import client_address
from api.metrics import Metrics
from api.predict.request import RequestContext
from api.traffic import Traffic
from batcher.logs import Frequent
from batcher.lookup.queue import LookupResult

# How many are kept: that caches answered, that workers answered, and that failed or took over SLOW_S.
MAX_HITS = 1000
MAX_ANSWERS = 5000
MAX_SLOW = 5000
SLOW_S = 1.0
# The memory of answers, and of slow ones: what a request takes, each batch of its texts, and each id of one.
MAX_BYTES = 8 * 1024**2
SEEN_BYTES = 1200
RUN_BYTES = 400
ENTRY_BYTES = 100
# About how many texts of one request a worker may be asked.
MAX_TEXTS = 64


class Run(NamedTuple):
    """The texts of a request that were in one batch. `entry` is the id of one of them."""

    entry: str
    texts: int
    tokens: int
    queue_ms: float
    tokenize_ms: float
    model_ms: float
    size: int
    revision: str


class Lookup(NamedTuple):
    """How far the lookup got. `asked` texts went to the queue after `asked_s`. `runs` are fields of `Run`.

    `entries` are ids of some of them, if no worker answered; otherwise each run has one.
    """

    local: int
    shared: int
    asked: int
    asked_s: float
    runs: Sequence[tuple[Any, ...]]
    entries: Sequence[str]


class Seen(NamedTuple):
    """One request. `started` is by perf_counter; `name` is that of its key, and `address` from its scope."""

    request_id: bytes
    started: float
    seconds: float
    status: int
    name: str
    address: Any
    texts: int
    tokens: int
    code: str = ""
    lookup: tuple[Any, ...] | None = None
    size: int = SEEN_BYTES


# Requests as the fields of `Seen`, `Lookup` and `Run`; of a hit, the first ones. Plain tuples are made in a
# fraction of the time.
Kept = deque[tuple[Any, ...]]


class _Bounded:
    """The last requests, `most` at most, that take MAX_BYTES at most; the newest is always kept."""

    def __init__(self, most: int) -> None:
        self.seen: Kept = deque()
        self.most = most
        self._bytes = 0

    def append(self, seen: tuple[Any, ...]) -> None:
        self.seen.append(seen)
        self._bytes += seen[-1]
        while len(self.seen) > 1 and (len(self.seen) > self.most or self._bytes > MAX_BYTES):
            self._bytes -= self.seen.popleft()[-1]

    def clear(self) -> None:
        self.seen.clear()
        self._bytes = 0


class RecentRequests:
    """The last requests of this process. Hits, answers and slow ones have separate limits."""

    def __init__(self) -> None:
        self._hits: Kept = deque(maxlen=MAX_HITS)
        self._answers = _Bounded(MAX_ANSWERS)
        self._slow = _Bounded(MAX_SLOW)

    def add(self, context: RequestContext, status: int, seconds: float) -> None:
        """Remembers a request that has been answered."""
        headers = context.headers
        answer = context.answer
        client = headers.client_name, headers.scope.get("client")
        counts = len(context.texts), context.tokens
        hit = (headers.request_id, context.started, seconds, status, *client, *counts)
        slow = status >= 400 or seconds > SLOW_S
        if context.hit and not slow and answer is None:
            self._hits.append(hit)
            return
        lookup, size = None, SEEN_BYTES
        if answer is not None and answer.ids:
            runs = _runs(answer)
            entries = list(islice(answer.ids.values(), MAX_TEXTS)) if answer.asked and not runs else []
            found = answer.outcomes.get("hit_local", 0), answer.outcomes.get("hit_shared", 0)
            lookup = (*found, answer.asked, answer.asked_at - context.started, runs, entries)
            size += len(runs) * RUN_BYTES or len(entries) * ENTRY_BYTES
        seen = (*hit, context.code, lookup, size)
        (self._slow if slow else self._hits if context.hit else self._answers).append(seen)

    def clear(self) -> None:
        """Forgets everything."""
        for kept in (self._hits, self._answers, self._slow):
            kept.clear()

    def find(self, request_id: str) -> dict[str, Any] | None:
        """What is known about a request, in JSON; about the newest one with this id."""
        wanted = request_id.encode()
        every = (*self._hits, *self._answers.seen, *self._slow.seen)
        same = [Seen(*seen) for seen in every if seen[0] == wanted]
        return _facts(max(same, key=lambda seen: seen.started)) if same else None


def _runs(answer: LookupResult) -> list[tuple[Any, ...]]:
    """One for each batch, whose texts share the time of the forward pass."""
    if len(answer.computed) == 1:
        return [_run(answer, list(answer.computed))]
    batches: dict[tuple[float, int], list[str]] = {}
    for text, one in answer.computed.items():
        batches.setdefault((one.model_ms, one.batch_size), []).append(text)
    runs = []
    for (_, size), texts in batches.items():
        # Texts beyond the size of a batch ran in several batches that took equally long. Only the worker
        # knows in which one each ran.
        runs += [_run(answer, [text]) for text in texts] if len(texts) > size else [_run(answer, texts)]
    return runs


def _run(answer: LookupResult, texts: list[str]) -> tuple[Any, ...]:
    one = answer.computed[texts[0]]
    tokens = sum([answer.computed[text].tokens for text in texts])
    times = one.queue_ms, one.tokenize_ms, one.model_ms
    return (answer.ids[texts[0]], len(texts), tokens, *times, one.batch_size, one.revision)


def _facts(seen: Seen) -> dict[str, Any]:
    received = time.time() - (time.perf_counter() - seen.started)
    facts: dict[str, Any] = {
        "request_id": seen.request_id.decode("ascii"),
        "received_at": datetime.fromtimestamp(received, UTC).isoformat(timespec="milliseconds"),
        "ms": round(seen.seconds * 1e3, 3),
        "client": f"key:{seen.name}" if seen.name else client_address({"client": seen.address}),
        **{name: getattr(seen, name) for name in ("status", "code", "texts", "tokens")},
    }
    lookup = Lookup(*(seen.lookup or (seen.texts if seen.status < 400 else 0, 0, 0, 0.0, (), ())))
    runs = [Run(*run) for run in lookup.runs]
    facts |= {"local": lookup.local, "shared": lookup.shared, "asked": lookup.asked}
    entries = [run.entry for run in runs[:MAX_TEXTS]] or lookup.entries
    facts |= {"asked_ms": round(lookup.asked_s * 1e3, 3), "entries": list(entries)}
    return facts | {"runs": [run._asdict() for run in runs]}


log = logging.getLogger(__name__)

# Requests that got no answer of a model, so that their texts do not count as used.
NOT_ANSWERED = (429, 503)


class RequestLog:
    """Counts, remembers and logs requests for predictions. It does nothing before the answer is sent."""

    def __init__(self, metrics: Metrics, traffic: Traffic) -> None:
        self.recent = RecentRequests()
        self._metrics = metrics
        self._traffic = traffic
        self._lines = Frequent(log, "request")

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
            metrics.entries("hit_local", len(context.texts))
        client = context.client or client_address(context.headers.scope)
        used = 0 if status in NOT_ANSWERED else context.used
        hits = _known(context.texts, context.answer) if used and context.answer else used
        self._traffic.count(client, used, hits, context.tokens, status)
        self.recent.add(context, status, seconds)
        level = logging.DEBUG if context.hit else logging.INFO
        if log.isEnabledFor(level):
            self._lines.add(level, _fields(context, route, status, seconds))


def _known(texts: Sequence[str], answer: LookupResult) -> int:
    """How many of the texts a cache knew."""
    known = answer.by_text.keys() - answer.computed.keys()
    return sum([text in known for text in texts])


def _fields(context: RequestContext, route: str, status: int, seconds: float) -> dict[str, object]:
    fields: dict[str, object] = {
        "request_id": context.headers.id,
        "route": route,
        "status": status,
        "ms": round(seconds * 1e3, 3),
        "texts": len(context.texts),
        "computed": context.computed,
    }
    if context.headers.client_name:
        fields["client"] = context.headers.client_name
    if context.code:
        fields["code"] = context.code
    if context.entry:
        fields["entry"] = context.entry
    return fields
