"""The routes under /admin/refused: texts that were refused as poison or that the model failed on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from api.admin.schemas import RefusedPage, Selection
from api.admin.service import Console
from api.backend import Hub
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
    refused = console.books.refused

    @router.get("")
    async def list_refused(query: Annotated[RefusedPage, Query()]) -> Record:
        """Newest first. A page may have fewer than `limit` records even if there is a `next_cursor`."""
        records, following = await console.call(refused.page, query.filter, query.limit, query.cursor)
        texts: Sequence[str | None] = [None] * len(records)
        if shows_texts:
            texts = await console.call(refused.texts, [record["id"] for record in records])
        shown = [_shown(record, text) for record, text in zip(records, texts, strict=True)]
        return {"refused": shown, "texts_shown": shows_texts, "next_cursor": following or None}

    @router.post("/retry")
    async def retry(request: Request, selection: Selection) -> dict[str, int]:
        """Tries texts again that are still kept; those that succeed leave the list."""
        found = await _records(console, selection, MOST_RETRIED)
        counts = await _retry(console, hub, found)
        await console.record(request, "retry", **counts)
        return counts

    @router.post("/release")
    async def release(request: Request, selection: Selection) -> dict[str, int]:
        """Removes the mark of poison, so that the next request runs the text."""
        ids = [record["id"] for record in await _records(console, selection, MOST_CHANGED)]
        released = await console.call(refused.release, ids)
        await console.record(request, "release", released=released)
        return {"released": released}

    @router.post("/delete")
    async def delete(request: Request, selection: Selection) -> dict[str, int]:
        """Removes records, with the texts and marks that belong to them."""
        ids = [record["id"] for record in await _records(console, selection, MOST_CHANGED)]
        deleted = await console.call(refused.delete, ids)
        await console.record(request, "delete_refused", deleted=deleted)
        return {"deleted": deleted}

    return router


def _shown(record: Record, text: str | None) -> Record:
    """A record as it is listed, with the beginning of its text if it may be shown."""
    shown = {name: record[name] for name in ("id", "code", "attempts", "revision", "lane", "text_held")}
    shown |= {"at_ms": int(record["place"][:13]), "client": record.get("client", "")}
    shown["workers"] = record["workers"].split()
    if text is not None:
        shown |= {"text": text[:SHOWN_CHARS], "chars": len(text)}
    return shown


async def _records(console: Console, selection: Selection, most: int) -> list[Record]:
    """The selected records, at most `most`."""
    refused = console.books.refused
    if selection.ids is not None:
        return (await console.call(refused.find, selection.ids))[:most]
    assert selection.filter is not None, "the schema requires one of the two"
    wanted = selection.filter.filter
    return await console.call(lambda: list(islice(refused.all(wanted), most)))


async def _retry(console: Console, hub: Hub, records: Sequence[Record]) -> dict[str, int]:
    """How many texts were found, are not kept, were classified, and failed again."""
    refused = console.books.refused
    ids = [record["id"] for record in records]
    texts = await console.call(refused.texts, ids)
    held = {
        record["id"]: (record, text) for record, text in zip(records, texts, strict=True) if text is not None
    }
    classified: list[str] = []
    if held:
        await console.call(refused.release, list(held))
        outcomes = await hub.classify(
            list(held), [text for _, text in held.values()], budget_s=RETRY_BUDGET_S
        )
        for (entry, (record, text)), outcome in zip(held.items(), outcomes, strict=True):
            if isinstance(outcome, MillraceError):
                hub.console.send(NoteRefused(entry, record.get("client", ""), text))
            else:
                classified.append(entry)
        await console.call(refused.delete, classified)
    counts = {"found": len(ids), "not_held": len(ids) - len(held), "classified": len(classified)}
    return counts | {"failed": len(held) - len(classified)}
