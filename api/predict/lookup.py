"""Looks up the predictions of texts: in the in-process cache, then in the shared cache and the queue.

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
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from time import monotonic, perf_counter
from typing import Protocol

from api.asgi.http import Answer, check_size
from api.auth import ClientLimits
from api.backend import Cache, Hub
from api.errors import Header, problem_of
from api.label_order import by_score
from api.settings import ApiSettings
from batcher.core.commands import NoteRefused
from batcher.core.snapshot import ModelRecord
from batcher.errors import BudgetExceeded, MillraceError, RevisionsMixed
from batcher.messages import Outcome, Prediction, entry_id

# How many model revisions are remembered.
MOST_MODELS = 64
# The overhead of an entry, measured with tracemalloc: key, CachedPrediction, float, size, dictionary slot.
OVERHEAD_BYTES = 350
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
# Results by text, for each revision.
Results = dict[str, dict[str, Prediction]]
# If a round brought nothing, the next one begins after this time, which doubles up to the longest.
PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.2
ADVICE = "workers of several revisions answered, and none of them all texts of the request; try again shortly"


@dataclass(frozen=True, slots=True)
class CachedPrediction:
    """A cached prediction. `expires_at` is a time of the monotonic clock, `size` the total size in bytes."""

    fragment: bytes
    truncated: int
    expires_at: float
    size: int
    tokens: int
    revision: str
    model: str

    def prediction(self) -> Prediction:
        """The same as a result of a worker."""
        return Prediction(self.fragment, self.revision, self.tokens, self.truncated, model=self.model)


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
        if tenant:
            texts = [_own(tenant, text) for text in texts]
        now = monotonic()
        get = self._entries.get
        used = self._entries.move_to_end
        found: list[CachedPrediction | None] = []
        for text in texts:
            key = (revision, text)
            cached = get(key)
            if cached is None:
                found.append(None)
            elif cached.expires_at > now:
                used(key)
                found.append(cached)
            else:
                self._drop(key)
                found.append(None)
        return found

    def put(self, text: str, prediction: Prediction, life_s: float, tenant: str = "") -> None:
        """Stores the prediction of `text` by its revision, for at most `life_s` seconds."""
        if tenant:
            text = _own(tenant, text)
        size = sys.getsizeof(text) + sys.getsizeof(prediction.fragment) + OVERHEAD_BYTES
        if not self._max_entries or size > self._max_bytes or life_s <= 0:
            return
        key = (prediction.revision, text)
        self._drop(key)
        while len(self._entries) >= self._max_entries or self.bytes + size > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.size
            self.evictions += 1
        expires_at = monotonic() + life_s
        self._entries[key] = CachedPrediction(
            prediction.fragment,
            prediction.truncated,
            expires_at,
            size,
            prediction.tokens,
            prediction.revision,
            prediction.model,
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


def _own(tenant: str, text: str) -> str:
    """A key for the text of a tenant. It is unique, because tenant names do not contain line breaks."""
    return f"{tenant}\n{text}"


class Models:
    """The current model. It is remembered while Redis or the workers are down: cached results stay valid.

    During a model rollout, results of the previous revision still arrive, so each revision keeps the name it
    was published under.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._headers: dict[str, bytes] = {}
        self._records: dict[str, ModelRecord] = {}
        self._revision = ""

    @property
    def revision(self) -> str:
        """The revision that workers published last; empty until the first one."""
        model = self._hub.snapshot.model
        if model is not None and model.revision != self._revision:
            self._revision = model.revision
            if len(self._headers) >= MOST_MODELS:
                self._headers.clear()
                self._records.clear()
            self._records[model.revision] = model
            self._headers[model.revision] = _header(model.name, model.revision)
        return self._revision

    def record(self, revision: str) -> ModelRecord | None:
        """What workers published about a revision; None if this process has not seen it."""
        model = self._hub.snapshot.model
        return model if model is not None and model.revision == revision else self._records.get(revision)

    @property
    def name(self) -> str:
        """The name of the model; empty until the first one."""
        model = self._hub.snapshot.model
        if model is not None:
            return model.name
        return self._headers.get(self._revision, b"").decode().rpartition("@")[0]

    def header(self, revision: str, name: str = "") -> bytes:
        """The value of X-Model: name@revision, with twelve characters of the revision.

        `name` is the model name in a result. It is used if this process has not seen the revision yet.
        """
        if revision not in self._headers and revision != self.revision:
            return _header(name, revision)
        return self._headers[revision]

    def answer_header(self, results: Iterable[CachedPrediction | Prediction]) -> bytes:
        """The value of X-Model for an answer: the models of all its results."""
        names = dict.fromkeys([(result.revision, result.model) for result in results])
        return b", ".join([self.header(*pair) for pair in names])


def _header(name: str, revision: str) -> bytes:
    return re.sub(r"[^!-~]|,", "_", f"{name}@{revision[:12]}").encode("ascii")


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
    # Whether the labels of the answer are by falling score.
    by_score: bool = False
    # The revision that is wanted, if not all results are of one: stored results of others do not answer.
    only: str = ""


@dataclass(slots=True)
class LookupResult:
    """Predictions by text, the texts computed for this request, and the time spent on caches.

    `ids` are those of the texts that the in-process cache did not know.
    `asked` texts went to the queue at `asked_at` (perf_counter). `outcomes` are counted for the metrics.
    """

    by_text: dict[str, Prediction] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)
    cache_s: float = 0.0
    ids: Mapping[str, str] = field(default_factory=dict)
    asked: int = 0
    asked_at: float = 0.0
    outcomes: dict[str | type[MillraceError], int] = field(default_factory=dict)

    def count(self, outcome: str | type[MillraceError], texts: int) -> None:
        """Counts texts with this outcome: a name from `api.metrics.OUTCOMES`, or the class of an error."""
        if texts:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + texts

    def add(self, part: LookupResult, cache_s: float) -> None:
        """Adds what was found for other texts of the request. `cache_s`: time on caches of both."""
        self.by_text |= part.by_text
        self.computed |= part.computed
        self.cache_s = cache_s
        self.ids = {**self.ids, **part.ids}
        if part.asked:
            self.asked_at = min(self.asked_at, part.asked_at) if self.asked else part.asked_at
            self.asked += part.asked
        for outcome, texts in part.outcomes.items():
            self.count(outcome, texts)

    def tokens(self, texts: Sequence[str], cached: Sequence[CachedPrediction | None]) -> int:
        """The tokens of all texts of the request, of which the in-process cache knew some."""
        return sum([(known or self.by_text[text]).tokens for text, known in zip(texts, cached, strict=True)])


def truncation(results: Sequence[CachedPrediction | Prediction]) -> list[Header]:
    """The headers of an answer of which the model could not read all tokens."""
    if not (left_out := sum([result.truncated for result in results])):
        return []
    texts = sum([result.truncated > 0 for result in results])
    return [(b"x-truncated", b"%d" % texts), (b"x-truncated-tokens", b"%d" % left_out)]


class Result(Protocol):
    """A result whose `fragment` is its JSON in an answer of /predict."""

    @property
    def fragment(self) -> bytes: ...


def joined(results: Sequence[Result], most: int, *, ordered: bool) -> bytes:
    """The body of /predict, with labels by falling score if `ordered`.

    Raises Problem 413 if it would have more than `most` bytes.
    """
    fragments = [result.fragment for result in results]
    check_size(sum(map(len, fragments)), most)
    if ordered:
        known = {fragment: by_score(fragment) for fragment in set(fragments)}
        fragments = [known[fragment] for fragment in fragments]
    return b'{"predictions":[%b]}' % b",".join(fragments)


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
        other.models = Models(hub)
        other._hub = hub
        other._shared = shared
        other._share_found = 0.0
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

    async def find_one(self, request: LookupRequest, found: LookupResult) -> LookupRequest:
        """As `find`, but all results are of one revision. Returns the request as if that had been asked for.

        During a rolling update, any worker may run a text, and their labels may differ in kind and order, so
        texts that another revision answered are asked again. Any worker may run those too, so the revision
        that has answered most texts is completed first. Also raises RevisionsMixed.
        """
        await self.find(request, found)
        results = _by_revision(request, found)
        if len(results) < 2:
            return request
        texts = list(dict.fromkeys(request.texts))
        revision = _best(results)
        pause_s = PAUSE_S
        while missing := [text for text in texts if text not in results[revision]]:
            before = len(missing)
            await self._ask_again(replace(request, texts=missing, only=revision), found, results)
            if sum(text not in results[revision] for text in missing) == before:
                # Its workers may have ended, or another worker may be idle each time.
                revision = random.choice(sorted(results))
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                revision = _best(results)
        found.by_text = results[revision]
        found.computed &= found.by_text.keys()
        return replace(request, revision=revision, cached=[None] * len(request.texts))

    async def _ask_again(self, request: LookupRequest, found: LookupResult, results: Results) -> None:
        """Asks for the texts of `request` again, and adds what is found to `results`."""
        known = self.local.find(request.only, request.texts, request.tenant)
        for text, result in zip(request.texts, known, strict=True):
            if result is not None:
                results[request.only][text] = result.prediction()
        missing = [text for text, result in zip(request.texts, known, strict=True) if result is None]
        if not missing:
            return
        if request.deadline <= perf_counter():
            raise RevisionsMixed(ADVICE, retry_after_s=1.0)
        part = LookupResult()
        asked = replace(request, texts=missing, cached=[None] * len(missing), revision=request.only)
        try:
            await self.find(asked, part)
        except BudgetExceeded:
            raise RevisionsMixed(ADVICE, retry_after_s=1.0) from None
        finally:
            found.add(part, found.cache_s + part.cache_s)
        for text, outcome in part.by_text.items():
            results.setdefault(outcome.revision, {})[text] = outcome

    async def find(self, request: LookupRequest, found: LookupResult) -> None:
        """Finds the predictions of all missing texts. Raises MillraceError or Problem.

        It fills `found`, which shows after an error how far the lookup got.
        """
        pairs = zip(request.texts, request.cached, strict=True)
        unknown_texts = dict.fromkeys(text for text, cached in pairs if cached is None)
        found.ids = ids = {text: entry_id(text, request.tenant) for text in unknown_texts}
        found.count("hit_local", len(request.cached) - request.cached.count(None))
        looks = self._queue_checks_cache(request, len(ids))
        if request.revision and not looks:
            await self._read_shared(request, ids, found)
        unknown = list(ids) if looks else [text for text in ids if text not in found.by_text]
        if unknown:
            with self.limits.wait(request.client, len(unknown)) as first:
                asked = [ids[text] for text in unknown]
                revision = request.revision if looks else ""
                await self._compute(request, asked, unknown, found, first=first, revision=revision)
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
        try:
            hits = await self._shared.get(request.revision, list(ids.values()))
        except asyncio.CancelledError:
            found.count("cancelled", len(ids))
            raise
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
            outcomes = await self._hub.classify(
                ids,
                texts,
                budget_s=budget_s,
                trace=request.trace,
                first=first,
                revision=revision,
                only=request.only,
            )
        except MillraceError as error:
            found.count(type(error), len(texts))
            raise
        except asyncio.CancelledError:
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
            (b"x-model", self.models.answer_header(results)),
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


def _by_revision(request: LookupRequest, found: LookupResult) -> Results:
    results: Results = {}
    for text, result in found.by_text.items():
        results.setdefault(result.revision, {})[text] = result
    for text, known in zip(request.texts, request.cached, strict=True):
        if known is not None:
            results.setdefault(known.revision, {})[text] = known.prediction()
    return results


def _best(results: Results) -> str:
    """The revision that has answered most texts."""
    return max(results, key=lambda revision: len(results[revision]))
