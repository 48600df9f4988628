"""What the edge needs of the mill behind it: the two contracts it calls, and the model it believes in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from batcher.core.eviction import EvictionWatch
from batcher.core.outage import Outage
from batcher.hub.dispatcher import HubCounts
from batcher.messages import Lane, Outcome, Prediction, Snapshot

# Revisions whose names are remembered.
MOST_MODELS = 64


class Hub(Protocol):
    """`batcher.hub.hub.ReplyHub`, or a pretended one."""

    snapshot: Snapshot
    counts: HubCounts
    outage: Outage
    eviction: EvictionWatch

    @property
    def alive(self) -> bool: ...
    @property
    def reachable(self) -> bool: ...
    @property
    def waiting(self) -> int: ...
    @property
    def looks(self) -> bool: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def classify(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        budget_s: float,
        lane: Lane = ...,
        trace: str = ...,
        first: bool = ...,
        revision: str = ...,
    ) -> list[Outcome]: ...


class Cache(Protocol):
    """`batcher.hub.shared_cache.SharedCache`, or a pretended one."""

    outage: Outage

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]: ...
    async def close(self) -> None: ...


class Models:
    """The current model, remembered while the mill is away: what the cache knows of it is still true.

    While models are exchanged, results of the one before still come: each revision keeps the name that it was
    published under.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._headers: dict[str, bytes] = {}
        self._revision = ""

    @property
    def revision(self) -> str:
        """Of the last model that workers published; empty before the first."""
        model = self._hub.snapshot.model
        if model is not None and model.revision != self._revision:
            self._revision = model.revision
            if len(self._headers) >= MOST_MODELS:
                self._headers.clear()
            self._headers[model.revision] = _header(model.name, model.revision)
        return self._revision

    def header(self, revision: str, name: str = "") -> bytes:
        """name@revision as X-Model carries it, with twelve characters of the revision.

        `name` is what a result says, for a revision that no worker has published to this process yet.
        """
        if revision not in self._headers and revision != self.revision:
            return _header(name, revision)
        return self._headers[revision]


def _header(name: str, revision: str) -> bytes:
    return re.sub(r"[^!-~]|,", "_", f"{name}@{revision[:12]}").encode("ascii")
