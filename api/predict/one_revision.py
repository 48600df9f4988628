"""Makes all results of a request those of one revision, while workers of several answer.

During a rolling update, any worker may run a text, and their labels may differ in kind and order. An answer
that depends on a table of labels must be of one revision, so texts that another one answered are asked again.
Any worker may run those too, so the revision that has answered most texts is completed first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from time import perf_counter

from api.asgi.http import Receive
from api.predict.local_cache import LocalCache
from api.predict.request import LookupRequest, LookupResult
from batcher.errors import BudgetExceeded, RevisionsMixed
from batcher.messages import Prediction

Find = Callable[[LookupRequest, Receive, LookupResult], Awaitable[None]]
# Results by text, for each revision.
Results = dict[str, dict[str, Prediction]]

# If a round brought nothing, the next one begins after this time, which doubles up to the longest.
PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.2
ADVICE = "workers of several revisions answered, and none of them all texts of the request; try again shortly"


async def find_one_revision(
    find: Find, local: LocalCache, request: LookupRequest, receive: Receive, found: LookupResult
) -> LookupRequest:
    """Finds results of one revision. Returns the request as if that revision had been asked for.

    Raises what `find` raises, and RevisionsMixed.
    """
    await find(request, receive, found)
    results = _by_revision(request, found)
    if len(results) < 2:
        return request
    texts = list(dict.fromkeys(request.texts))
    revision, pause_s = _best(results), PAUSE_S
    while missing := [text for text in texts if text not in results[revision]]:
        before = len(missing)
        await _ask(find, local, replace(request, texts=missing, only=revision), receive, found, results)
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


def _by_revision(request: LookupRequest, found: LookupResult) -> Results:
    results: Results = {}
    for text, result in found.by_text.items():
        results.setdefault(result.revision, {})[text] = result
    for text, known in zip(request.texts, request.cached, strict=True):
        if known is not None:
            results.setdefault(request.revision, {})[text] = known.prediction(request.revision)
    return results


def _best(results: Results) -> str:
    """The revision that has answered most texts."""
    return max(results, key=lambda revision: len(results[revision]))


async def _ask(
    find: Find,
    local: LocalCache,
    request: LookupRequest,
    receive: Receive,
    found: LookupResult,
    results: Results,
) -> None:
    """Asks for the texts of `request` again, and adds what is found to `results`."""
    known = local.find(request.only, request.texts, request.tenant)
    for text, result in zip(request.texts, known, strict=True):
        if result is not None:
            results[request.only][text] = result.prediction(request.only)
    missing = [text for text, result in zip(request.texts, known, strict=True) if result is None]
    if not missing:
        return
    if request.deadline <= perf_counter():
        raise RevisionsMixed(ADVICE, retry_after_s=1.0)
    part = LookupResult()
    asked = _part(request, missing)
    try:
        await find(asked, receive, part)
    except BudgetExceeded:
        raise RevisionsMixed(ADVICE, retry_after_s=1.0) from None
    finally:
        found.add(part, found.cache_s + part.cache_s)
    for text, outcome in part.by_text.items():
        results.setdefault(outcome.revision, {})[text] = outcome


def _part(request: LookupRequest, texts: Sequence[str]) -> LookupRequest:
    """The request for some of its texts."""
    return replace(request, texts=texts, cached=[None] * len(texts), revision=request.only)
