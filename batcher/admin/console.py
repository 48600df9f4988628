"""What the console keeps in Redis: sessions and links of operators, answers, the audit log, the last day.

And what workers that load a model are doing, for operators who wait for them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, cast

from batcher.connection.clients import server_time_s
from batcher.core.keys import Kept

MAX_LINES = 1000
KEEP_S = 90 * 86_400
MINUTES = 24 * 60
LINK_S = 600
SESSION_S = 12 * 3600
# A worker that has not written for this long has ended.
SILENT_S = 10.0
EXPIRE_S = 60
# `secrets.token_urlsafe` makes this many characters of so many bytes.
_BYTES = 32
_CHARACTERS = 43


class SessionStore(Kept):
    """The links and sessions of one service, of whose secrets Redis has only digests.

    An operator is any text that the caller chooses.
    """

    def offer(self, operator: str) -> str:
        """The secret of a new link, which begins one session within LINK_S."""
        return self._keep("link", operator, LINK_S)

    def redeem(self, link: str) -> str:
        """The operator of a link, which ends with that; "" for an unknown one."""
        if len(link) != _CHARACTERS:
            return ""
        pipe = self._client.pipeline()  # a transaction: two callers at once cannot both find it
        pipe.get(key := self._key("link", link))
        pipe.delete(key)
        return _text(pipe.execute()[0])

    def begin(self, operator: str) -> str:
        """The secret of a new session, which ends after SESSION_S."""
        return self._keep("session", operator, SESSION_S)

    def operator(self, session: str) -> str:
        """The operator of a session; "" for an unknown one."""
        if len(session) != _CHARACTERS:
            return ""
        return _text(cast("bytes | None", self._client.get(self._key("session", session))))

    def end(self, session: str) -> None:
        self._client.delete(self._key("session", session))

    def _keep(self, kind: str, operator: str, for_s: int) -> str:
        secret = secrets.token_urlsafe(_BYTES)
        self._client.set(self._key(kind, secret), operator, ex=for_s)
        return secret

    def _key(self, kind: str, secret: str) -> str:
        return f"{self._root}:{kind}:{sha256(secret.encode()).hexdigest()}"


def _text(operator: bytes | None) -> str:
    return "" if operator is None else operator.decode("utf-8", "replace")


class Answers(Kept):
    """The answers of processes to a question, in the lists that answer.lua writes."""

    below = ":answers:"

    def to(self, token: str) -> list[Any]:
        """All answers so far to the question with this token."""
        raws = cast("list[bytes]", self._client.lrange(self._root + token, 0, -1))
        return [json.loads(raw) for raw in raws]


class AuditLog(Kept):
    """What operators did: the last MAX_LINES actions, which expire KEEP_S after the newest of them."""

    below = ":audit"

    def add(self, line: Mapping[str, Any]) -> None:
        pipe = self._client.pipeline()
        pipe.lpush(self._root, json.dumps(line, separators=(",", ":")))
        pipe.ltrim(self._root, 0, MAX_LINES - 1)
        pipe.expire(self._root, KEEP_S)
        pipe.execute()

    def newest(self, count: int) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in cast("list[bytes]", self._client.lrange(self._root, 0, count - 1))
        ]


class MinuteHistory(Kept):
    """A line of JSON per minute: the last MINUTES of them, which expire as long after the newest one."""

    below = ":minutes"

    def add(self, line: bytes) -> None:
        pipe = self._client.pipeline()
        pipe.rpush(self._root, line)
        pipe.ltrim(self._root, -MINUTES, -1)
        pipe.expire(self._root, MINUTES * 60)
        pipe.execute()

    def newest(self, count: int) -> list[bytes]:
        """Up to `count` lines, oldest first."""
        return cast("list[bytes]", self._client.lrange(self._root, -count, -1))


@dataclass(frozen=True, slots=True)
class Preparing:
    """A worker has been loading the model `reference` for `seconds`, and is in this phase."""

    worker: str
    reference: str
    seconds: float
    phase: str


class PreparingStore(Kept):
    """Is kept at the first shard. All methods raise Redis errors."""

    below = ":preparing"

    def note(self, one: Preparing) -> None:
        """Writes what a worker does. It repeats this every second or so."""
        line = json.dumps({"at": server_time_s(self._client), **asdict(one)})
        pipe = self._client.pipeline()
        pipe.hset(self._root, one.worker, line)
        pipe.expire(self._root, EXPIRE_S)
        pipe.execute()

    def remove(self, worker: str) -> None:
        """Call it once the worker has loaded its model."""
        self._client.hdel(self._root, worker)

    def read(self) -> list[Preparing]:
        """The workers that load a model now, in the order of their names."""
        now = server_time_s(self._client)
        lines = [json.loads(line) for line in self._client.hgetall(self._root).values()]
        live = [line for line in lines if abs(now - line.pop("at")) < SILENT_S]
        return sorted((Preparing(**line) for line in live), key=lambda one: one.worker)
