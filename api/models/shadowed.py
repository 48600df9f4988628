"""Offers what was computed for requests to a shadow."""

from __future__ import annotations

from api.predict.lookup import LookupRequest, LookupResult, PredictionLookup
from batcher.core.revisions import Candidate
from batcher.publishing.shadow import Shadow


class ShadowedLookup(PredictionLookup):
    """Offers the share of `setting` of the texts that it has computed."""

    def __init__(self, lookup: PredictionLookup, shadow: Shadow, setting: Candidate) -> None:
        self.replace(lookup)
        self.shadow = shadow
        self._setting = setting

    def change(self, setting: Candidate) -> None:
        """Offers the share of another setting from now on."""
        self._setting = setting

    async def find(self, request: LookupRequest, found: LookupResult) -> None:
        await super().find(request, found)
        for text in found.computed:
            if self._setting.takes(text, request.client):
                self.shadow.offer(found.ids[text], text, found.by_text[text])
