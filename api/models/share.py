"""A candidate that answers a share of the texts, or all texts of a share of the clients (decision 0017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from api.asgi.http import ASGIApp, Receive, RequestHeaders, Scope, Send
from api.auth import Authenticator
from api.models.served import Served
from api.predict.lookup import (
    CachedPrediction,
    LocalCache,
    LookupRequest,
    LookupResult,
    Models,
    PredictionLookup,
)
from batcher.core.revisions import Candidate
from batcher.core.snapshot import ModelRecord
from batcher.side_by_side import gather

# Characters of the texts whose revisions are remembered: those of many requests, and at least of one text.
MOST_CHARS = 1_000_000


class ByText(PredictionLookup):
    """Looks up each text where its revision answers. A request may have texts of both."""

    def __init__(self, current: PredictionLookup, candidate: PredictionLookup, setting: Candidate) -> None:
        self.replace(current)
        self._both = current, candidate
        self._takes = Choices(setting)
        self.local = _BothCaches(current.local, current.models, candidate.models, self._takes)
        self.models = _BothModels(current.models, candidate.models)

    def forget(self) -> None:
        """Forgets which texts it has been asked for."""
        self._takes.forget()

    def revision_of(self, texts: Sequence[str]) -> str:
        """The candidate's revision if it answers all of these texts, otherwise that of the other one."""
        return self._both[all(map(self._takes, texts))].models.revision

    def for_one(self, texts: Sequence[str]) -> PredictionLookup:
        """The lookup of the revision that answers the first text."""
        return self._both[self._takes(texts[0])]

    async def find(self, request: LookupRequest, found: LookupResult) -> None:
        parts = [part for part in self._parts(request) if part.places]
        try:
            await gather(part.find(request) for part in parts)
        finally:
            for part in parts:  # they were found side by side
                found.add(part.found, max(found.cache_s, part.found.cache_s))

    def _parts(self, request: LookupRequest) -> tuple[_Part, _Part]:
        parts = _Part(self._both[False]), _Part(self._both[True])
        for place, text in enumerate(request.texts):
            parts[self._takes(text)].places.append(place)
        return parts


class Choices:
    """Which texts are the candidate's. A request asks several times for each of its texts."""

    def __init__(self, setting: Candidate) -> None:
        self._setting = setting
        self.forget()

    def forget(self) -> None:
        """Forgets the texts."""
        self._known: dict[str, bool] = {}
        self._chars = 0

    def __call__(self, text: str) -> bool:
        taken = self._known.get(text)
        if taken is None:
            taken = self._setting.takes(text, "")
            self._chars += len(text)
            if self._chars > MOST_CHARS:
                self.forget()
                self._chars = len(text)
            self._known[text] = taken
        return taken


class _BothModels(Models):
    """Knows the revisions of both."""

    def __init__(self, current: Models, candidate: Models) -> None:
        vars(self).update(vars(current))
        self._both = current, candidate

    def record(self, revision: str) -> ModelRecord | None:
        current, candidate = self._both
        return current.record(revision) or candidate.record(revision)

    def header(self, revision: str, name: str = "") -> bytes:
        return self._both[revision == self._both[1].revision].header(revision, name)


class _BothCaches(LocalCache):
    """Finds each text under the revision that answers it."""

    def __init__(
        self, local: LocalCache, current: Models, candidate: Models, takes: Callable[[str], bool]
    ) -> None:
        self._local = local
        self._both = current, candidate
        self._takes = takes

    def find(self, revision: str, texts: Sequence[str], tenant: str = "") -> list[CachedPrediction | None]:
        taken = [*map(self._takes, texts)]
        found = [
            iter(
                self._local.find(
                    models.revision,
                    [text for text, other in zip(texts, taken, strict=True) if other == which],
                    tenant,
                )
            )
            for which, models in enumerate(self._both)
        ]
        return [next(found[which]) for which in taken]


@dataclass(slots=True)
class _Part:
    """The texts of a request that one revision answers, by their places in it."""

    lookup: PredictionLookup
    places: list[int] = field(default_factory=list)
    found: LookupResult = field(default_factory=LookupResult)

    async def find(self, request: LookupRequest) -> None:
        """Raises what `PredictionLookup.find` raises."""
        texts = [request.texts[place] for place in self.places]
        cached = [request.cached[place] for place in self.places]
        if None not in cached:
            self.found.count("hit_local", len(cached))
            return
        revision = self.lookup.models.revision
        whole = request.whole or request.texts
        part = replace(request, texts=texts, cached=cached, revision=revision, whole=whole)
        await self.lookup.find(part, self.found)


@dataclass(frozen=True, slots=True)
class ByClient(Served):
    """A model with a candidate that answers some clients."""

    candidate: Served
    setting: Candidate

    def lookup_for(self, client: str) -> PredictionLookup:
        return self.candidate.lookup if self.setting.takes("", client) else self.lookup


class ClientHandler:
    """Passes the requests of some clients to the candidate's handler."""

    def __init__(self, current: ASGIApp, candidate: ASGIApp, setting: Candidate, auth: Authenticator) -> None:
        self._current = current
        self._candidate = candidate
        self._setting = setting
        self._auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._auth.foresee(RequestHeaders(scope))
        handler = self._candidate if self._setting.takes("", client) else self._current
        await handler(scope, receive, send)
