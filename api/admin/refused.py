"""The routes under /admin/refused: texts that were refused as poison or that the model failed on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request

from api.admin.schemas import RefusedPage, Selection
from api.admin.service import Console, Replies
from api.models.served import ServedModels
from batcher.admin.refused import RefusedTexts, merge_pages
from batcher.core.commands import NoteRefused
from batcher.errors import MillraceError

# The most texts that one request tries again, and for how long.
MAX_RETRIED = 100
RETRY_BUDGET_S = 20.0
# The most records that one request changes.
MAX_CHANGED = 10_000
# How much of a text a list shows.
SHOWN_CHARS = 500
Record = dict[str, Any]
T = TypeVar("T")
Change = Callable[["_Model", Sequence[Record]], Awaitable[Record]]


def refused_routes(console: Console, models: ServedModels, shows_texts: bool) -> APIRouter:
    router = APIRouter(prefix="/admin/refused", include_in_schema=False)

    @router.get("")
    async def list_refused(query: Annotated[RefusedPage, Query()]) -> Record:
        """Newest first. A page may have fewer than `limit` records even if there is a `next_cursor`."""
        model = _Model(console, models, query.model)
        wanted = query, query.limit, query.cursor
        pages = await model.each(lambda refused: refused.page(*wanted))
        records, following = merge_pages(pages.found, query.limit)
        texts = await model.beginnings(records) if shows_texts else {}
        facts = {"texts_shown": shows_texts, "next_cursor": following or None, **pages.facts}
        return {"refused": [_shown(record, texts.get(record["id"])) for record in records], **facts}

    _add_changes(router, console, models)
    return router


def _add_changes(router: APIRouter, console: Console, models: ServedModels) -> None:
    async def change(
        request: Request, selection: Selection, action: str, act: Change, most: int = MAX_CHANGED
    ) -> Record:
        model = _Model(console, models, selection.model)
        records, facts = await model.records(selection, most)
        answer = {**await act(model, records), **facts}
        await console.record(request, action, **model.facts, **answer)
        return answer

    @router.post("/retry")
    async def retry(request: Request, selection: Selection) -> Record:
        """Tries texts again that are still kept; those that succeed leave the list."""
        return await change(request, selection, "retry", _Model.retry, MAX_RETRIED)

    @router.post("/release")
    async def release(request: Request, selection: Selection) -> Record:
        """Removes the mark of poison, so that the next request runs the text."""
        return await change(request, selection, "release", _Model.release)

    @router.post("/delete")
    async def delete(request: Request, selection: Selection) -> Record:
        """Removes records, with the texts and marks that belong to them."""
        return await change(request, selection, "delete_refused", _Model.delete)


class _Model:
    """The refused texts of one model: of all its publications, at all shards. Raises Problem 404."""

    def __init__(self, console: Console, models: ServedModels, name: str) -> None:
        self._console = console
        publications = models.publications(models.model(name))
        self._queues = [one.queue for one in publications]
        self._hub = publications[0].hub
        # For the audit.
        self.facts = {"model": name} if name else {}

    async def each(self, function: Callable[[RefusedTexts], T]) -> Replies[T]:
        """Calls a function for every revision at every shard that is up. Raises as `Console.each` does."""
        replies = await self._console.each(
            lambda shard: [function(shard.refused(queue)) for queue in self._queues]
        )
        return Replies([reply for found in replies.found for reply in found], replies.down)

    async def records(self, selection: Selection, most: int) -> tuple[list[Record], Mapping[str, Any]]:
        """The selected records, at most `most`, the newest first; and which shards are down."""
        if (ids := selection.ids) is not None:
            replies = await self.each(lambda refused: refused.find(ids))
        else:
            wanted = selection.filter
            assert wanted is not None, "the schema requires one of the two"
            replies = await self.each(lambda refused: list(islice(refused.all(wanted), most)))
        records = [record for found in replies.found for record in found]
        records.sort(key=lambda record: str(record["place"]), reverse=True)
        return records[:most], replies.facts

    async def beginnings(self, records: Sequence[Record]) -> dict[str, tuple[str, int]]:
        """What a list shows of the texts that are kept, and how many characters each has."""
        return await self._kept(records, lambda refused, ids: refused.beginnings(ids, SHOWN_CHARS))

    async def _kept(
        self, records: Sequence[Record], read: Callable[[RefusedTexts, list[str]], list[T | None]]
    ) -> dict[str, T]:
        """What is read of the texts that are kept, by their ids."""
        ids = [record["id"] for record in records]
        replies = await self.each(lambda refused: read(refused, ids))
        return {
            entry: kept
            for found in replies.found
            for entry, kept in zip(ids, found, strict=True)
            if kept is not None
        }

    async def release(self, records: Sequence[Record]) -> Record:
        """Removes marks of poison. Returns how many there were."""
        return {"released": await self._change(RefusedTexts.release, records)}

    async def delete(self, records: Sequence[Record]) -> Record:
        """Removes records. Returns how many there were."""
        return {"deleted": await self._change(RefusedTexts.delete, records)}

    async def _change(self, act: Callable[[RefusedTexts, list[str]], int], records: Sequence[Record]) -> int:
        ids = [record["id"] for record in records]
        return sum((await self.each(lambda refused: act(refused, ids))).found)

    async def retry(self, records: Sequence[Record]) -> Record:
        """Tries the texts with the revision that answers now.

        Returns how many texts were found, are not kept, were classified, and failed again.
        """
        texts = await self._kept(records, RefusedTexts.texts)
        held = {record["id"]: record for record in records if record["id"] in texts}
        not_held = sum(record["id"] not in held for record in records)
        classified: list[Record] = []
        if held:
            ids = list(held)
            await self.release(list(held.values()))
            outcomes = await self._hub.classify(ids, [texts[entry] for entry in ids], budget_s=RETRY_BUDGET_S)
            for (entry, record), outcome in zip(held.items(), outcomes, strict=True):
                if isinstance(outcome, MillraceError):
                    note = NoteRefused(entry, record.get("client", ""), texts[entry])
                    self._hub.console.send_to_all(note)
                else:
                    classified.append(record)
            await self.delete(classified)
        counts = {"found": len(records), "not_held": not_held, "classified": len(classified)}
        return counts | {"failed": len(held) - len(classified)}


def _shown(record: Record, text: tuple[str, int] | None) -> Record:
    """A record as it is listed, with the beginning of its text if it may be shown."""
    shown = {name: record[name] for name in ("id", "code", "attempts", "revision", "lane", "text_held")}
    shown |= {"at_ms": int(record["place"][:13]), "client": record.get("client", "")}
    shown["workers"] = record["workers"].split()
    if text is not None:
        shown |= {"text": text[0], "chars": text[1]}
    return shown
