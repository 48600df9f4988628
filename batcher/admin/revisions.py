"""Publishes revisions of models, and waits until every API process answers with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import redis

from batcher.core.keys import prefix
from batcher.core.revisions import (
    CANDIDATE,
    FAILED,
    FIELD,
    MOVES,
    Candidate,
    Published,
    Revisions,
    decode_revisions,
    revision_queue,
)

# An API process that has not confirmed anything for this long has ended.
SEEN_S = 5.0


class RevisionBooks:
    """Works on the queue of the first model. Every change is a transaction."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._key = f"{prefix(name)}:revisions"
        self._seen = f"{prefix(name)}:apis"

    def read(self) -> Revisions:
        return decode_revisions(cast("dict[bytes, bytes]", self._client.hgetall(self._key)))

    def publish(self, model: str, reference: str) -> int:
        """Asks workers to load a revision beside the one that answers, and ends a candidate.

        Returns its number.
        """
        changed = self._change(model, lambda published: published.publish(reference))
        return changed.last

    def move(self, model: str, number: int) -> int:
        """Makes a revision the one that answers. Returns the count of moves that processes will confirm."""
        self._change(model, lambda published: published.move(number))
        return self.read().moves

    def try_out(self, model: str, candidate: Candidate) -> int:
        """Gives a share of the texts to a candidate. Returns the count of moves that processes will confirm.

        Raises LookupError if its revision is not published, or answers already.
        """
        self._change(model, lambda published: published.try_out(candidate.number), candidate)
        return self.read().moves

    def _change(
        self, model: str, change: Callable[[Published], Published], candidate: Candidate | None = None
    ) -> Published:
        changed: list[Published] = []

        def update(pipe: Any) -> None:
            raw = pipe.hget(self._key, f"{FIELD}{model}")
            new = change(Published.decode(raw.decode()) if raw else Published())
            changed.append(new)
            pipe.multi()
            pipe.hset(self._key, f"{FIELD}{model}", new.encode())
            pipe.hdel(self._key, f"{FAILED}{revision_queue(model, new.last)}")
            if candidate is None:
                pipe.hdel(self._key, f"{CANDIDATE}{model}")
            else:
                pipe.hset(self._key, f"{CANDIDATE}{model}", candidate.encode())
            pipe.hincrby(self._key, MOVES, 1)

        self._client.transaction(update, self._key)
        return changed[-1]

    def seen(self, api: str, moves: int) -> None:
        """Confirms for an API process that it answers by the state after so many moves."""
        self._client.hset(self._seen, api, f"{moves} {self._now()}")
        self._client.expire(self._seen, 60)

    def unconfirmed(self, moves: int) -> Sequence[str]:
        """The live API processes that have not confirmed so many moves."""
        now, late = self._now(), []
        for api, line in cast("dict[bytes, bytes]", self._client.hgetall(self._seen)).items():
            count, _, at = line.decode().partition(" ")
            if int(count) < moves and now - float(at) < SEEN_S:
                late.append(api.decode())
        return late

    def _now(self) -> float:
        seconds, micros = self._client.time()
        return seconds + micros / 1e6
