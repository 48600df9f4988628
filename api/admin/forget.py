"""POST /admin/forget: removes a text, a client or a revision from everything that the service keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Request

from api.admin.schemas import Forget
from api.admin.service import Console, Replies
from api.settings import ApiSettings
from batcher.admin.forget import CachedResults, Removed, total
from batcher.lookup.backend import Hub
from batcher.messages import entry_id


class Memory:
    """What this process keeps of texts and clients in memory. `clear` are the functions that empty it."""

    def __init__(self, hub: Hub, clear: Sequence[Callable[[], None]]) -> None:
        self._hub = hub
        self._clear = clear
        self._forgotten = 0

    def forget(self) -> None:
        """Empties it."""
        for clear in self._clear:
            clear()

    def follow(self) -> None:
        """Empties it if an operator has made another process do so."""
        if self._forgotten != (forgotten := self._hub.snapshot.forgotten):
            self._forgotten = forgotten
            self.forget()


def add_forget(
    router: APIRouter, console: Console, settings: ApiSettings, forget_here: Callable[[], None]
) -> None:
    """`forget_here` empties the memory of this process; the others follow within two seconds."""
    names = settings.api_keys.get_secret_value().values() if settings.separate_clients else ()
    tenants = {f"key:{name}" for name in names}

    @router.post("/admin/forget")
    async def forget(request: Request, what: Forget) -> dict[str, Any]:
        """Removes it from caches, kept results, records and jobs, at every shard that answers."""
        removed, replies, named = await _forget(console, what, tenants)
        forget_here()
        await console.record(request, "forget", **named, keys=total(removed), **replies.facts)
        return {"keys": total(removed), "removed": removed, **replies.facts}


async def _forget(
    console: Console, what: Forget, tenants: set[str]
) -> tuple[Removed, Replies[Removed], dict[str, str]]:
    """What was removed, which shards have done so, and how the audit line names it."""
    if what.revision is not None:
        removed, replies = await _revision(console, what.revision)
        return removed, replies, {"what": f"revision {what.revision}"}
    known = await console.each(lambda shard: shard.forgetting.models())
    models = set[str]().union(*known.found)
    if what.text is not None:
        removed, replies = await _text(console, what.text, tenants | set(what.tenants), models)
        return removed, replies, {"what": "a text"}
    assert what.client is not None, "the schema requires one of the three"
    removed, replies = await _client(console, what.client, models)
    return removed, replies, {"what": f"client {what.client}"}


async def _text(
    console: Console, text: str, tenants: Iterable[str], models: set[str]
) -> tuple[Removed, Replies[Removed]]:
    """`waiting` says whether it waits or runs now: it will then be cached once more."""
    ids = {entry_id(text, tenant) for tenant in ("", *tenants)}
    stores = console.stores
    chunks, files = await console.call_elsewhere(stores.jobs.text, text)
    cached = await _cached_elsewhere(console, lambda cache: cache.texts(ids))
    replies = await console.each(lambda shard: shard.forgetting.text(ids, models))
    own = _summed(replies, "cached", "results", "refused", "waiting")
    waiting = own.pop("waiting")
    own["cached"] += cached
    return own | {"jobs": chunks, "files": files, "waiting": waiting}, replies


async def _client(console: Console, client: str, models: set[str]) -> tuple[Removed, Replies[Removed]]:
    jobs, files = await console.call_elsewhere(console.stores.jobs.client, client)
    replies = await console.each(lambda shard: shard.forgetting.client(client, models, jobs))
    return {"jobs": len(jobs), "files": files} | _summed(replies, "refused", "usage"), replies


async def _revision(console: Console, revision: str) -> tuple[Removed, Replies[Removed]]:
    cached = await _cached_elsewhere(console, lambda cache: cache.revision(revision))
    replies = await console.each(lambda shard: shard.forgetting.revision(revision))
    own = _summed(replies, "cached", "results")
    own["cached"] += cached
    jobs = await console.call_elsewhere(console.stores.jobs.revision, revision)
    return own | {"jobs": jobs}, replies


async def _cached_elsewhere(console: Console, remove: Callable[[CachedResults], int]) -> int:
    """How many results were removed from the cache, if that has its own Redis."""
    cache = console.stores.cached
    return 0 if cache is None else await console.call_elsewhere(remove, cache)


def _summed(replies: Replies[Removed], *kinds: str) -> Removed:
    return {kind: sum(removed.get(kind, 0) for removed in replies.found) for kind in kinds}
