"""Offers what was computed to a shadow, once it has been found (decision 0017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batcher.lookup.queue import Known, Lookup, LookupRequest, LookupResult, Models
from batcher.lookup.share import Takes
from batcher.messages import Prediction


class ShadowedLookup:
    """Finds what `lookup` finds, and offers the share of the texts that were computed for it.

    `offer` gets the id of a text, the text, and its result: `batcher.publishing.shadow.Shadow.offer`.
    """

    def __init__(self, lookup: Lookup, offer: Callable[[str, str, Prediction], None], takes: Takes) -> None:
        self._lookup = lookup
        self._offer = offer
        self._takes = takes

    @property
    def models(self) -> Models:
        return self._lookup.models

    @property
    def names_models(self) -> bool:
        return self._lookup.names_models

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
