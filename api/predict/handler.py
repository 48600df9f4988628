"""POST /predict: the road of one request, from its bytes to its answer.

In order: headers, body, texts, in-process cache, for misses the lookup, answer. A request whose texts are all
known leaves after the in-process cache. The request middleware calls this before the framework.
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
    """Answers POST /predict. An ASGI application; `deferral` makes jobs of requests that ask for it."""

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
        ask = RequestContext(RequestHeaders(scope))
        try:
            answer = await self._answer(ask, receive)
        except ClientDisconnect:
            self._record(ask, 499, "client_gone")
        except (Exception, asyncio.CancelledError) as error:
            problem = self._problem(ask, error)
            problem.__traceback__ = None  # it holds the body, while the client takes its time
            self._record(ask, problem.status, problem.code, problem.entry)
            await send_problem(LingeringClose(send, receive), problem, ask.head.request_id)
        else:
            headers: list[Header] = [JSON, (b"x-request-id", ask.head.request_id), NOSNIFF, *answer.headers]
            if self._lifecycle.draining:
                headers.append(CLOSE)  # or the next request may meet the end of this process
            await send_answer(send, answer.status, headers, answer.body)
            self._record(ask, answer.status)

    async def _answer(self, ask: RequestContext, receive: Receive) -> Answer:
        head = ask.head
        ask.client = self._auth.admit(head)
        check_length(head, self._bodies.limit)
        check_encoding(head)
        check_json(head)
        ask.texts = texts = self.reader.read(await self._bodies.read(receive))
        wishes = head.preference
        if wishes.respond_async and wishes.wait_s is None:
            return await self._deferral(head, texts)
        before = perf_counter()
        revision = self._models.revision
        tenant = ask.client if self._settings.separate_clients else ""
        held = self._lookup.known(revision, texts, tenant)
        now = perf_counter()
        if None not in held:
            ask.known = True
            self._metrics.hit_local(len(held))
            known = cast("list[CachedPrediction]", held)
            answer = all_known(self._models, revision, known, now - before, now - ask.started)
            self._say_wait(wishes, answer)
            return answer
        until = before + self._budget_s(wishes)
        want = LookupRequest(texts, held, revision, ask.client, until, head.trace, tenant)
        return await self._some_unknown(ask, want, receive)

    async def _some_unknown(self, ask: RequestContext, want: LookupRequest, receive: Receive) -> Answer:
        wishes = ask.head.preference
        try:
            with self._bodies.hold(ask.texts):
                found = await self._lookup.find(want, receive)
        except (BudgetExceeded, QueueFull):
            if wishes.respond_async:
                return await self._deferral(ask.head, ask.texts)
            raise
        ask.computed = len(found.computed)
        ask.known = not found.computed
        answer = some_found(self._models, want, found, perf_counter() - ask.started)
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
            if not self._lifecycle.draining:
                raise error
            return Problem(503, "this process is stopping", code="draining", retry_after_s=1.0)
        log.error(
            "unexpected", exc_info=error, extra={"action": "request.crashed", "request_id": ask.head.id}
        )
        return internal()

    def _record(self, ask: RequestContext, status: int, code: str = "", entry: str = "") -> None:
        seconds = perf_counter() - ask.started
        self._metrics.request(ROUTE, status, seconds)
        name = ask.head.client_name
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
