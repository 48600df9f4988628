"""What workers that load a model are doing, for operators who wait for them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import redis

from batcher.connection.clients import server_time_s
from batcher.core.keys import prefix

# A worker that has not written for this long has ended.
SILENT_S = 10.0
EXPIRE_S = 60


@dataclass(frozen=True, slots=True)
class Preparing:
    """A worker has been loading the model `reference` for `seconds`, and is in this phase."""

    worker: str
    reference: str
    seconds: float
    phase: str


class PreparingStore:
    """Is kept at the first shard. All methods raise Redis errors."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._key = f"{prefix(name)}:preparing"

    def note(self, one: Preparing) -> None:
        """Writes what a worker does. It repeats this every second or so."""
        line = json.dumps({"at": server_time_s(self._client), **asdict(one)})
        pipe = self._client.pipeline()
        pipe.hset(self._key, one.worker, line)
        pipe.expire(self._key, EXPIRE_S)
        pipe.execute()

    def remove(self, worker: str) -> None:
        """Call it once the worker has loaded its model."""
        self._client.hdel(self._key, worker)

    def read(self) -> list[Preparing]:
        """The workers that load a model now, in the order of their names."""
        now = server_time_s(self._client)
        lines = [json.loads(line) for line in self._client.hgetall(self._key).values()]
        live = [line for line in lines if abs(now - line.pop("at")) < SILENT_S]
        return sorted((Preparing(**line) for line in live), key=lambda one: one.worker)
