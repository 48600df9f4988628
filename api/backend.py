"""Protocols for the hub and the shared cache, and a record of the models that workers have published."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from batcher.core.eviction import EvictionWatch
from batcher.core.outage import Outage
from batcher.hub.dispatcher import HubCounts
from batcher.messages import Lane, Outcome, Prediction, Snapshot

# How many model revisions are remembered.
MOST_MODELS = 64


class Hub(Protocol):
    """Implemented by `batcher.hub.hub.ReplyHub`, and by a fake in tests."""

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
    """Implemented by `batcher.hub.shared_cache.SharedCache`, and by a fake in tests."""

    outage: Outage

    async def get(self, revision: str, ids: Sequence[str]) -> list[Prediction | None]: ...
    async def close(self) -> None: ...


class Models:
    """The current model. It is remembered while Redis or the workers are down: cached results stay valid.

    During a model rollout, results of the previous revision still arrive, so each revision keeps the name it
    was published under.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._headers: dict[str, bytes] = {}
        self._revision = ""

    @property
    def revision(self) -> str:
        """The revision that workers published last; empty until the first one."""
        model = self._hub.snapshot.model
        if model is not None and model.revision != self._revision:
            self._revision = model.revision
            if len(self._headers) >= MOST_MODELS:
                self._headers.clear()
            self._headers[model.revision] = _header(model.name, model.revision)
        return self._revision

    def header(self, revision: str, name: str = "") -> bytes:
        """The value of X-Model: name@revision, with twelve characters of the revision.

        `name` is the model name in a result. It is used if this process has not seen the revision yet.
        """
        if revision not in self._headers and revision != self.revision:
            return _header(name, revision)
        return self._headers[revision]


def _header(name: str, revision: str) -> bytes:
    return re.sub(r"[^!-~]|,", "_", f"{name}@{revision[:12]}").encode("ascii")
