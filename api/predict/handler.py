"""POST /predict: handles a request from its bytes to the response.

The steps are: headers, body, texts, in-process cache, lookup of misses, response. If the in-process cache
knows all texts, the response follows at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from copy import copy
from time import monotonic, perf_counter
from typing import NamedTuple, Protocol, cast

from fastapi import FastAPI
from starlette.requests import ClientDisconnect

from api.asgi.default_headers import with_defaults
from api.asgi.http import (
    CLOSE,
    JSON,
    NOSNIFF,
    Answer,
    ASGIApp,
    BodyReader,
    Receive,
    RequestHeaders,
    Scope,
    Send,
    check_encoding,
    check_json,
    check_length,
    route_path,
    send_answer,
    unless_disconnected,
)
from api.asgi.prefer import Preference
from api.asgi.problems import LingeringClose, reported, send_problem
from api.auth import Authenticator
from api.label_order import order_in
from api.lifecycle import Lifecycle
from api.predict.lookup import (
    CachedPrediction,
    LookupRequest,
    LookupResult,
    Models,
    PredictionLookup,
    joined,
    truncation,
)
from api.predict.request import ForeignBody, RequestContext, RequestReader, read_texts
from api.predict.request_log import RequestLog
from api.settings import ApiSettings
from batcher.errors import BudgetExceeded, Paused, QueueFull

ROUTE = "/predict"
# Clients of services that redirect to /predict may end the path with a slash.
PATHS = (ROUTE, f"{ROUTE}/")


class Known(Protocol):
    """`api.models.served.ServedModels`. What it knows holds until a time of the monotonic clock."""

    known_until: float

    async def refresh(self) -> None: ...
    def on_move(self, follow: Callable[[ASGIApp], None]) -> None: ...


class PredictMiddleware:
    """Answers POST requests for one of the `paths` with `handler`, and passes the others to `others`.

    Once another revision answers for the first model, its handler takes the place of `handler`.

    FastAPI and Starlette take longer to reach a route than the in-process cache takes to answer, so this is
    the outermost layer (decision 0200).
    """

    def __init__(
        self, app: FastAPI, handler: ASGIApp, others: ASGIApp, models: Known, paths: Collection[str] = PATHS
    ) -> None:
        self.app = app
        self._handler = handler
        self._others = others
        self._models = models
        self._paths = paths
        models.on_move(self._answer_with)

    def _answer_with(self, handler: ASGIApp) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._others
        if scope["type"] == "http" and scope["method"] == "POST":
            if monotonic() > self._models.known_until:
                await self._models.refresh()
            if route_path(scope) in self._paths:
                app = self._handler
        await app(scope, receive, send)


class Deferral(Protocol):
    """Turns a request into a job (`Prefer: respond-async`) and returns its location. May raise Problem."""

    async def __call__(self, headers: RequestHeaders, texts: list[str]) -> Answer: ...


class Foreign(Protocol):
    """Answers the body of another dialect, errors included. May raise ClientDisconnect."""

    async def __call__(
        self, context: RequestContext, body: bytes, receive: Receive, model: str = ...
    ) -> Answer: ...


class Alternatives(NamedTuple):
    """What answers a request in another way: as a job, or in the dialect of another service.

    `deferral` is None without jobs: then the answer is waited for. `foreign_keys` are those of `foreign`.
    """

    deferral: Deferral | None
    foreign: Foreign
    foreign_keys: Callable[[], Collection[bytes]]


class PredictHandler:
    """An ASGI application that answers POST /predict.

    Bodies that have one of the `foreign_keys` in place of "text" are answered in another dialect.
    """

    # The name of the route in metrics and log lines.
    route = ROUTE

    def __init__(
        self,
        settings: ApiSettings,
        lookup: PredictionLookup,
        lifecycle: Lifecycle,
        auth: Authenticator,
        alternatives: Alternatives,
        request_log: RequestLog,
    ) -> None:
        self.reader = RequestReader(settings.max_texts, settings.max_text_chars, alternatives.foreign_keys)
        self.bodies = BodyReader(settings.max_body_bytes, settings.body_timeout_s)
        self._alternatives = alternatives
        self._settings = settings
        self._lifecycle = lifecycle
        self._auth = auth
        self._lookup = lookup
        self._models = lookup.models
        self._local = lookup.local
        self._limits = lookup.limits
        self.request_log = request_log

    def for_model(self, route: str, lookup: PredictionLookup, alternatives: Alternatives) -> PredictHandler:
        """The handler of another model, with the same limits. Everything else belongs to that model."""
        other = copy(self)
        other.route = route
        other._lookup = lookup
        other._models = lookup.models
        other._local = lookup.local
        other._alternatives = alternatives
        return other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext(RequestHeaders(scope))
        request_id = context.headers.request_id
        try:
            answer = await self._answer(context, receive)
        except ClientDisconnect:
            context.code = "client_gone"
            self.request_log.add(context, self.route, 499)
        except (Exception, asyncio.CancelledError) as error:
            problem = reported(error, context.headers.id, draining=self._lifecycle.draining)
            problem.__traceback__ = None  # it would keep the body in memory until a slow client has read it
            context.code = problem.code
            context.entry = problem.entry
            self.request_log.add(context, self.route, problem.status)
            await send_problem(LingeringClose(send, receive), problem, request_id)
        else:
            headers = answer.headers
            headers += (JSON, (b"x-request-id", request_id), NOSNIFF)
            if answer.status >= 400:  # of a dialect that shares the route
                headers = with_defaults(headers, request_id)
            if self._lifecycle.draining:
                headers.append(CLOSE)  # the process ends soon, so the client must not reuse the connection
            await send_answer(send, answer.status, headers, answer.body)
            self.request_log.add(context, self.route, answer.status)

    async def _answer(self, context: RequestContext, receive: Receive) -> Answer:
        headers = context.headers
        limited = self._limits.checks
        context.client = client = self._auth.admit(headers)
        if limited:
            self._limits.check(client)
        check_length(headers, self.bodies.limit)
        check_encoding(headers)
        check_json(headers)
        preference = headers.preference
        query = headers.scope.get("query_string")
        default = self._settings.label_order
        context.by_score = (order_in(query, default) if query else default) == "score"
        try:
            context.texts = texts = read_texts(self.reader, await self.bodies.read(receive))
            foreign = None
        except ForeignBody as found:
            foreign = self._alternatives.foreign(context, found.body, receive)
        if foreign is not None:
            return await foreign
        deferral = self._alternatives.deferral
        if preference.respond_async and preference.wait_s is None and deferral is not None:
            return await deferral(headers, texts)
        looked_up_at = perf_counter()
        revision = self._models.revision
        tenant = client if self._settings.separate_clients else ""
        cached = self._local.find(revision, texts, tenant)
        if None in cached:
            until = looked_up_at + self._budget_s(preference)
            answer = await self._some_unknown(context, receive, cached, revision, tenant, until)
        else:
            known = cast("list[CachedPrediction]", cached)
            most_bytes = self._settings.max_answer_bytes
            answer = known_answer(context, self._models, known, looked_up_at, most_bytes)
        if preference.wait_s is not None:
            answer.headers.append((b"preference-applied", b"wait=%g" % self._budget_s(preference)))
        return answer

    async def _some_unknown(
        self,
        context: RequestContext,
        receive: Receive,
        cached: Sequence[CachedPrediction | None],
        revision: str,
        tenant: str,
        until: float,
    ) -> Answer:
        texts, client, trace = context.texts, context.client, context.headers.trace
        request = LookupRequest(
            texts, cached, revision, client, until, trace, tenant, by_score=context.by_score
        )
        try:
            context.found = found = LookupResult()
            with self.bodies.hold(texts):
                await unless_disconnected(receive, self._lookup.find(request, found))
        except (BudgetExceeded, QueueFull, Paused):
            deferral = self._alternatives.deferral
            if context.headers.preference.respond_async and deferral is not None:
                return await deferral(context.headers, texts)
            raise
        context.computed = len(found.computed)
        context.tokens = found.tokens(request.texts, request.cached)
        context.known = not found.computed
        return self._lookup.answer(request, found, perf_counter() - context.started)

    def _budget_s(self, preference: Preference) -> float:
        if preference.wait_s is None:
            return self._settings.default_budget_s
        return min(preference.wait_s, self._settings.max_budget_s)


def known_answer(
    context: RequestContext,
    models: Models,
    cached: Sequence[CachedPrediction],
    looked_up_at: float,
    most_bytes: int,
) -> Answer:
    """The response if every text was in the in-process cache; notes that in `context`.

    Raises Problem 413 if it would have more than `most_bytes`.
    """
    context.known = True
    context.tokens = sum([known.tokens for known in cached])
    now = perf_counter()
    times = (now - looked_up_at) * 1e3, (now - context.started) * 1e3
    headers = [
        (b"x-cache", b"HIT"),
        (b"x-model", models.answer_header(cached)),
        (b"server-timing", b"cache;dur=%.3f, total;dur=%.3f" % times),
    ]
    headers += truncation(cached)
    return Answer(200, headers, joined(cached, most_bytes, ordered=context.by_score))
