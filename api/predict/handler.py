"""POST /predict: handles a request from its bytes to the response.

The steps are: headers, body, texts, lookup, response. If the in-process cache knows all texts, the lookup
does not wait for anything.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import NamedTuple, Protocol

from fastapi import FastAPI
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from api.asgi.http import (
    CLOSE,
    JSON,
    NOSNIFF,
    Answer,
    BodyReader,
    Preference,
    RequestHeaders,
    below,
    check_json,
    check_size,
    route_path,
    send_answer,
    unless_disconnected,
    with_defaults,
)
from api.asgi.ignored import MODEL_NAMES, ignored_header, ignored_in_query
from api.asgi.problems import send_problem
from api.auth import Authenticator, ClientLimits
from api.errors import Header
from api.label_order import LabelOrder, order_in
from api.lifecycle import Lifecycle
from api.predict.request import (
    ForeignBody,
    RequestContext,
    RequestReader,
    answer_headers,
    joined,
    raise_failed,
    read_texts,
)
from api.predict.request_log import RequestLog
from api.settings import ApiSettings
from api.traffic import QuotaExceeded
from batcher.errors import BudgetExceeded, Paused, QueueFull
from batcher.lookup.queue import Lookup, LookupRequest, LookupResult, Models, Result
from batcher.messages import entry_id

ROUTE = "/predict"
# Clients of services that redirect to /predict may end the path with a slash.
PATHS = (ROUTE, f"{ROUTE}/")
# Parameters of its query, and those that would change the answer if they were read.
PARAMETERS = ("order",)
NOT_READ = dict.fromkeys(MODEL_NAMES, "other models have their own route, /models/{name}/predict")
# Turns a request into a job (`Prefer: respond-async`) and returns its location. May raise Problem.
Deferral = Callable[[RequestHeaders, list[str]], Awaitable[Answer]]
# Answers the body of another dialect, errors included. May raise ClientDisconnect.
Foreign = Callable[[RequestContext, bytes, Receive], Awaitable[Answer]]


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
        if prefix := scope.get("root_path"):
            send = below(prefix, send)
        if scope["type"] == "http" and scope["method"] == "POST":
            if monotonic() > self._models.known_until:
                await self._models.refresh()
            if route_path(scope) in self._paths:
                app = self._handler
        await app(scope, receive, send)


class Alternatives(NamedTuple):
    """What answers a request in another way: as a job, or in the dialect of another service.

    `deferral` is None without jobs: then the answer is waited for.
    """

    deferral: Deferral | None
    foreign: Foreign


@dataclass(eq=False)
class Predictor:
    """Reads the texts of requests and finds their predictions, for all models and dialects."""

    settings: ApiSettings
    auth: Authenticator
    limits: ClientLimits
    request_log: RequestLog
    foreign_keys: Callable[[], Collection[bytes]] = lambda: ()

    def __post_init__(self) -> None:
        settings = self.settings
        self.reader = RequestReader(settings.max_texts, settings.max_text_chars, self.foreign_keys)
        self.bodies = BodyReader(settings.max_body_bytes, settings.body_timeout_s)
        # The texts of the requests in progress, by the number of each.
        self._asked: dict[int, Sequence[str]] = {}

    def held(self, entry: str) -> int:
        """How many requests in progress have the text with this id, as that of a request without a tenant."""
        return sum(entry in map(entry_id, texts) for texts in self._asked.values())

    def admit(self, headers: RequestHeaders) -> str:
        """The client of a request. Raises what `Authenticator.admit` and `ClientLimits.check` raise."""
        limited = self.limits.checks
        client = self.auth.admit(headers)
        if limited:
            self.limits.check(client, headers.keyed)
        return client

    def budget_s(self, preference: Preference) -> float | None:
        """How long the answer to a request may take if it says so."""
        wait_s = preference.wait_s
        return None if wait_s is None else min(wait_s, self.settings.max_budget_s)

    async def find(
        self,
        lookup: Lookup,
        context: RequestContext,
        receive: Receive,
        budget_s: float | None = None,
        *,
        one_revision: bool = False,
    ) -> tuple[Sequence[Result], list[Header]]:
        """The result of each text, and the headers that describe them; notes in `context` what was found.

        `budget_s` has a default. If the in-process cache knows all texts, it does not wait for anything;
        otherwise what can only be too large is refused before anything is asked. Raises Problem,
        MillraceError or ClientDisconnect.
        """
        texts, client, most_bytes = context.texts, context.client, self.settings.max_answer_bytes
        if self.limits.traffic.has_quotas:
            context.reserved = self.limits.reserve(client, len(texts), context.reserved)
        started = perf_counter()
        tenant = client if self.settings.separate_clients else ""
        results = lookup.known(texts, client, tenant, one_revision)
        refuses = self.settings.refuse_unknown
        if results is not None and not (refuses and any(result.foreign for result in results)):
            context.hit = True
            context.used = len(texts)
            cache_s = perf_counter() - started
        else:
            if (least := len(texts) * lookup.models.shortest) > most_bytes:
                check_size(least, most_bytes)
            until = started + (self.settings.default_budget_s if budget_s is None else budget_s)
            request = LookupRequest(texts, client, until, tenant, one_revision, context.headers.trace)
            context.answer = answer = LookupResult()
            context.used = len(texts)
            results = await self._ask(lookup, request, answer, receive)
            context.computed = len(answer.computed)
            context.hit = not answer.computed
            cache_s = answer.cache_s
        described = answer_headers(context, lookup.models, results, cache_s)
        check_size(sum([len(result.fragment) for result in results]), most_bytes)
        return results, described

    def release(self, context: RequestContext) -> None:
        """Call it once a request has been counted, or has become a job: its texts are no longer reserved."""
        self.limits.traffic.release(context.client, context.reserved)
        context.reserved = 0

    async def _ask(
        self, lookup: Lookup, request: LookupRequest, answer: LookupResult, receive: Receive
    ) -> list[Result]:
        """The result of each text, in order. Raises as `find`."""
        size = self.bodies.hold(request.texts)
        self._asked[id(request)] = request.texts
        try:
            await unless_disconnected(receive, lookup.find(request, answer))
        finally:
            del self._asked[id(request)]
            self.bodies.release(size)
        if self.settings.refuse_unknown:
            answer.refuse_unknown()
        if answer.failed:
            raise_failed(request.texts, answer)
        return [answer.by_text[text] for text in request.texts]


@dataclass(eq=False)
class PredictHandler:
    """An ASGI application that answers POST /predict, or the route of another model: `route` is its name.

    Bodies that have one of the foreign keys in place of "text" are answered in another dialect.
    """

    predictor: Predictor
    lookup: Lookup
    lifecycle: Lifecycle
    alternatives: Alternatives
    route: str = ROUTE

    def __post_init__(self) -> None:
        self.label_order = self.predictor.settings.label_order
        self.request_log = self.predictor.request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext(RequestHeaders(scope))
        request_id = context.headers.request_id
        try:
            answer = await self._answer(context, receive)
        except ClientDisconnect:
            context.code = "client_gone"
            self.request_log.add(context, self.route, 499)
        except (Exception, asyncio.CancelledError) as error:
            problem = context.fail(error, self.lifecycle)
            self.request_log.add(context, self.route, problem.status)
            await send_problem(send, problem, request_id)
        else:
            headers = answer.headers
            headers += (JSON, (b"x-request-id", request_id), NOSNIFF)
            if answer.status >= 400:  # of a dialect that shares the route
                headers = with_defaults(headers, request_id)
            if self.lifecycle.draining:
                headers.append(CLOSE)  # the process ends soon, so the client must not reuse the connection
            await send_answer(send, answer.status, headers, answer.body)
            self.request_log.add(context, self.route, answer.status)
        finally:
            self.predictor.release(context)

    async def _answer(self, context: RequestContext, receive: Receive) -> Answer:
        headers = context.headers
        predictor = self.predictor
        context.client = predictor.admit(headers)
        check_json(headers)
        preference = headers.preference
        try:
            body = await predictor.bodies.read(headers, receive)
            context.texts = texts = read_texts(predictor.reader, body)
            foreign = None
        except ForeignBody as error:
            foreign = self.alternatives.foreign(context, error.body, receive)
        if foreign is not None:
            return await foreign
        order, ignored = _parameters(headers, self.label_order)
        context.by_score = order == "score"
        deferral = self.alternatives.deferral
        if preference.respond_async and preference.wait_s is None and deferral is not None:
            return await deferral(headers, texts)
        budget_s = predictor.budget_s(preference)
        try:
            results, described = await predictor.find(self.lookup, context, receive, budget_s)
        except (BudgetExceeded, QueueFull, Paused, QuotaExceeded):
            if preference.respond_async and deferral is not None:
                predictor.release(context)
                context.used = 0
                return await deferral(headers, texts)
            raise
        body = joined(results, ordered=context.by_score)
        if self.lookup.names_models:
            body = _with_models(body, self.lookup.models, results)
        if budget_s is not None:
            described.append((b"preference-applied", b"wait=%g" % budget_s))
        return Answer(200, described + ignored, body)


def _parameters(headers: RequestHeaders, order: LabelOrder) -> tuple[LabelOrder, list[Header]]:
    """The order that a query asks for, and X-Ignored for its other parameters. Raises Problem 422."""
    query = headers.scope.get("query_string")
    if not query:
        return order, []
    ignored = ignored_header(ignored_in_query(query, PARAMETERS, NOT_READ))
    return order_in(query, order), [ignored] if ignored else []


def _with_models(body: bytes, models: Models, results: Sequence[Result]) -> bytes:
    """An answer that also names the model of each text."""
    answered = [(one.revision, one.model) for one in results]
    names = {one: json.dumps(models.header(*one).decode("ascii")).encode() for one in set(answered)}
    return b'%b,"models":[%b]}' % (body[:-1], b",".join([names[one] for one in answered]))
