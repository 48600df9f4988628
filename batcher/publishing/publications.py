"""Publishes models, and waits until every API process answers with what was published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import redis

from batcher.connection.clients import connect, server_time_s
from batcher.connection.outage import REDIS_ERRORS
from batcher.core import publications
from batcher.shards import Shard

log = logging.getLogger(__name__)

_Fields = dict[bytes, bytes]

# An API process that has not confirmed anything for this long has ended.
SEEN_S = 5.0
# After this long, it is forgotten.
FORGET_S = 60


def connect_shards(shards: Sequence[Shard], *, timeout_s: float) -> list[redis.Redis]:
    """A synchronous client of each shard."""
    return [connect(shard.url, timeout_s=timeout_s, retries=1, key=shard.prefix) for shard in shards]


class PublicationStore:
    """Works on the queue of the first model. `clients` are those of its `shards`.

    Each shard has the whole state, and the newest one counts: processes know it whichever shard is down. A
    change takes effect with its transaction at the first shard, before which all must have answered. It is
    then copied to the others, now or, if one fails in between, by the next process that reads.
    """

    def __init__(self, clients: Sequence[redis.Redis], shards: Sequence[Shard]) -> None:
        keys = [f"{shard.prefix}:revisions" for shard in shards]
        self._shards = list(zip(clients, keys, strict=True))
        self._client = clients[0]
        self._seen = f"{shards[0].prefix}:apis"

    def read(self) -> publications.Publications:
        """The newest state of all shards that answer, which the others of them then have too.

        Raises Redis errors if none answers.
        """
        states, failed = self._states()
        if failed is not None and not states:
            raise failed
        newest = max(states.values(), key=_moves)
        if any(_moves(state) < _moves(newest) for state in states.values()):
            self._copy(newest)
        return publications.decode_publications(newest)

    def behind(self) -> list[int]:
        """The numbers of the shards that do not have the newest state, or do not answer."""
        states, _ = self._states()
        newest = max(map(_moves, states.values()), default=0)
        known = [number for number, state in states.items() if _moves(state) == newest]
        return [number for number in range(len(self._shards)) if number not in known]

    def _states(self) -> tuple[dict[int, _Fields], Exception | None]:
        """The states of the shards that answer, by number, and the error of one that does not."""
        states = dict[int, _Fields]()
        failed: Exception | None = None
        for number, (client, key) in enumerate(self._shards):
            try:
                states[number] = _fields(client, key)
            except REDIS_ERRORS as error:
                failed = error
        return states, failed

    def report(self, queue: str, failure: str) -> None:
        """Says why a worker cannot serve a publication. Raises Redis errors."""
        for client, key in self._shards:
            client.hset(key, f"{publications.FAILED}{queue}", failure)

    def publish(self, model: str, reference: str) -> int:
        """Asks workers to load a publication beside the one that answers, and ends a candidate.

        Returns its number.
        """
        return self._change(model, lambda published: published.publish(reference)).of(model).last

    def move(self, model: str, number: int) -> int:
        """Makes a publication the one that answers. Returns the count of moves that processes will confirm.

        Raises LookupError if it is not published.
        """
        return self._change(model, lambda published: published.move(number)).moves

    def try_out(self, model: str, candidate: publications.Candidate) -> int:
        """Gives a share of the texts to a candidate. Returns the count of moves that processes will confirm.

        Raises LookupError if there is no such publication, or if it answers already.
        """
        return self._change(model, lambda published: published.try_out(candidate.number), candidate).moves

    def _change(
        self,
        model: str,
        change: Callable[[publications.Published], publications.Published],
        candidate: publications.Candidate | None = None,
    ) -> publications.Publications:
        """The state after a change. Raises Redis errors if a shard does not answer."""
        (first, key), *others = self._shards
        known = [_fields(client, other) for client, other in others]
        changed: _Fields = {}

        def update(pipe: Any) -> None:
            latest: _Fields = max([pipe.hgetall(key), *known], key=_moves)
            changed.clear()
            changed.update(latest)
            before = publications.decode_publications(changed)
            new = change(before.of(model))
            changed[f"{publications.FIELD}{model}".encode()] = new.encode().encode()
            changed.pop(
                f"{publications.FAILED}{publications.publication_queue(model, new.last)}".encode(), None
            )
            _forget_failures(changed)
            changed.pop(f"{publications.CANDIDATE}{model}".encode(), None)
            if candidate is not None:
                changed[f"{publications.CANDIDATE}{model}".encode()] = candidate.encode().encode()
            changed[publications.MOVES.encode()] = b"%d" % (before.moves + 1)
            _replace(pipe, key, changed)

        try:
            first.transaction(update, key)
        except REDIS_ERRORS:
            if not changed or _fields(first, key) != changed:  # only the reply was lost
                raise
        self._copy(changed)
        return publications.decode_publications(changed)

    def _copy(self, fields: _Fields) -> None:
        """Writes a state to the shards that have an earlier one. If one fails, a later `read` copies it."""

        def update(pipe: Any) -> None:
            if _moves(pipe.hgetall(key)) < _moves(fields):
                _replace(pipe, key, fields)

        for number, (client, key) in enumerate(self._shards):
            try:
                client.transaction(update, key)
            except REDIS_ERRORS as error:
                facts = {"action": "revision.behind", "shard": number}
                log.warning("a shard does not have newest publications yet: %s", error, extra=facts)

    def seen(self, api: str, moves: int) -> None:
        """Confirms for an API process that it answers by the state after so many moves.

        The first time, it removes the processes that have ended.
        """
        pipe = self._client.pipeline()
        pipe.hset(self._seen, api, f"{moves} {server_time_s(self._client)}")
        pipe.expire(self._seen, FORGET_S)
        new, _ = pipe.execute()
        if new and (ended := [other for other, _, silent_s in self._confirmed() if silent_s > FORGET_S]):
            self._client.hdel(self._seen, *ended)

    def unconfirmed(self, moves: int) -> Sequence[str]:
        """The live API processes that have not confirmed so many moves."""
        return [api for api, count, silent_s in self._confirmed() if count < moves and silent_s < SEEN_S]

    def _confirmed(self) -> Iterator[tuple[str, int, float]]:
        """Of each API process its name, what it has confirmed, and how many seconds ago.

        Or ahead: once the clock of Redis has been set back, only those that have ended stay in the future.
        """
        now = server_time_s(self._client)
        for api, line in cast("dict[bytes, bytes]", self._client.hgetall(self._seen)).items():
            count, _, at = line.decode().partition(" ")
            yield api.decode(), int(count), abs(now - float(at))


def _fields(client: redis.Redis, key: str) -> _Fields:
    return cast("_Fields", client.hgetall(key))


def _moves(fields: Mapping[bytes, bytes]) -> int:
    return publications.decode_publications(fields).moves


def _forget_failures(fields: _Fields) -> None:
    """Removes why workers could not serve publications that have ended."""
    state = publications.decode_publications(fields)
    published = {
        publications.publication_queue(model, n)
        for model, one in state.models.items()
        for n in one.references
    }
    for queue in state.failures.keys() - published:
        fields.pop(f"{publications.FAILED}{queue}".encode(), None)


def _replace(pipe: Any, key: str, fields: Mapping[bytes, bytes]) -> None:
    pipe.multi()
    pipe.delete(key)
    pipe.hset(key, mapping=dict(fields))
