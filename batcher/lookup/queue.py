"""Finds the predictions of texts: in the in-process cache, then in the shared cache and the queue.

The in-process cache is an LRU of encoded predictions, bounded in entries and in bytes. Its key is (revision,
text) itself, so a hit does not compute a digest.

The steps for other texts are: digests -> shared cache -> cap per client -> queue. Callers cancel the lookup
if the client disconnects. A text that occurs several times in a request is looked up once.

If the shared cache and the queue use the same Redis and most texts are new, the enqueue script checks the
cache. This saves a round trip.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any, NamedTuple, Protocol

from batcher.core.commands import NoteRefused
from batcher.core.snapshot import ModelRecord, needs_s
from batcher.errors import BudgetExceeded, MillraceError, RevisionsMixed, TextTooSlow, TextUnknown
from batcher.hub.dispatcher import estimate_cost
from batcher.lookup.backend import Cache, Hub, Source
from batcher.messages import Lane, Outcome, Prediction, entry_id, shortest_fragment

# How many model revisions are remembered.
MAX_MODELS = 64
# The overhead of an entry, measured with tracemalloc: key, CachedPrediction, float, size, dictionary slot.
OVERHEAD_BYTES = 350
# A local copy of a shared result lives for this share of the TTL. Reading the remaining TTL would double the
# number of commands. Because of this, a result may be up to 1.2 TTL old.
COPY_SHARE = 0.1
# A local copy of a new result lives for this share of the TTL, so that it never outlives the shared one,
# whose TTL varies by 10 %.
FRESH_SHARE = 0.9
# If more than this share of texts is found in the shared cache, it is cheaper to read the cache first.
MAX_FOUND = 0.5
# Weight of the newest request in the moving average of that share.
NEWEST = 0.05
# With less time left than this, the cache is read first: it can answer even if the queue could not.
MIN_S = 0.1
# If a round brought nothing, the next one begins after this time, which doubles up to the longest.
PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.2
UNKNOWN = (
    "the model does not know more than half of the pieces of the text, which may be of another language: "
    "send it to a model for that language"
)
ADVICE = "workers of several revisions answered, and none of them all texts of the request; try again shortly"


class Limits(Protocol):
    """How many texts of a client may wait.

    `hold` counts some, until `release`, and returns whether they go before those of heavier clients.
    """

    def accepts(self, client: str, texts: int) -> bool: ...
    def hold(self, client: str, texts: int) -> bool: ...
    def release(self, client: str, texts: int) -> None: ...


class CachedPrediction(NamedTuple):
    """A cached prediction. `expires_at` is a time of the monotonic clock, `size` the total size in bytes."""

    fragment: bytes
    truncated: int
    expires_at: float
    size: int
    tokens: int
    revision: str
    model: str
    foreign: bool = False

    def prediction(self) -> Prediction:
        """The same as a result of a worker."""
        facts = (self.fragment, self.revision, self.tokens, self.truncated)
        return Prediction(*facts, model=self.model, foreign=self.foreign)


# What is known of a text.
Result = CachedPrediction | Prediction
Known = Sequence[Result] | None
# Results by text, for each revision.
Results = dict[str, dict[str, Result]]


class LocalCache:
    """An LRU cache. With `max_entries` 0 it is off: every lookup misses, and nothing is stored."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.bytes = 0
        self.evictions = 0
        self._max_entries = max_entries if max_bytes else 0
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, str], CachedPrediction] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, revision: str, texts: Sequence[str], tenant: str = "") -> list[CachedPrediction | None]:
        """The cached prediction of each text, in order. A tenant only gets its own results."""
        if not self._entries:
            return [None] * len(texts)
        now = monotonic()
        return [self._get((revision, text), now) for text in (_own(tenant, texts) if tenant else texts)]

    def find_all(self, revision: str, texts: Sequence[str], tenant: str = "") -> Known:
        """The same if every text is known, otherwise None."""
        now = monotonic()
        get = self._entries.get
        used = self._entries.move_to_end
        results = []
        for text in _own(tenant, texts) if tenant else texts:
            key = (revision, text)
            cached = get(key)
            if cached is None or cached.expires_at <= now:
                return None
            used(key)
            results.append(cached)
        return results

    def _get(self, key: tuple[str, str], now: float) -> CachedPrediction | None:
        cached = self._entries.get(key)
        if cached is None:
            return None
        if cached.expires_at > now:
            self._entries.move_to_end(key)
            return cached
        self._drop(key)
        return None

    def put(self, text: str, prediction: Prediction, life_s: float, tenant: str = "") -> None:
        """Stores the prediction of `text` by its revision, for at most `life_s` seconds."""
        if tenant:
            (text,) = _own(tenant, [text])
        size = sys.getsizeof(text) + sys.getsizeof(prediction.fragment) + OVERHEAD_BYTES
        if not self._max_entries or size > self._max_bytes or life_s <= 0:
            return
        key = (prediction.revision, text)
        self._drop(key)
        while len(self._entries) >= self._max_entries or self.bytes + size > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.size
            self.evictions += 1
        facts = (prediction.tokens, prediction.revision, prediction.model, prediction.foreign)
        self._entries[key] = CachedPrediction(
            prediction.fragment, prediction.truncated, monotonic() + life_s, size, *facts
        )
        self.bytes += size

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.bytes = 0

    def _drop(self, key: tuple[str, str]) -> None:
        cached = self._entries.pop(key, None)
        if cached is not None:
            self.bytes -= cached.size


def _own(tenant: str, texts: Sequence[str]) -> Sequence[str]:
    """A key for each text of a tenant. It is unique, because tenant names do not contain line breaks."""
    return [f"{tenant}\n{text}" for text in texts]


class Models:
    """The current model. It is remembered while Redis or the workers are down: cached results stay valid.

    During a model rollout, results of the previous revision still arrive, so each revision keeps the name it
    was published under. `others` know further revisions, such as those of a candidate.
    """

    def __init__(self, source: Source, others: Sequence[Models] = ()) -> None:
        self._source = source
        self._others = others
        self._headers: dict[str, bytes] = {}
        self._records: dict[str, ModelRecord] = {}
        self._revision = ""

    @property
    def revision(self) -> str:
        """The revision that workers published last; empty until the first one."""
        model = self.published
        if model is not None and model.revision != self._revision:
            self._revision = model.revision
            if len(self._headers) >= MAX_MODELS:
                self._headers.clear()
                self._records.clear()
            self._records[model.revision] = model
            self._headers[model.revision] = _header(model.name, model.revision)
        return self._revision

    def record(self, revision: str) -> ModelRecord | None:
        """What workers published about a revision; None if this process has not seen it."""
        model = self.published
        if model is not None and model.revision == revision:
            return model
        others = (other.record(revision) for other in self._others)
        return self._records.get(revision) or next(filter(None, others), None)

    def joined(self, other: Models) -> Models:
        """These models, which know the revisions of others as well."""
        return Models(self._source, (self, other))

    @property
    def published(self) -> ModelRecord | None:
        """What workers have published last; None while it is not known."""
        return self._source.snapshot.model

    @property
    def shortest(self) -> int:
        """The fewest bytes of a result, whichever of the models answers; 0 while the labels are not known."""
        if self._others:
            return min([other.shortest for other in self._others])
        model = self.published
        return shortest_fragment(model.labels) if model else 0

    @property
    def name(self) -> str:
        """The name of the model; empty until the first one."""
        model = self.published
        if model is not None:
            return model.name
        return self._headers.get(self._revision, b"").decode().rpartition("@")[0]

    def header(self, revision: str, name: str = "") -> bytes:
        """The value of X-Model: name@revision, with twelve characters of the revision.

        `name` is the model name in a result. It is used if this process has not seen the revision yet.
        """
        if revision not in self._headers and revision != self.revision:
            record = self.record(revision)
            return _header(record.name if record else name, revision)
        return self._headers[revision]


def _header(name: str, revision: str) -> bytes:
    return re.sub(r"[^!-~]|,", "_", f"{name}@{revision[:12]}").encode("ascii")


class LookupRequest(NamedTuple):
    """The texts of a request, and for whom. `deadline` is by perf_counter.

    `tenant` is the client that the results belong to; "" if clients share results. `one_revision` asks for
    results that are all of one revision. `only` is the revision that is wanted, if stored results of others
    must not answer.
    """

    texts: Sequence[str]
    client: str
    deadline: float
    tenant: str = ""
    one_revision: bool = False
    trace: str = ""
    lane: Lane = "interactive"
    only: str = ""


@dataclass(slots=True)
class LookupResult:
    """Results and errors by text, those that were computed for this request, and the time spent on caches.

    `ids` are those of the texts that the in-process cache did not know. `asked` texts went to the queue at
    `asked_at` (perf_counter). `outcomes` counts texts for the metrics, by a name or the class of an error.
    `cascade` is that of the revisions that gave the newest results, as a model; None of other lookups.
    """

    by_text: dict[str, Result] = field(default_factory=dict)
    failed: dict[str, MillraceError] = field(default_factory=dict)
    computed: dict[str, Prediction] = field(default_factory=dict)
    cache_s: float = 0.0
    ids: Mapping[str, str] = field(default_factory=dict)
    asked: int = 0
    asked_at: float = 0.0
    outcomes: dict[str | type[MillraceError], int] = field(default_factory=dict)
    cascade: ModelRecord | None = None

    def count(self, outcome: str | type[MillraceError], texts: int) -> None:
        """Counts texts with this outcome: `hit_local`, `hit_shared`, `computed`, `cancelled`, or an error."""
        if texts:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + texts

    def add(self, part: LookupResult, cache_s: float) -> None:
        """Adds what was found for other texts of the request. `cache_s`: time on caches of both."""
        self.by_text |= part.by_text
        self.failed |= part.failed
        self.computed |= part.computed
        self.cache_s = cache_s
        self.ids = {**self.ids, **part.ids}
        if part.asked:
            self.asked_at = min(self.asked_at, part.asked_at) if self.asked else part.asked_at
            self.asked += part.asked
        for outcome, texts in part.outcomes.items():
            self.count(outcome, texts)

    def refuse_unknown(self) -> None:
        """Turns the results of texts that the model mostly does not know into errors."""
        for text in [text for text, result in self.by_text.items() if result.foreign]:
            del self.by_text[text]
            self.computed.pop(text, None)
            self.failed[text] = TextUnknown(UNKNOWN)


class Lookup(Protocol):
    """Finds predictions in a queue and its caches, or in several of these.

    `names_models`: the texts of one answer may be of several models, so that it must name them.
    """

    @property
    def models(self) -> Models: ...
    @property
    def names_models(self) -> bool: ...
    def known(self, texts: Sequence[str], client: str, tenant: str, one_revision: bool) -> Known:
        """The results in the order of the texts if the in-process cache has all of them, otherwise None."""

    async def find(self, request: LookupRequest, answer: LookupResult) -> None:
        """Fills `answer` with the result of each text, or the error with which it failed.

        Raises MillraceError, or what limits raise, if texts were refused; `answer` then shows how far it got.
        """


class QueueLookup:
    """Looks in the caches of one model, then asks its queue, and stores the results in the in-process cache.

    Results are stored for about `ttl_s`. `keeps_refused`: a text that fails is kept for the console.
    """

    names_models = False

    def __init__(
        self, hub: Hub, shared: Cache, local: LocalCache, limits: Limits, ttl_s: float, keeps_refused: bool
    ) -> None:
        self.models = Models(hub)
        self._hub = hub
        self._shared = shared
        self._local = local
        self._limits = limits
        self._ttl_s = ttl_s
        self._keeps_refused = keeps_refused
        self._share_found = 0.0

    def for_model(self, hub: Hub, shared: Cache) -> QueueLookup:
        """A lookup in the queue of another model. Clients have the same limits for all of them together."""
        return QueueLookup(hub, shared, self._local, self._limits, self._ttl_s, self._keeps_refused)

    def known(self, texts: Sequence[str], client: str, tenant: str, one_revision: bool) -> Known:
        return self._local.find_all(self.models.revision, texts, tenant)

    def find(self, request: LookupRequest, answer: LookupResult) -> Coroutine[Any, Any, None]:
        return (self._complete if request.one_revision else self._find)(request, answer)

    async def _complete(self, request: LookupRequest, answer: LookupResult) -> None:
        """Finds results, and asks again until all are of one revision. Also raises RevisionsMixed.

        During a rolling update, any worker may run a text, and their labels may differ in kind and order, so
        texts that another revision answered are asked again. Any worker may run those too, so the revision
        that has answered most texts is completed first.
        """
        await self._find(request, answer)
        results: Results = {}
        for text, result in answer.by_text.items():
            results.setdefault(result.revision, {})[text] = result
        if answer.failed or len(results) < 2:
            return
        texts = list(answer.by_text)
        revision = _best(results)
        pause_s = PAUSE_S
        while missing := [text for text in texts if text not in results[revision]]:
            before = len(missing)
            await self._ask_again(request._replace(texts=missing, only=revision), answer, results)
            if answer.failed:
                return
            if sum(text not in results[revision] for text in missing) == before:
                # Its workers may have ended, or another worker may be idle each time.
                revision = random.choice(sorted(results))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                revision = _best(results)
        answer.by_text = results[revision]
        answer.computed = {
            text: result for text, result in answer.computed.items() if answer.by_text[text] is result
        }

    async def _ask_again(self, request: LookupRequest, answer: LookupResult, results: Results) -> None:
        """Asks for the texts of `request` again, and adds what is found to `results`."""
        if request.deadline <= perf_counter():
            raise RevisionsMixed(ADVICE, retry_after_s=1.0)
        part = LookupResult()
        try:
            await self._find(request, part)
        except BudgetExceeded:
            raise RevisionsMixed(ADVICE, retry_after_s=1.0) from None
        finally:
            answer.add(part, answer.cache_s + part.cache_s)
        for text, result in part.by_text.items():
            results.setdefault(result.revision, {})[text] = result

    async def _find(self, request: LookupRequest, answer: LookupResult) -> None:
        revision = request.only or self.models.revision
        ids = self._recall(request, revision, answer)
        if not ids:
            return
        looks = self._queue_checks_cache(request, len(ids))
        unknown = list(ids)
        if revision and not looks:
            await self._read_shared(request, revision, ids, answer)
            unknown = [text for text in ids if text not in answer.by_text]
        if unknown:
            first = self._limits.hold(request.client, len(unknown))
            try:
                await self._compute(request, unknown, answer, first=first, revision=revision if looks else "")
            finally:
                self._limits.release(request.client, len(unknown))
        if revision:
            found = len(ids) - len(answer.computed) - len(answer.failed)
            self._share_found += NEWEST * (found / len(ids) - self._share_found)

    def _recall(self, request: LookupRequest, revision: str, answer: LookupResult) -> Mapping[str, str]:
        """Adds what the in-process cache knows. Returns the ids of the other texts."""
        ids: dict[str, str] = {}
        cached = self._local.find(revision, request.texts, request.tenant)
        for text, result in zip(request.texts, cached, strict=True):
            if result is not None:
                answer.by_text[text] = result
            elif text not in ids:
                ids[text] = entry_id(text, request.tenant)
        answer.ids = ids
        answer.count("hit_local", sum([result is not None for result in cached]))
        return ids

    def _queue_checks_cache(self, request: LookupRequest, texts: int) -> bool:
        """Whether the enqueue script checks the cache, to save a round trip.

        It does not if the queue might refuse texts that the cache could answer.
        """
        return (
            self._hub.looks
            and self._share_found <= MAX_FOUND
            and request.deadline - perf_counter() > MIN_S
            and self._limits.accepts(request.client, texts)
        )

    async def _read_shared(
        self, request: LookupRequest, revision: str, ids: Mapping[str, str], answer: LookupResult
    ) -> None:
        started = perf_counter()
        try:
            results = await self._shared.get(revision, list(ids.values()))
        except asyncio.CancelledError:
            answer.count("cancelled", len(ids))
            raise
        hits = [(text, one) for text, one in zip(ids, results, strict=True) if one is not None]
        for text, prediction in hits:
            answer.by_text[text] = prediction
            self._local.put(text, prediction, self._ttl_s * COPY_SHARE, request.tenant)
        answer.count("hit_shared", len(hits))
        answer.cache_s += perf_counter() - started

    async def _compute(
        self,
        request: LookupRequest,
        texts: Sequence[str],
        answer: LookupResult,
        *,
        first: bool,
        revision: str,
    ) -> None:
        answer.asked_at = asked_at = perf_counter()
        answer.asked = len(texts)
        budget_s = request.deadline - asked_at
        try:
            if budget_s <= 0:
                raise BudgetExceeded("the budget ended before the texts were enqueued; allow more time")
            if (model := self.models.published) and model.long_s and request.lane == "interactive":
                _check_time(texts, model, budget_s)
            outcomes = await self._hub.classify(
                [answer.ids[text] for text in texts],
                texts,
                budget_s=budget_s,
                lane=request.lane,
                trace=request.trace,
                first=first,
                revision=revision,
                only=request.only,
            )
        except MillraceError as error:
            answer.count(type(error), len(texts))
            raise
        except asyncio.CancelledError:
            answer.count("cancelled", len(texts))
            raise
        self._take(request, dict(zip(texts, outcomes, strict=True)), answer)
        if not answer.computed:
            answer.cache_s += perf_counter() - asked_at

    def _take(self, request: LookupRequest, outcomes: dict[str, Outcome], answer: LookupResult) -> None:
        """Notes and stores what the queue has answered."""
        cached = 0
        for text, outcome in outcomes.items():
            if isinstance(outcome, MillraceError):
                answer.count(type(outcome), 1)
                answer.failed[text] = outcome
                kept = text if self._keeps_refused else None  # for the console: only this process knows it
                # At whichever shard it was asked for: the others have no record of it.
                self._hub.console.send_to_all(NoteRefused(answer.ids[text], request.client, kept))
                continue
            answer.by_text[text] = outcome
            if outcome.cached:
                cached += 1
                self._local.put(text, outcome, self._ttl_s * COPY_SHARE, request.tenant)
            else:
                answer.computed[text] = outcome
                self._local.put(text, outcome, self._ttl_s * FRESH_SHARE, request.tenant)
        answer.count("hit_shared", cached)
        answer.count("computed", len(answer.computed))


def _best(results: Results) -> str:
    """The revision that has answered most texts."""
    return max(results, key=lambda revision: len(results[revision]))


def _check_time(texts: Sequence[str], model: ModelRecord, budget_s: float) -> None:
    """Raises TextTooSlow for a text whose forward pass alone would take longer than the budget."""
    for text in texts:
        tokens = min(estimate_cost(text), model.longest)
        if (seconds := needs_s(tokens, model.long_s)) > budget_s:
            raise TextTooSlow(
                f"a text of {len(text)} characters has about {tokens} tokens, which take about {seconds:.0f} "
                f"s, and the budget is {round(budget_s, 1):g} s: send a part of it, a longer Prefer: wait or "
                "a job"
            )
