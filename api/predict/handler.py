"""POST /predict: handles a request from its bytes to the response.

The steps are: headers, body, texts, in-process cache, lookup of misses, response. If the in-process cache
knows all texts, the response follows at once. The request middleware calls this handler directly, without
FastAPI.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Protocol, cast

from starlette.requests import ClientDisconnect

from api.asgi.body import BodyReader, check_length
from api.asgi.headers import (
    CLOSE,
    Preference,
    Receive,
    RequestHeaders,
    Scope,
    Send,
    check_encoding,
    check_json,
)
from api.asgi.responses import JSON, NOSNIFF, Answer, LingeringClose, send_answer, send_problem
from api.auth import Authenticator
from api.errors import Header, Problem, internal, problem_of
from api.lifecycle import Lifecycle
from api.metrics import Metrics
from api.predict.local_cache import CachedPrediction
from api.predict.lookup import LookupRequest, PredictionLookup
from api.predict.request import RequestReader
from api.predict.response import all_known, some_found
from api.settings import ApiSettings
from batcher.errors import BudgetExceeded, MillraceError, QueueFull

log = logging.getLogger(__name__)

ROUTE = "/predict"


class Deferral(Protocol):
    """Turns a request into a job (`Prefer: respond-async`) and returns its location. May raise Problem."""

    async def __call__(self, headers: RequestHeaders, texts: list[str]) -> Answer: ...


class RequestContext:
    """The state of a request, and the data for its log line. `started` is a time of perf_counter."""

    __slots__ = ("client", "computed", "headers", "known", "started", "texts")

    def __init__(self, headers: RequestHeaders) -> None:
        self.started = perf_counter()
        self.headers = headers
        self.client = ""
        self.texts: list[str] = []
        self.known = False
        self.computed = 0


class PredictHandler:
    """An ASGI application that answers POST /predict. `deferral` turns requests into jobs."""

    def __init__(
        self,
        settings: ApiSettings,
        lookup: PredictionLookup,
        metrics: Metrics,
        lifecycle: Lifecycle,
        auth: Authenticator,
        deferral: Deferral,
    ) -> None:
        self.reader = RequestReader(settings.max_texts, settings.max_text_chars)
        self._models = lookup.models
        self._bodies = BodyReader(settings.max_body_bytes, settings.body_timeout_s)
        self._deferral = deferral
        self._settings = settings
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._auth = auth
        self._lookup = lookup

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext(RequestHeaders(scope))
        request_id = context.headers.request_id
        try:
            answer = await self._answer(context, receive)
        except ClientDisconnect:
            self._record(context, 499, "client_gone")
        except (Exception, asyncio.CancelledError) as error:
            problem = self._problem(context, error)
            problem.__traceback__ = None  # it would keep the body in memory until a slow client has read it
            self._record(context, problem.status, problem.code, problem.entry)
            await send_problem(LingeringClose(send, receive), problem, request_id)
        else:
            headers: list[Header] = [JSON, (b"x-request-id", request_id), NOSNIFF, *answer.headers]
            if self._lifecycle.draining:
                headers.append(CLOSE)  # the process ends soon, so the client must not reuse the connection
            await send_answer(send, answer.status, headers, answer.body)
            self._record(context, answer.status)

    async def _answer(self, context: RequestContext, receive: Receive) -> Answer:
        headers = context.headers
        context.client = self._auth.admit(headers)
        check_length(headers, self._bodies.limit)
        check_encoding(headers)
        check_json(headers)
        context.texts = texts = self.reader.read(await self._bodies.read(receive))
        preference = headers.preference
        if preference.respond_async and preference.wait_s is None:
            return await self._deferral(headers, texts)
        before = perf_counter()
        revision = self._models.revision
        tenant = context.client if self._settings.separate_clients else ""
        cached = self._lookup.known(revision, texts, tenant)
        now = perf_counter()
        if None not in cached:
            context.known = True
            self._metrics.hit_local(len(cached))
            known = cast("list[CachedPrediction]", cached)
            answer = all_known(self._models, revision, known, now - before, now - context.started)
            self._add_preference_applied(preference, answer)
            return answer
        until = before + self._budget_s(preference)
        request = LookupRequest(texts, cached, revision, context.client, until, headers.trace, tenant)
        return await self._some_unknown(context, request, receive)

    async def _some_unknown(
        self, context: RequestContext, request: LookupRequest, receive: Receive
    ) -> Answer:
        preference = context.headers.preference
        try:
            with self._bodies.hold(context.texts):
                found = await self._lookup.find(request, receive)
        except (BudgetExceeded, QueueFull):
            if preference.respond_async:
                return await self._deferral(context.headers, context.texts)
            raise
        context.computed = len(found.computed)
        context.known = not found.computed
        answer = some_found(self._models, request, found, perf_counter() - context.started)
        self._add_preference_applied(preference, answer)
        return answer

    def _budget_s(self, preference: Preference) -> float:
        if preference.wait_s is None:
            return self._settings.default_budget_s
        return min(preference.wait_s, self._settings.max_budget_s)

    def _add_preference_applied(self, preference: Preference, answer: Answer) -> None:
        if preference.wait_s is not None:
            answer.headers.append((b"preference-applied", b"wait=%g" % self._budget_s(preference)))

    def _problem(self, context: RequestContext, error: BaseException) -> Problem:
        if isinstance(error, Problem):
            return error
        if isinstance(error, MillraceError):
            return problem_of(error)
        if isinstance(error, asyncio.CancelledError):
            if not self._lifecycle.draining:
                raise error
            return Problem(503, "this process is stopping", code="draining", retry_after_s=1.0)
        fields = {"action": "request.crashed", "request_id": context.headers.id}
        log.error("unexpected error", exc_info=error, extra=fields)
        return internal()

    def _record(self, context: RequestContext, status: int, code: str = "", entry: str = "") -> None:
        seconds = perf_counter() - context.started
        self._metrics.request(ROUTE, status, seconds)
        name = context.headers.client_name
        if name:
            self._metrics.client(name, status)
        level = logging.DEBUG if context.known else logging.INFO
        if log.isEnabledFor(level):
            fields: dict[str, object] = {
                "action": "request",
                "request_id": context.headers.id,
                "route": ROUTE,
                "status": status,
                "ms": round(seconds * 1e3, 3),
                "texts": len(context.texts),
                "computed": context.computed,
            }
            if name:
                fields["client"] = name
            if code:
                fields["code"] = code
            if entry:
                fields["entry"] = entry
            log.log(level, "request", extra=fields)
