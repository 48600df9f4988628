"""The miss road: from texts that this process does not know to their predictions.

What happens in order: digests -> shared cache -> cap per client -> queue, while watching whether the client
is still there. Each text is asked for once, however often a request names it.

Where the cache lies beside the queue and most texts are new, the queue looks into it: a round trip less.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from starlette.requests import ClientDisconnect

from api.asgi.body import unless_disconnected
from api.asgi.headers import Receive
from api.backend import Cache, Hub, Models
from api.errors import problem_of
from api.metrics import Metrics
from api.predict.client_cap import ClientCap
from api.predict.local_cache import CachedPrediction, LocalCache
from api.settings import ApiSettings
from batcher.errors import BudgetExceeded, MillraceError
from batcher.messages import Outcome, Prediction, entry_id

# A copy of a cached result may live for this share of the TTL. To ask for what is left of it would double the
# commands. No answer is older than 1.2 TTL.
COPY_SHARE = 0.1
# A copy of a result that has just been computed never outlives the shared one, whose end is spread by 10 %.
FRESH_SHARE = 0.9
# While more than this share of texts is found in the shared cache it is asked first, which is cheaper then.
MOST_FOUND = 0.5
# Weight of the newest request in that share.
NEWEST = 0.05
# With less time than this the cache is asked first, which answers whatever time is left.
LEAST_S = 0.1


@dataclass(frozen=True, slots=True)
class LookupRequest:
    """Texts of one request, and what the in-process cache held of each, in order. Times by perf_counter."""

    texts: Sequence[str]
    held: Sequence[CachedPrediction | None]
    revision: str
    client: str
    deadline: float
    trace: str
    # Whose results these are, where clients are kept apart; "" is everyone's.
    tenant: str = ""


@dataclass(slots=True)
class LookupResult:
    """Predictions by text, which of them were computed for this request, and the time caches alone took."""

    by_text: dict[str, Prediction] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)
    cache_s: float = 0.0


class PredictionLookup:
    """Asks the shared cache, then the queue, and tells the in-process cache what it learnt."""

    def __init__(
        self, settings: ApiSettings, hub: Hub, shared: Cache, local: LocalCache, metrics: Metrics
    ) -> None:
        self.models = Models(hub)
        self._hub = hub
        self._shared = shared
        self._local = local
        self._cap = ClientCap(settings.max_client_texts, settings.first_client_texts)
        self._metrics = metrics
        self._fresh_s = settings.cache_ttl_s * FRESH_SHARE
        self._copy_s = settings.cache_ttl_s * COPY_SHARE
        self._share_found = 0.0

    def known(self, revision: str, texts: Sequence[str], tenant: str) -> list[CachedPrediction | None]:
        """What the in-process cache holds of each text."""
        return self._local.find(revision, texts, tenant)

    async def find(self, want: LookupRequest, receive: Receive) -> LookupResult:
        """Every missing text's prediction. Raises MillraceError, Problem or ClientDisconnect."""
        found = LookupResult()
        pairs = zip(want.texts, want.held, strict=True)
        unknown_texts = dict.fromkeys(text for text, held in pairs if held is None)
        ids = {text: entry_id(text, want.tenant) for text in unknown_texts}
        self._metrics.entries("hit_local", len(want.held) - want.held.count(None))
        looks = self._queue_may_look(want, len(ids))
        if want.revision and not looks:
            await self._ask_shared(want, ids, found)
        unknown = [text for text in ids if text not in found.by_text]
        if unknown:
            with self._cap.hold(want.client, len(unknown)) as first:
                asked = [ids[text] for text in unknown]
                revision = want.revision if looks else ""
                await self._compute(want, asked, unknown, found, receive, first=first, revision=revision)
        if want.revision:
            share = 1.0 - len(found.computed) / len(ids)
            self._share_found += NEWEST * (share - self._share_found)
        return found

    def _queue_may_look(self, want: LookupRequest, texts: int) -> bool:
        """Whether one round trip will do. Not where the queue may refuse what the cache may know."""
        return (
            self._hub.looks
            and self._share_found <= MOST_FOUND
            and want.deadline - perf_counter() > LEAST_S
            and self._cap.has_room(want.client, texts)
        )

    async def _ask_shared(self, want: LookupRequest, ids: dict[str, str], found: LookupResult) -> None:
        started = perf_counter()
        hits = await self._shared.get(want.revision, list(ids.values()))
        for text, prediction in zip(ids, hits, strict=True):
            if prediction is not None:
                found.by_text[text] = prediction
                self._local.put(text, prediction, self._copy_s, want.tenant)
        self._metrics.entries("hit_shared", len(found.by_text))
        found.cache_s += perf_counter() - started

    async def _compute(
        self,
        want: LookupRequest,
        ids: Sequence[str],
        texts: Sequence[str],
        found: LookupResult,
        receive: Receive,
        *,
        first: bool,
        revision: str,
    ) -> None:
        asked_at = perf_counter()
        budget_s = want.deadline - asked_at
        try:
            if budget_s <= 0:
                raise BudgetExceeded("no time was left to ask the queue")
            work = self._hub.classify(
                ids, texts, budget_s=budget_s, trace=want.trace, first=first, revision=revision
            )
            outcomes = await unless_disconnected(receive, work)
        except MillraceError as error:
            self._metrics.entries(error, len(texts))
            raise
        except (ClientDisconnect, asyncio.CancelledError):
            self._metrics.entries("cancelled", len(texts))
            raise
        self._take(want, dict(zip(texts, outcomes, strict=True)), found)
        if not found.computed:
            found.cache_s += perf_counter() - asked_at

    def _take(self, want: LookupRequest, outcomes: dict[str, Outcome], found: LookupResult) -> None:
        """Keeps what was computed; then the first text without a prediction, if any, becomes the answer."""
        cached = 0
        for text, outcome in outcomes.items():
            if isinstance(outcome, MillraceError):
                self._metrics.entries(outcome)
                continue
            found.by_text[text] = outcome
            if outcome.cached:
                cached += 1
                self._local.put(text, outcome, self._copy_s, want.tenant)
            else:
                found.computed.add(text)
                self._local.put(text, outcome, self._fresh_s, want.tenant)
        self._metrics.entries("hit_shared", cached)
        self._metrics.entries("computed", len(found.computed))
        for index, text in enumerate(want.texts):
            if isinstance(failed := outcomes.get(text), MillraceError):
                problem = problem_of(failed, index)
                problem.entry = entry_id(text, want.tenant)
                raise problem
