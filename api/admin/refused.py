"""The routes under /admin/refused: texts that were refused as poison or that the model failed on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from api.admin.schemas import RefusedPage, Selection
from api.admin.service import Console
from api.backend import Hub
from batcher.admin.refused import merge_pages
from batcher.core.console import NoteRefused
from batcher.errors import MillraceError

# The most texts that one request tries again, and for how long.
MOST_RETRIED = 100
RETRY_BUDGET_S = 20.0
# The most records that one request changes.
MOST_CHANGED = 10_000
# How much of a text a list shows.
SHOWN_CHARS = 500
Record = dict[str, Any]


def refused_routes(console: Console, hub: Hub, shows_texts: bool) -> APIRouter:
    router = APIRouter(prefix="/admin/refused")

    @router.get("")
    async def list_refused(query: Annotated[RefusedPage, Query()]) -> Record:
        """Newest first. A page may have fewer than `limit` records even if there is a `next_cursor`."""
        wanted = query.filter
        pages = await console.each(lambda shard: shard.refused.page(wanted, query.limit, query.cursor))
        records, following = merge_pages(pages.found, query.limit)
        texts = await _texts(console, records) if shows_texts else {}
        shown = [_shown(record, texts.get(record["id"])) for record in records]
        body = {"refused": shown, "texts_shown": shows_texts, "next_cursor": following or None}
        return {**body, **pages.facts}

    @router.post("/retry")
    async def retry(request: Request, selection: Selection) -> Record:
        """Tries texts again that are still kept; those that succeed leave the list."""
        found, facts = await _records(console, selection, MOST_RETRIED)
        counts = await _retry(console, hub, found)
        await console.record(request, "retry", **counts, **facts)
        return {**counts, **facts}

    @router.post("/release")
    async def release(request: Request, selection: Selection) -> Record:
        """Removes the mark of poison, so that the next request runs the text."""
        records, facts = await _records(console, selection, MOST_CHANGED)
        ids = [record["id"] for record in records]
        released = sum((await console.each(lambda shard: shard.refused.release(ids))).found)
        await console.record(request, "release", released=released, **facts)
        return {"released": released, **facts}

    @router.post("/delete")
    async def delete(request: Request, selection: Selection) -> Record:
        """Removes records, with the texts and marks that belong to them."""
        records, facts = await _records(console, selection, MOST_CHANGED)
        deleted = await _delete(console, [record["id"] for record in records])
        await console.record(request, "delete_refused", deleted=deleted, **facts)
        return {"deleted": deleted, **facts}

    return router


def _shown(record: Record, text: str | None) -> Record:
    """A record as it is listed, with the beginning of its text if it may be shown."""
    shown = {name: record[name] for name in ("id", "code", "attempts", "revision", "lane", "text_held")}
    shown |= {"at_ms": int(record["place"][:13]), "client": record.get("client", "")}
    shown["workers"] = record["workers"].split()
    if text is not None:
        shown |= {"text": text[:SHOWN_CHARS], "chars": len(text)}
    return shown


async def _records(
    console: Console, selection: Selection, most: int
) -> tuple[list[Record], Mapping[str, Any]]:
    """The selected records, at most `most`, the newest first if there are more; and which shards are down."""
    if (ids := selection.ids) is not None:
        replies = await console.each(lambda shard: shard.refused.find(ids))
    else:
        assert selection.filter is not None, "the schema requires one of the two"
        wanted = selection.filter.filter
        replies = await console.each(lambda shard: list(islice(shard.refused.all(wanted), most)))
    records = [record for found in replies.found for record in found]
    records.sort(key=lambda record: str(record["place"]), reverse=True)
    return records[:most], replies.facts


async def _texts(console: Console, records: Sequence[Record]) -> dict[str, str]:
    """The texts that are kept, by their ids."""
    ids = [record["id"] for record in records]
    replies = await console.each(lambda shard: shard.refused.texts(ids))
    return {
        entry: text
        for texts in replies.found
        for entry, text in zip(ids, texts, strict=True)
        if text is not None
    }


async def _delete(console: Console, ids: Sequence[str]) -> int:
    return sum((await console.each(lambda shard: shard.refused.delete(ids))).found)


async def _retry(console: Console, hub: Hub, records: Sequence[Record]) -> dict[str, int]:
    """How many texts were found, are not kept, were classified, and failed again."""
    texts = await _texts(console, records)
    held = {record["id"]: record for record in records if record["id"] in texts}
    classified: list[str] = []
    if held:
        ids = list(held)
        await console.each(lambda shard: shard.refused.release(ids))
        outcomes = await hub.classify(ids, [texts[entry] for entry in ids], budget_s=RETRY_BUDGET_S)
        for (entry, record), outcome in zip(held.items(), outcomes, strict=True):
            if isinstance(outcome, MillraceError):
                hub.console.send(NoteRefused(entry, record.get("client", ""), texts[entry]))
            else:
                classified.append(entry)
        await _delete(console, classified)
    counts = {"found": len(records), "not_held": len(records) - len(held), "classified": len(classified)}
    return counts | {"failed": len(held) - len(classified)}
