"""POST /predict: the road of one request, from its bytes to its answer.

What happens in order: head -> body -> texts -> in-process cache -> (misses) -> answer. A request whose texts
are all known leaves after the in-process cache. No framework stands in its way: `Edge` calls this first.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Protocol, cast

from api.asgi.bodies import BodyReader
from api.asgi.wire import (
    CLOSE,
    JSON,
    NOSNIFF,
    Gone,
    LingeringClose,
    Preference,
    Receive,
    RequestHeaders,
    Scope,
    Send,
    check_encoding,
    check_json,
    check_length,
    send_answer,
    send_problem,
)
from api.auth import ClientCap, RateLimit
from api.backend import Cache, Hub, Models
from api.errors import Header, Problem, internal, problem_of
from api.keys import Keys, key_name
from api.lifecycle import Lifecycle
from api.metrics import Metrics
from api.origins import Origins
from api.predict.local_cache import CachedPrediction, LocalCache
from api.predict.lookup import LookupRequest, PredictionLookup
from api.predict.request import RequestReader
from api.predict.response import Answer, all_known, some_found
from api.settings import ApiSettings
from batcher.errors import BudgetExceeded, MillraceError, QueueFull

log = logging.getLogger(__name__)

ROUTE = "/predict"


class Deferral(Protocol):
    """Makes a job of a request (`Prefer: respond-async`): 202 and where to ask. May raise Problem."""

    async def __call__(self, head: RequestHeaders, texts: list[str]) -> Answer: ...


class RequestContext:
    """One request under way, and what its log line will say. `started` by perf_counter."""

    __slots__ = ("client", "computed", "head", "known", "started", "texts")

    def __init__(self, head: RequestHeaders) -> None:
        self.started = perf_counter()
        self.head = head
        self.client = ""
        self.texts: list[str] = []
        self.known = False
        self.computed = 0


class PredictHandler:
    """Answers POST /predict. An ASGI application; `deferral` is set by whoever serves jobs."""

    def __init__(
        self,
        settings: ApiSettings,
        hub: Hub,
        shared: Cache,
        local: LocalCache,
        metrics: Metrics,
        phase: Lifecycle,
    ) -> None:
        self.reader = RequestReader(settings.max_texts, settings.max_text_chars)
        self.models = Models(hub)
        self._bodies = BodyReader(settings.max_body_bytes, settings.body_timeout_s)
        self.deferral: Deferral | None = None
        self._settings = settings
        self._local = local
        self._metrics = metrics
        self._phase = phase
        self._keys = Keys(settings.key_names)
        self.rate = RateLimit(settings.rate_limit)
        self.origins = Origins(settings.host_names, settings.port)
        cap = ClientCap(settings.max_client_texts, settings.first_client_texts)
        self._misses = PredictionLookup(hub, shared, local, cap, metrics, settings.cache_ttl_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ask = RequestContext(RequestHeaders(scope))
        try:
            answer = await self._answer(ask, receive)
        except Gone:
            self._record(ask, 499, "client_gone")
        except (Exception, asyncio.CancelledError) as error:
            problem = self._problem(ask, error)
            problem.__traceback__ = None  # it holds the body, while the client takes its time
            self._record(ask, problem.status, problem.code, problem.entry)
            await send_problem(LingeringClose(send, receive), problem, ask.head.request_id)
        else:
            headers: list[Header] = [JSON, (b"x-request-id", ask.head.request_id), NOSNIFF, *answer.headers]
            if self._phase.draining:
                headers.append(CLOSE)  # or the next request may meet the end of this process
            await send_answer(send, answer.status, headers, answer.body)
            self._record(ask, answer.status)

    async def _answer(self, ask: RequestContext, receive: Receive) -> Answer:
        head = ask.head
        self.origins.check_host(head)
        self.origins.check_origin(head)
        ask.client = self.rate.admit(self._keys, head)
        check_length(head, self._bodies.limit)
        check_encoding(head)
        check_json(head)
        ask.texts = texts = self.reader.read(await self._bodies.read(receive))
        wishes = head.preference
        if wishes.respond_async and wishes.wait_s is None and self.deferral is not None:
            return await self.deferral(head, texts)
        before = perf_counter()
        revision = self.models.revision
        tenant = ask.client if self._settings.separate_clients else ""
        held = self._local.find(revision, texts, tenant)
        now = perf_counter()
        if None not in held:
            ask.known = True
            self._metrics.hit_local(len(held))
            known = cast("list[CachedPrediction]", held)
            answer = all_known(self.models, revision, known, now - before, now - ask.started)
            self._say_wait(wishes, answer)
            return answer
        until = before + self._budget_s(wishes)
        want = LookupRequest(texts, held, revision, ask.client, until, head.trace, tenant)
        return await self._some_unknown(ask, want, receive)

    async def _some_unknown(self, ask: RequestContext, want: LookupRequest, receive: Receive) -> Answer:
        wishes = ask.head.preference
        try:
            with self._bodies.hold(ask.texts):
                found = await self._misses.find(want, receive)
        except (BudgetExceeded, QueueFull):
            if wishes.respond_async and self.deferral is not None:
                return await self.deferral(ask.head, ask.texts)
            raise
        ask.computed = len(found.computed)
        ask.known = not found.computed
        answer = some_found(self.models, want, found, perf_counter() - ask.started)
        self._say_wait(wishes, answer)
        return answer

    def _budget_s(self, wishes: Preference) -> float:
        if wishes.wait_s is None:
            return self._settings.default_budget_s
        return min(wishes.wait_s, self._settings.max_budget_s)

    def _say_wait(self, wishes: Preference, answer: Answer) -> None:
        """An answer that came in time says which time that was."""
        if wishes.wait_s is not None:
            answer.headers.append((b"preference-applied", b"wait=%g" % self._budget_s(wishes)))

    def _problem(self, ask: RequestContext, error: BaseException) -> Problem:
        if isinstance(error, Problem):
            return error
        if isinstance(error, MillraceError):
            return problem_of(error)
        if isinstance(error, asyncio.CancelledError):
            if not self._phase.draining:
                raise error
            return Problem(503, "this process is stopping", code="draining", retry_after_s=1.0)
        log.error(
            "unexpected", exc_info=error, extra={"action": "request.crashed", "request_id": ask.head.id}
        )
        return internal()

    def _record(self, ask: RequestContext, status: int, code: str = "", entry: str = "") -> None:
        seconds = perf_counter() - ask.started
        self._metrics.request(ROUTE, status, seconds)
        name = key_name(ask.client)
        if name:
            self._metrics.client(name, status)
        level = logging.DEBUG if ask.known else logging.INFO
        if log.isEnabledFor(level):
            fields: dict[str, object] = {
                "action": "request",
                "request_id": ask.head.id,
                "route": ROUTE,
                "status": status,
                "ms": round(seconds * 1e3, 3),
                "texts": len(ask.texts),
                "computed": ask.computed,
            }
            if name:
                fields["client"] = name
            if code:
                fields["code"] = code
            if entry:
                fields["entry"] = entry
            log.log(level, "request", extra=fields)
