"""POST /admin/forget: removes a text, a client or a revision from everything that the service keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Request

from api.admin.schemas import Forget
from api.admin.service import Console, Replies
from api.admin.traces import Traces
from api.settings import ApiSettings
from batcher.admin.forget import CachedResults, Removed, total
from batcher.core.commands import HELD, Answer
from batcher.lookup.backend import Hub
from batcher.messages import entry_id
from batcher.version import process_name


class Memory:
    """What this process keeps of texts and clients in memory. `clear` are the functions that empty it.

    `held` say how many requests and comparisons in progress have the text with an id: they may go on with it.
    """

    def __init__(
        self, hub: Hub, clear: Sequence[Callable[[], None]], held: Sequence[Callable[[str], int]]
    ) -> None:
        self._hub = hub
        self._clear = clear
        self._held = held
        self._forgotten = 0
        self._answered = ""
        self._name = process_name()

    def forget(self) -> None:
        """Empties it."""
        for clear in self._clear:
            clear()

    def follow(self) -> None:
        """Empties it if an operator made another process do so, and answers what of a text is held."""
        if self._forgotten != (forgotten := self._hub.snapshot.forgotten):
            self._forgotten = forgotten
            self.forget()
        question = self._hub.snapshot.question
        if question is None or question.kind != HELD or question.token == self._answered:
            return
        self._answered = question.token
        if held := sum(held(entry) for held in self._held for entry in question.ids):
            # At every shard: the process that asks may not reach each, and counts equal answers once.
            answer = {"process": self._name, "held": held}
            self._hub.console.send_to_all(Answer(question.token, json.dumps(answer)))


def add_forget(
    router: APIRouter,
    console: Console,
    settings: ApiSettings,
    forget_here: Callable[[], None],
    traces: Traces,
) -> None:
    """`forget_here` empties the memory of this process; the others follow within two seconds."""
    names = settings.api_keys.get_secret_value().values() if settings.separate_clients else ()
    tenants = {f"key:{name}" for name in names}

    @router.post("/admin/forget")
    async def forget(request: Request, what: Forget) -> dict[str, Any]:
        """Removes it from caches, kept results, records and jobs, at every shard that answers."""
        removed, replies, named = await _forget(console, what, tenants, traces)
        forget_here()
        await console.record(request, "forget", **named, keys=total(removed), **replies.facts)
        return {"keys": total(removed), "removed": removed, **replies.facts}


async def _forget(
    console: Console, what: Forget, tenants: set[str], traces: Traces
) -> tuple[Removed, Replies[Removed], dict[str, str]]:
    """What was removed, which shards have done so, and how the audit line names it."""
    if what.revision is not None:
        removed, replies = await _revision(console, what.revision)
        return removed, replies, {"what": f"revision {what.revision}"}
    if what.text is not None:
        removed, replies = await _text(console, what.text, tenants | set(what.tenants), traces)
        return removed, replies, {"what": "a text"}
    assert what.client is not None, "the schema requires one of the three"
    removed, replies = await _client(console, what.client)
    return removed, replies, {"what": f"client {what.client}"}


async def _text(
    console: Console, text: str, tenants: Iterable[str], traces: Traces
) -> tuple[Removed, Replies[Removed]]:
    """`waiting` says whether it waits, runs or is in a request now: it may then be stored once more.

    Nothing is removed before all processes have been asked: requests and jobs that had the text then store
    nothing after that, unless they are counted.
    """
    ids = {entry_id(text, tenant) for tenant in ("", *tenants)}
    stores = console.stores
    chunks, files = await console.call_elsewhere(stores.jobs.text, text)
    held = await _held(traces, text)
    models = await _models(console)
    # First, so that what does not wait any more has no result that is sent after others were removed.
    waiting = await console.each(lambda shard: shard.forgetting.waiting(ids, models))
    cached = await _cached_elsewhere(console, lambda cache: cache.texts(ids))
    replies = await console.each(lambda shard: shard.forgetting.text(ids, models))
    own = _summed(replies, "cached", "results", "refused")
    own["cached"] += cached
    own |= {"jobs": chunks, "files": files, "waiting": sum(waiting.found) + held}
    return own, Replies(replies.found, sorted({*waiting.down, *replies.down}))


async def _held(traces: Traces, text: str) -> int:
    """How many requests and comparisons in progress have the text, of whichever client.

    One more if this is not known, since other questions were open.
    """
    answers = await traces.ask(HELD, [entry_id(text)], bool)
    if answers is None:
        return 1
    return sum({answer["process"]: answer["held"] for answer in answers}.values())


async def _models(console: Console) -> set[str]:
    known = await console.each(lambda shard: shard.forgetting.models())
    return set[str]().union(*known.found)


async def _client(console: Console, client: str) -> tuple[Removed, Replies[Removed]]:
    models = await _models(console)
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
