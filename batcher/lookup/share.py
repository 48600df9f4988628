"""A candidate that answers a share of the texts, or all texts of a share of the clients (decision 0017)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from batcher.core.publications import Candidate
from batcher.lookup.queue import Known, Lookup, LookupRequest, LookupResult, Result
from batcher.messages import Prediction

# Characters of the texts whose revisions are remembered: those of many requests, and at least of one text.
MAX_CHARS = 1_000_000
# Whether a text of a client is in the share.
Takes = Callable[[str, str], bool]


class ShareLookup:
    """Looks up each text where its revision answers. A request may have texts of both.

    If all results must be of one revision, it is that of the first text.
    """

    names_models = False

    def __init__(self, current: Lookup, candidate: Lookup, takes: Takes) -> None:
        self.models = current.models.joined(candidate.models)
        self._both = current, candidate
        self._takes = takes

    def known(self, texts: Sequence[str], client: str, tenant: str, one_revision: bool) -> Known:
        by_text: dict[str, Result] = {}
        for lookup, part in self._parts(texts, client, one_revision):
            results = lookup.known(part, client, tenant, one_revision)
            if results is None:
                return None
            by_text.update(zip(part, results, strict=True))
        return [by_text[text] for text in texts]

    async def find(self, request: LookupRequest, answer: LookupResult) -> None:
        chosen = self._parts(request.texts, request.client, request.one_revision)
        parts = [(lookup, texts, LookupResult()) for lookup, texts in chosen]
        try:
            await _side_by_side(
                lookup.find(request._replace(texts=texts), one) for lookup, texts, one in parts
            )
        finally:
            for _, _, result in parts:  # they were found side by side
                answer.add(result, max(answer.cache_s, result.cache_s))

    def _parts(
        self, texts: Sequence[str], client: str, one_revision: bool
    ) -> list[tuple[Lookup, Sequence[str]]]:
        """The lookups that are asked, and the texts of each."""
        if one_revision:
            return [(self._both[self._takes(texts[0], client)], texts)]
        parts: tuple[list[str], list[str]] = ([], [])
        for text in texts:
            parts[self._takes(text, client)].append(text)
        return [(lookup, part) for lookup, part in zip(self._both, parts, strict=True) if part]


async def _side_by_side(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all of them side by side. If one raises, or this is cancelled, all are cancelled.

    Raises what the first one raised.
    """
    tasks = [asyncio.create_task(one) for one in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Choices:
    """Which texts, or clients, are the candidate's. A request asks several times for each of its texts."""

    def __init__(self, setting: Candidate) -> None:
        self._setting = setting
        self.forget()

    def forget(self) -> None:
        """Forgets what it has been asked for."""
        self._known: dict[str, bool] = {}
        self._chars = 0

    def __call__(self, text: str, client: str) -> bool:
        key = text if self._setting.by == "text" else client
        taken = self._known.get(key)
        if taken is None:
            taken = self._setting.takes(text, client)
            self._chars += len(key)
            if self._chars > MAX_CHARS:
                self.forget()
                self._chars = len(key)
            self._known[key] = taken
        return taken


class ShadowedLookup:
    """Finds what `lookup` finds, and offers the share of the texts that were computed for it.

    `offer` gets the id of a text, the text, and its result: `batcher.publishing.shadow.Shadow.offer`.
    """

    def __init__(self, lookup: Lookup, offer: Callable[[str, str, Prediction], None], takes: Takes) -> None:
        self.models = lookup.models
        self.names_models = lookup.names_models
        self._lookup = lookup
        self._offer = offer
        self._takes = takes

    def change(self, takes: Takes) -> None:
        """Offers another share from now on."""
        self._takes = takes

    def known(self, texts: Sequence[str], client: str, tenant: str, one_revision: bool) -> Known:
        return self._lookup.known(texts, client, tenant, one_revision)

    async def find(self, request: LookupRequest, answer: LookupResult) -> None:
        await self._lookup.find(request, answer)
        for text, result in answer.computed.items():
            if self._takes(text, request.client):
                self._offer(answer.ids[text], text, result)
