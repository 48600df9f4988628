"""Usage of each key and day, as APIs and jobs have added it up, and the clients of the last minute."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import redis

from batcher.core.commands import COUNTS
from batcher.core.keys import Kept
from batcher.jobs.store import JobStore

# What an API process has published longer ago is not shown.
FRESH_MS = 15_000
Row = dict[str, Any]


def kept_days(days: int) -> Iterator[date]:
    """The days (UTC) of which usage of so many days may be kept, oldest first."""
    today = datetime.now(UTC).date()
    return (today - timedelta(days=ago) for ago in range(days, -1, -1))


class UsageStore(Kept):
    """The usage of one service, for the last `days` days (UTC), with that of its `jobs`."""

    def __init__(self, client: redis.Redis, name: str, days: int, jobs: JobStore | None = None) -> None:
        super().__init__(client, name)
        self._days = days
        self._jobs = jobs

    def rows(self, first: date, last: date, name: str = "") -> list[Row]:
        """A row for each day and key name, oldest first. One round trip, and one to the Redis of jobs."""
        days = [day for day in self.kept() if first <= day <= last]
        pipe = self._client.pipeline(transaction=False)
        for day in days:
            pipe.hgetall(self._key(day))
        rows: dict[tuple[str, str], Row] = {}
        found = [*zip(days, pipe.execute(), strict=True)]
        if self._jobs is not None:
            found += zip(days, self._jobs.usage(days), strict=True)
        for day, counts in found:
            for field, value in counts.items():
                own, _, count = field.decode().rpartition(" ")
                if name in ("", own):
                    row = rows.setdefault(
                        (str(day), own), {"day": str(day), "key": own, **dict.fromkeys(COUNTS, 0)}
                    )
                    row[count] += int(value)
        return [row for _, row in sorted(rows.items())]

    def forget(self, client: str) -> int:
        """Removes the usage of the key `key:NAME`. Returns of how many days."""
        name = client.removeprefix("key:")
        pipe = self._client.pipeline(transaction=False)
        for day in self.kept():
            pipe.hdel(self._key(day), *(f"{name} {count}" for count in COUNTS))
        return sum(map(bool, pipe.execute()))

    def clients(self) -> list[dict[str, Any]]:
        """The clients of the last minute, summed over API processes, those with the most waiting first."""
        raws = cast("dict[bytes, bytes]", self._client.hgetall(f"{self._root}:clients"))
        now_ms = time.time() * 1000
        found = dict[str, dict[str, Any]]()
        for raw in raws.values():
            at_ms, _, body = raw.split(b" ", 2)
            if int(at_ms) + FRESH_MS < now_ms:
                continue
            for client, counts in json.loads(body).items():
                row = found.setdefault(client, dict.fromkeys(counts, 0))
                for name, value in counts.items():
                    row[name] = round(row[name] + value, 1)
        return sorted(
            ({"client": client, **row} for client, row in found.items()),
            key=lambda row: (-row["waiting"], -row["texts_s"], row["client"]),
        )

    def kept(self) -> Iterator[date]:
        """The days that may have usage, oldest first."""
        return kept_days(self._days)

    def _key(self, day: date) -> str:
        return f"{self._root}:usage:{day}"
