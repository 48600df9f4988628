"""Builds responses from predictions: joins their encoded fragments and adds the response headers."""

from __future__ import annotations

from collections.abc import Sequence

from api.asgi.responses import Answer
from api.backend import Models
from api.errors import Header
from api.predict.local_cache import CachedPrediction
from api.predict.lookup import LookupRequest, LookupResult
from batcher.messages import Prediction

_HIT: Header = (b"x-cache", b"HIT")
_MISS: Header = (b"x-cache", b"MISS")
_PARTIAL: Header = (b"x-cache", b"PARTIAL")


def all_known(
    models: Models, revision: str, cached: Sequence[CachedPrediction], cache_s: float, total_s: float
) -> Answer:
    """The response if every text was in the in-process cache."""
    headers: list[Header] = [
        _HIT,
        (b"x-model", models.header(revision)),
        (b"server-timing", b"cache;dur=%.3f, total;dur=%.3f" % (cache_s * 1e3, total_s * 1e3)),
    ]
    truncated = sum([known.truncated for known in cached])
    return _answer(headers, [known.fragment for known in cached], truncated)


def some_found(models: Models, request: LookupRequest, found: LookupResult, total_s: float) -> Answer:
    """The response if some texts came from the shared cache or the model."""
    fragments: list[bytes] = []
    names: dict[str, str] = {}  # model name by revision, from the results
    truncated = computed = 0
    for text, cached in zip(request.texts, request.cached, strict=True):
        if cached:
            known: CachedPrediction | Prediction = cached
            names.setdefault(request.revision, "")
        else:
            known = result = found.by_text[text]
            names[result.revision] = result.model
        fragments.append(known.fragment)
        truncated += known.truncated
        computed += text in found.computed
    cache = _HIT if not computed else _MISS if computed == len(fragments) else _PARTIAL
    model = b", ".join([models.header(revision, name) for revision, name in names.items()])
    return _answer([cache, (b"x-model", model), _timing(found, total_s)], fragments, truncated)


def _timing(found: LookupResult, total_s: float) -> Header:
    """Server-Timing in ms. For several batches, the slowest time of each stage and the largest batch size."""
    parts = [b"cache;dur=%.3f" % (found.cache_s * 1e3)]
    if found.computed:
        runs = [found.by_text[text] for text in found.computed]
        parts += [
            b"queue;dur=%.3f" % max(run.queue_ms for run in runs),
            b'batch;desc="%d"' % max(run.batch_size for run in runs),
            b"tokenize;dur=%.3f" % max(run.tokenize_ms for run in runs),
            b"model;dur=%.3f" % max(run.model_ms for run in runs),
        ]
    parts.append(b"total;dur=%.3f" % (total_s * 1e3))
    return (b"server-timing", b", ".join(parts))


def _answer(headers: list[Header], fragments: list[bytes], truncated: int) -> Answer:
    if truncated:
        headers.append((b"x-truncated", b"%d" % truncated))
    return Answer(200, headers, b'{"predictions":[%b]}' % b",".join(fragments))
