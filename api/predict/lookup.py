"""Looks up the predictions of texts that are not in the in-process cache.

The steps are: digests -> shared cache -> cap per client -> queue. The lookup is cancelled if the client
disconnects. A text that occurs several times in a request is looked up once.

If the shared cache and the queue use the same Redis and most texts are new, the enqueue script checks the
cache. This saves a round trip.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from time import perf_counter

from starlette.requests import ClientDisconnect

from api.asgi.http import Answer, Receive, unless_disconnected
from api.backend import Cache, Hub
from api.errors import Header, problem_of
from api.gate import Gate
from api.metrics import Metrics
from api.predict.answer_headers import timing, truncation
from api.predict.client_cap import ClientCap
from api.predict.context import RequestContext
from api.predict.found import LookupResult
from api.predict.local_cache import CachedPrediction, LocalCache, Models
from api.predict.recent import RecentRequests
from api.settings import ApiSettings
from api.traffic import Traffic
from batcher.core.console import NoteRefused
from batcher.errors import BudgetExceeded, MillraceError
from batcher.messages import Outcome, Prediction, entry_id

# A local copy of a shared result lives for this share of the TTL. Reading the remaining TTL would double the
# number of commands. Because of this, a result may be up to 1.2 TTL old.
COPY_SHARE = 0.1
# A local copy of a new result lives for this share of the TTL, so that it never outlives the shared one,
# whose TTL varies by 10 %.
FRESH_SHARE = 0.9
# If more than this share of texts is found in the shared cache, it is cheaper to read the cache first.
MOST_FOUND = 0.5
# Weight of the newest request in the moving average of that share.
NEWEST = 0.05
# With less time left than this, the cache is read first: it can answer even if the queue could not.
LEAST_S = 0.1


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """The texts of a request, and the in-process cache's result for each. `deadline` is by perf_counter.

    If they are only a part of a request, `whole` has all texts of that: errors say where a text is in there.
    """

    texts: Sequence[str]
    cached: Sequence[CachedPrediction | None]
    revision: str
    client: str
    deadline: float
    trace: str
    # The client that these results belong to; "" if clients share results.
    tenant: str = ""
    whole: Sequence[str] = ()


class PredictionLookup:
    """Asks the shared cache, then the queue, and stores the results in the in-process cache."""

    def __init__(
        self, settings: ApiSettings, hub: Hub, shared: Cache, local: LocalCache, metrics: Metrics
    ) -> None:
        self.models = Models(hub)
        self._hub = hub
        self._shared = shared
        self.local = local
        self._cap = ClientCap(settings.max_client_texts, settings.first_client_texts)
        self.traffic = Traffic(settings, hub, self._cap.waiting)
        self.recent = RecentRequests()
        self.gate = Gate(hub, self.traffic)
        self.metrics = metrics
        self._fresh_s = settings.cache_ttl_s * FRESH_SHARE
        self._copy_s = settings.cache_ttl_s * COPY_SHARE
        self._keeps_refused = settings.keep_refused_texts
        self._share_found = 0.0
        self._forgotten = 0

    def for_model(self, hub: Hub, shared: Cache) -> PredictionLookup:
        """A lookup in the queue of another model. Clients have the same limits for all of them together."""
        other = copy(self)
        other.models, other._hub, other._shared, other._share_found = Models(hub), hub, shared, 0.0
        return other

    def replace(self, other: PredictionLookup) -> None:
        """Stands in the place of another lookup, with its queue, caches and limits: for subclasses."""
        vars(self).update(vars(other))

    def revision_of(self, texts: Sequence[str]) -> str:
        """The revision that answers these texts."""
        return self.models.revision

    def forget(self) -> None:
        """Forgets what this process keeps of texts and clients in memory."""
        self.local.clear()
        self.recent.clear()

    def follow(self) -> None:
        """Forgets everything if an operator has made another process do so."""
        if self._forgotten != (forgotten := self._hub.snapshot.forgotten):
            self._forgotten = forgotten
            self.forget()

    async def find(self, request: LookupRequest, receive: Receive, found: LookupResult) -> None:
        """Finds the predictions of all missing texts. Raises MillraceError, Problem or ClientDisconnect.

        It fills `found`, which after an error says how far it came.
        """
        pairs = zip(request.texts, request.cached, strict=True)
        unknown_texts = dict.fromkeys(text for text, cached in pairs if cached is None)
        found.ids = ids = {text: entry_id(text, request.tenant) for text in unknown_texts}
        found.local = len(request.cached) - request.cached.count(None)
        self.metrics.entries("hit_local", found.local)
        looks = self._queue_checks_cache(request, len(ids))
        if request.revision and not looks:
            await self._ask_shared(request, ids, found)
        unknown = [text for text in ids if text not in found.by_text]
        if unknown:
            self.gate.check_uncached(request.client)
            with self._cap.hold(request.client, len(unknown)) as first:
                asked = [ids[text] for text in unknown]
                revision = request.revision if looks else ""
                await self._compute(request, asked, unknown, found, receive, first=first, revision=revision)
        if request.revision:
            share = 1.0 - len(found.computed) / len(ids)
            self._share_found += NEWEST * (share - self._share_found)

    def _queue_checks_cache(self, request: LookupRequest, texts: int) -> bool:
        """Whether the enqueue script checks the cache, to save a round trip.

        It does not if the queue might refuse texts that the cache could answer.
        """
        return (
            self._hub.looks
            and self._share_found <= MOST_FOUND
            and request.deadline - perf_counter() > LEAST_S
            and self._cap.has_room(request.client, texts)
            and not self.gate.sheds(request.client)
        )

    async def _ask_shared(self, request: LookupRequest, ids: dict[str, str], found: LookupResult) -> None:
        started = perf_counter()
        hits = await self._shared.get(request.revision, list(ids.values()))
        for text, prediction in zip(ids, hits, strict=True):
            if prediction is not None:
                found.by_text[text] = prediction
                self.local.put(text, prediction, self._copy_s, request.tenant)
        self.metrics.entries("hit_shared", len(found.by_text))
        found.cache_s += perf_counter() - started

    async def _compute(
        self,
        request: LookupRequest,
        ids: Sequence[str],
        texts: Sequence[str],
        found: LookupResult,
        receive: Receive,
        *,
        first: bool,
        revision: str,
    ) -> None:
        found.asked_at = asked_at = perf_counter()
        found.asked = len(ids)
        budget_s = request.deadline - asked_at
        try:
            if budget_s <= 0:
                raise BudgetExceeded("the budget ended before the texts were enqueued")
            work = self._hub.classify(
                ids, texts, budget_s=budget_s, trace=request.trace, first=first, revision=revision
            )
            outcomes = await unless_disconnected(receive, work)
        except MillraceError as error:
            self.metrics.entries(error, len(texts))
            raise
        except (ClientDisconnect, asyncio.CancelledError):
            self.metrics.entries("cancelled", len(texts))
            raise
        self._take(request, dict(zip(texts, outcomes, strict=True)), found)
        if not found.computed:
            found.cache_s += perf_counter() - asked_at

    def _take(self, request: LookupRequest, outcomes: dict[str, Outcome], found: LookupResult) -> None:
        """Stores the predictions. If any text failed, raises the error of the first one."""
        cached = 0
        for text, outcome in outcomes.items():
            if isinstance(outcome, MillraceError):
                self.metrics.entries(outcome)
                self._note_refused(request, text)
                continue
            found.by_text[text] = outcome
            if outcome.cached:
                cached += 1
                self.local.put(text, outcome, self._copy_s, request.tenant)
            else:
                found.computed.add(text)
                self.local.put(text, outcome, self._fresh_s, request.tenant)
        self.metrics.entries("hit_shared", cached)
        self.metrics.entries("computed", len(found.computed))
        for index, text in enumerate(request.whole or request.texts):
            if isinstance(failed := outcomes.get(text), MillraceError):
                problem = problem_of(failed, index)
                problem.entry = entry_id(text, request.tenant)
                raise problem

    def _note_refused(self, request: LookupRequest, text: str) -> None:
        """Adds what only this process knows to the record that the console shows."""
        kept = text if self._keeps_refused else None
        self._hub.console.send(NoteRefused(entry_id(text, request.tenant), request.client, kept))

    def known(
        self, context: RequestContext, revision: str, cached: Sequence[CachedPrediction], looked_up_at: float
    ) -> list[Header]:
        """The headers of the response if every text was in the in-process cache."""
        now = perf_counter()
        self.metrics.hit_local(len(cached))
        times = ((now - looked_up_at) * 1e3, (now - context.started) * 1e3)
        timing = (b"server-timing", b"cache;dur=%.3f, total;dur=%.3f" % times)
        headers = [(b"x-cache", b"HIT"), (b"x-model", self.models.header(revision)), timing]
        return headers + truncation(cached)

    def answer(self, request: LookupRequest, found: LookupResult, total_s: float) -> Answer:
        """The response if some texts came from the shared cache or the model."""
        results: list[CachedPrediction | Prediction] = []
        names: dict[str, str] = {}  # model name by revision, from the results
        computed = 0
        for text, cached in zip(request.texts, request.cached, strict=True):
            if cached:
                results.append(cached)
                names.setdefault(request.revision, "")
            else:
                results.append(result := found.by_text[text])
                names[result.revision] = result.model
            computed += text in found.computed
        cache = b"HIT" if not computed else b"MISS" if computed == len(results) else b"PARTIAL"
        model = b", ".join([self.models.header(revision, name) for revision, name in names.items()])
        times = timing(found.cache_s, [found.by_text[text] for text in found.computed], total_s)
        headers = [(b"x-cache", cache), (b"x-model", model), times, *truncation(results)]
        return Answer(200, headers, b'{"predictions":[%b]}' % b",".join([one.fragment for one in results]))
