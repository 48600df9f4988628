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
from time import perf_counter

from starlette.requests import ClientDisconnect

from api.asgi.http import Answer, Receive, unless_disconnected
from api.auth import ClientLimits
from api.backend import Cache, Hub
from api.errors import Header, problem_of
from api.predict.local_cache import LocalCache, Models
from api.predict.one_revision import find_one_revision
from api.predict.request import LookupRequest, LookupResult, joined, truncation
from api.settings import ApiSettings
from batcher.core.commands import NoteRefused
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


class PredictionLookup:
    """Looks in the shared cache, then asks the queue, and stores the results in the in-process cache."""

    def __init__(
        self, settings: ApiSettings, hub: Hub, shared: Cache, local: LocalCache, limits: ClientLimits
    ) -> None:
        self.models = Models(hub)
        self._hub = hub
        self._shared = shared
        self.local = local
        self.limits = limits
        self._fresh_s = settings.cache_ttl_s * FRESH_SHARE
        self._copy_s = settings.cache_ttl_s * COPY_SHARE
        self._keeps_refused = settings.keep_refused_texts
        self._most_bytes = settings.max_answer_bytes
        self._share_found = 0.0

    def for_model(self, hub: Hub, shared: Cache) -> PredictionLookup:
        """A lookup in the queue of another model. Clients have the same limits for all of them together."""
        other = copy(self)
        other.models, other._hub, other._shared, other._share_found = Models(hub), hub, shared, 0.0
        return other

    def replace(self, other: PredictionLookup) -> None:
        """Takes over the queue, caches and limits of another lookup: for subclasses."""
        vars(self).update(vars(other))

    def revision_of(self, texts: Sequence[str]) -> str:
        """The revision that answers these texts."""
        return self.models.revision

    def for_one(self, texts: Sequence[str]) -> PredictionLookup:
        """The lookup for an answer that must be of one revision: of those that share texts, one of both."""
        return self

    async def find_one(self, request: LookupRequest, receive: Receive, found: LookupResult) -> LookupRequest:
        """As `find`, but all results are of one revision. Returns the request as if that had been asked for.

        Also raises RevisionsMixed.
        """
        return await find_one_revision(self.find, self.local, request, receive, found)

    async def find(self, request: LookupRequest, receive: Receive, found: LookupResult) -> None:
        """Finds the predictions of all missing texts. Raises MillraceError, Problem or ClientDisconnect.

        It fills `found`, which shows after an error how far the lookup got.
        """
        pairs = zip(request.texts, request.cached, strict=True)
        unknown_texts = dict.fromkeys(text for text, cached in pairs if cached is None)
        found.ids = ids = {text: entry_id(text, request.tenant) for text in unknown_texts}
        found.count("hit_local", len(request.cached) - request.cached.count(None))
        looks = self._queue_checks_cache(request, len(ids))
        if request.revision and not looks:
            await self._read_shared(request, ids, found)
        unknown = [text for text in ids if text not in found.by_text]
        if unknown:
            with self.limits.wait(request.client, len(unknown)) as first:
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
            and self.limits.accepts(request.client, texts)
        )

    async def _read_shared(self, request: LookupRequest, ids: dict[str, str], found: LookupResult) -> None:
        started = perf_counter()
        hits = await self._shared.get(request.revision, list(ids.values()))
        for text, prediction in zip(ids, hits, strict=True):
            if prediction is not None:
                found.by_text[text] = prediction
                self.local.put(text, prediction, self._copy_s, request.tenant)
        found.count("hit_shared", len(found.by_text))
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
                raise BudgetExceeded("the budget ended before the texts were enqueued; allow more time")
            work = self._hub.classify(
                ids,
                texts,
                budget_s=budget_s,
                trace=request.trace,
                first=first,
                revision=revision,
                only=request.only,
            )
            outcomes = await unless_disconnected(receive, work)
        except MillraceError as error:
            found.count(type(error), len(texts))
            raise
        except (ClientDisconnect, asyncio.CancelledError):
            found.count("cancelled", len(texts))
            raise
        self._take(request, dict(zip(texts, outcomes, strict=True)), found)
        if not found.computed:
            found.cache_s += perf_counter() - asked_at

    def _take(self, request: LookupRequest, outcomes: dict[str, Outcome], found: LookupResult) -> None:
        """Stores the predictions. If any text failed, raises the error of the first one."""
        cached = 0
        for text, outcome in outcomes.items():
            if isinstance(outcome, MillraceError):
                found.count(type(outcome), 1)
                self._note_refused(request, text)
                continue
            found.by_text[text] = outcome
            if outcome.cached:
                cached += 1
                self.local.put(text, outcome, self._copy_s, request.tenant)
            else:
                found.computed.add(text)
                self.local.put(text, outcome, self._fresh_s, request.tenant)
        found.count("hit_shared", cached)
        found.count("computed", len(found.computed))
        for index, text in enumerate(request.whole or request.texts):
            if isinstance(failed := outcomes.get(text), MillraceError):
                problem = problem_of(failed, index)
                problem.entry = entry_id(text, request.tenant)
                raise problem

    def _note_refused(self, request: LookupRequest, text: str) -> None:
        """Adds what only this process knows to the record that the console shows."""
        kept = text if self._keeps_refused else None
        self._hub.console.send(NoteRefused(entry_id(text, request.tenant), request.client, kept))

    def answer(self, request: LookupRequest, found: LookupResult, total_s: float) -> Answer:
        """The response if some texts came from the shared cache or the model. Raises Problem 413."""
        pairs = zip(request.texts, request.cached, strict=True)
        results = [cached or found.by_text[text] for text, cached in pairs]
        computed = sum([text in found.computed for text in request.texts])
        headers = [
            (b"x-cache", b"HIT" if not computed else b"MISS" if computed == len(results) else b"PARTIAL"),
            (b"x-model", self.models.answer_header(request.revision, request.texts, found.by_text)),
            _timing(found.cache_s, [found.by_text[text] for text in found.computed], total_s),
            *truncation(results),
        ]
        return Answer(200, headers, joined(results, self._most_bytes, ordered=request.by_score))


def _timing(cache_s: float, runs: Sequence[Prediction], total_s: float) -> Header:
    """Server-Timing in ms. For several batches, the slowest time of each stage and the largest batch size.

    `runs` are the results that were computed for this request.
    """
    parts = [b"cache;dur=%.3f" % (cache_s * 1e3)]
    if runs:
        parts += [
            b"queue;dur=%.3f" % max([run.queue_ms for run in runs]),
            b'batch;desc="%d"' % max([run.batch_size for run in runs]),
            b"tokenize;dur=%.3f" % max([run.tokenize_ms for run in runs]),
            b"model;dur=%.3f" % max([run.model_ms for run in runs]),
        ]
    parts.append(b"total;dur=%.3f" % (total_s * 1e3))
    return (b"server-timing", b", ".join(parts))
