"""Texts that were refused as poison or that the model failed on: records that the queue's scripts write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

import redis
from pydantic import BaseModel, Field, StringConstraints

from batcher.admin.scanning import SLICE
from batcher.core.keys import Kept

# Most records that one page examines: a filter that matches few of them returns less than a page.
MAX_LOOKS = 2000
# A text has up to 80 KB, and a page a thousand of them.
SLICE_TEXTS = 50
Record = dict[str, Any]


# A client is `key:NAME` or an address; for IPv6 its network, fd00::/64.
CLIENT = r"^[A-Za-z0-9:][A-Za-z0-9._:/-]{0,127}$"
# Milliseconds since 1970, up to the year 2286.
Moment = Annotated[int, Field(ge=0, lt=10**13)]


class RefusedFilter(BaseModel):
    """Which records are wanted; "" and 0 mean any. Times are in ms since 1970, `until_ms` excluded."""

    code: Literal["", "poison", "inference_failed"] = ""
    revision: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9._-]{4,128})?$")] = ""
    worker: Annotated[str, StringConstraints(pattern=r"^[!-~]{0,255}$")] = ""
    client: Annotated[str, StringConstraints(pattern=rf"{CLIENT}|^$")] = ""
    since_ms: Moment = 0
    until_ms: Moment = 0

    def matches(self, record: Mapping[str, Any]) -> bool:
        return (
            self.code in ("", record["code"])
            and record["revision"].startswith(self.revision)
            and (not self.worker or self.worker in record["workers"].split())
            and self.client in ("", record.get("client", ""))
        )


class RefusedTexts(Kept):
    """The records of one service. The scripts keep the newest 10,000, for a week.

    A record's place, by which they are sorted, is `ms since 1970:id`.
    """

    def __init__(self, client: redis.Redis, name: str) -> None:
        super().__init__(client, name)
        self._places = f"{self._root}:refused"
        self._records = f"{self._root}:refusals"

    def page(self, wanted: RefusedFilter, count: int, cursor: str = "") -> tuple[list[Record], str]:
        """Up to `count` records, newest first, and the cursor of the next page: "" at the end.

        Takes three round trips however many there are. `text_held` says whether the text is kept.
        """
        newest = f"({cursor}" if cursor else f"({wanted.until_ms:013d}" if wanted.until_ms else "+"
        oldest = f"[{wanted.since_ms:013d}"
        found_places = self._client.zrevrangebylex(self._places, newest, oldest, start=0, num=MAX_LOOKS)
        places = cast("list[bytes]", found_places)
        found = list[Record]()
        following = ""
        records = self._read([place[14:].decode() for place in places])
        for place, record in zip(places, records, strict=True):
            if len(found) == count:
                break
            following = place.decode()
            if record is not None and wanted.matches(record):
                found.append(record)
        else:
            following = following if len(places) == MAX_LOOKS else ""
        for record, held in zip(found, self._held([record["id"] for record in found]), strict=True):
            record["text_held"] = held
        return found, following

    def texts(self, ids: Sequence[str]) -> list[str | None]:
        """The text of each id, None if it is not kept."""
        raws = cast(
            "list[bytes | None]", self._client.mget([self._text(entry) for entry in ids]) if ids else []
        )
        return [None if raw is None else raw.decode() for raw in raws]

    def beginnings(self, ids: Sequence[str], chars: int) -> list[tuple[str, int] | None]:
        """The first `chars` characters of each text and how many it has, None if it is not kept.

        Holds SLICE_TEXTS texts at a time.
        """
        return [
            None if text is None else (text[:chars], len(text))
            for start in range(0, len(ids), SLICE_TEXTS)
            for text in self.texts(ids[start : start + SLICE_TEXTS])
        ]

    def release(self, ids: Sequence[str]) -> int:
        """Removes the mark of poison from texts, so that they may run again. Returns how many had one."""
        keys = [f"{self._root}:res:{entry}" for entry in ids]
        raws = cast("list[bytes | None]", self._client.mget(keys) if keys else [])
        marked = [key for key, raw in zip(keys, raws, strict=True) if raw and b'"poison"' in raw[:200]]
        return self._client.delete(*marked) if marked else 0

    def delete(self, ids: Sequence[str]) -> int:
        """Removes records, with their texts and marks. Returns how many there were."""
        if not ids:
            return 0
        places = [record["place"] for record in self.find(ids)]
        self.release(ids)
        pipe = self._client.pipeline(transaction=False)
        pipe.hdel(self._records, *ids)
        pipe.delete(*map(self._text, ids))
        if places:
            pipe.zrem(self._places, *places)
        return int(pipe.execute()[0])

    def find(self, ids: Sequence[str]) -> list[Record]:
        """The records of those ids that have one."""
        return [record for record in self._read(ids) if record is not None]

    def all(self, wanted: RefusedFilter) -> Iterator[Record]:
        """Every record that matches, read in slices."""
        cursor = ""
        while True:
            records, cursor = self.page(wanted, SLICE, cursor)
            yield from records
            if not cursor:
                return

    def _read(self, ids: Sequence[str]) -> list[Record | None]:
        raws = cast("list[bytes | None]", self._client.hmget(self._records, list(ids)) if ids else [])
        return [None if raw is None else json.loads(raw) for raw in raws]

    def _held(self, ids: Sequence[str]) -> list[bool]:
        pipe = self._client.pipeline(transaction=False)
        for entry in ids:
            pipe.exists(self._text(entry))
        return [bool(held) for held in pipe.execute()]

    def _text(self, entry: str) -> str:
        return f"{self._places}:{entry}"


def merge_pages(pages: Sequence[tuple[list[Record], str]], count: int) -> tuple[list[Record], str]:
    """One page of up to `count` records of those of several shards, which have begun at the same cursor."""
    # A shard may have more records beyond its cursor, so the page ends at the newest of these places.
    end = max(following for _, following in pages)
    records = sorted(
        (record for found, _ in pages for record in found if record["place"] >= end),
        key=lambda record: str(record["place"]),
        reverse=True,
    )
    if len(records) > count:
        return records[:count], str(records[count - 1]["place"])
    return records, end
