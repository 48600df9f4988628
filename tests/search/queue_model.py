"""What must hold in the queue after each step, as plain dictionaries, and what Redis really contains."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import redis

from batcher.core.keys import prefix
from batcher.messages import Prediction, decode_result, fragment

NAME = "search"
P = prefix(NAME)
LABELS = ("N", "P")
MAX_ATTEMPTS = 2
LEASE_MS = 2_500
RECORD_MS = 6_500
# Keys that need no end, by docs/redis.md.
LISTS = ("q", "bulk", "solo")
ENDLESS = {"q", "bulk", "solo", "inflight", "model", "clock", "dead"}


def answer(entry: str, revision: str) -> bytes:
    """The result of a text: it depends on the text and the revision, and on nothing else."""
    score = int.from_bytes(f"{entry} {revision}".encode()[:6], "big") % 1000 / 1000
    return Prediction(fragment(LABELS, (1 - score, score)), revision, 3).encode()


@dataclass(frozen=True, slots=True)
class Row:
    """An entry as Redis has it. Times are those of the queue's clock, in ms."""

    deadline: int
    lane: str
    cost: int
    enqueued: int
    apis: frozenset[str]


class View:
    """The queue's keys, read at one moment."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client
        keys = sorted(key.decode().removeprefix(f"{P}:") for key in self._client.keys(f"{P}:*"))
        entries = [key.removeprefix("entry:") for key in keys if key.startswith("entry:")]
        wakes = [key for key in keys if key.startswith("wake:")]
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(f"{P}:waiting").hgetall(f"{P}:claims").zrange(f"{P}:inflight", 0, -1)
        pipe.zrange(f"{P}:idle", 0, -1)
        for name in LISTS:
            pipe.lrange(f"{P}:{name}", 0, -1)
        for key in keys:
            pipe.pttl(f"{P}:{key}")
        for entry in entries:
            pipe.get(f"{P}:entry:{entry}")
        waiting, claims, leases, idle, *rest = pipe.execute()
        self.waiting = {lane.decode(): int(cost) for lane, cost in waiting.items()}
        self.claims = {entry.decode(): int(line.split(b" ")[0]) for entry, line in claims.items()}
        self.leases = {entry.decode() for entry in leases}
        self.idle = {worker.decode() for worker in idle}
        self.woken = {key.removeprefix("wake:") for key in wakes}
        self.lists = {name: [one.decode() for one in ids] for name, ids in zip(LISTS, rest, strict=False)}
        lives, heads = rest[len(LISTS) : len(LISTS) + len(keys)], rest[len(LISTS) + len(keys) :]
        self.endless = {key for key, ms in zip(keys, lives, strict=True) if ms == -1} - ENDLESS
        self.entries = {entry: _row(content) for entry, content in zip(entries, heads, strict=True)}

    def queued(self) -> set[str]:
        """Ids with a place in a list or a lease, so that they will be found."""
        return {entry for places in self.lists.values() for entry in places} | self.leases

    def unclaimed_cost(self, lane: str) -> int:
        rows = (row for entry, row in self.entries.items() if entry not in self.claims)
        return sum(row.cost for row in rows if row.lane == lane)


def _row(content: bytes) -> Row:
    deadline, lane, cost, enqueued, _, *apis = content.split(b"\n", 1)[0].decode().split(" ")
    return Row(int(deadline), lane, int(cost), int(enqueued), frozenset(filter(None, apis)))


@dataclass
class Worker:
    """A worker as itself knows it. `tried` is when it last meant to send a heartbeat."""

    name: str
    revision: str
    holds: dict[str, str] = field(default_factory=dict)
    tried: int = -1
    frozen: bool = False


@dataclass
class Model:
    """What was asked and what became of it.

    `owed`: the texts that each API process waits for. `leases`: when the lease of an id ends, by its last
    claim and heartbeat. `attempts`: its claims, without those that were given back. `failed_on`: the
    workers that failed on an id since it was asked for, and `failed_ever` at any time; `final`: ids that
    may end with a failure. `alone`: the workers that ran an id alone, and when they last said so.
    `poisoned`: ids that were given up on when enough of these workers were silent, whichever has been heard
    of since. `damaged`: Redis has lost or brought back writes, so that only answers are checked, and no
    longer what the queue contains.
    """

    now: int = 10**12
    owed: set[tuple[str, str]] = field(default_factory=set)
    leases: dict[str, int] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    failed_on: dict[str, set[str]] = field(default_factory=dict)
    failed_ever: dict[str, set[str]] = field(default_factory=dict)
    final: set[str] = field(default_factory=set)
    alone: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    gone: dict[str, Worker] = field(default_factory=dict)
    revisions: set[str] = field(default_factory=set)
    poisoned: set[str] = field(default_factory=set)
    damaged: bool = False

    def forget(self, entry: str) -> None:
        """The entry has ended: a later one of the same text begins anew."""
        for record in (self.leases, self.attempts, self.failed_on, self.alone):
            record.pop(entry, None)
        self.poisoned.discard(entry)
        self.final.discard(entry)

    def fails(self, worker: str, entry: str, row: Row | None) -> None:
        """A worker reports a failure. It is final if another one has failed on the text before, or if the
        budget ends before this one, which may be the only one, could try again."""
        failed = self.failed_ever.setdefault(entry, set())
        retried = self.now + 100 + (self.now - row.enqueued) / 2 if row else self.now
        if failed - {worker} or (row and retried >= row.deadline):
            self.final.add(entry)
        failed.add(worker)
        self.failed_on.setdefault(entry, set()).add(worker)

    def still_runs(self, worker: str, entry: str) -> None:
        """A worker has sent a heartbeat for an entry: if it is not heard of again, it may die of it later."""
        runs = self.alone.get(entry, [])
        self.alone[entry] = [(name, self.now if name == worker else at) for name, at in runs]

    def deaths(self, entry: str) -> int:
        """How many workers may have died of an entry: they ran it alone and have not been heard of since."""
        lost = set()
        for worker, at in self.alone.get(entry, []):
            known = self.workers.get(worker) or self.gone.get(worker)
            if known is None or known.tried <= at:
                lost.add(worker)
        return len(lost)

    def note_poison(self, entry: str) -> None:
        """The queue has given up on an entry. Its result is kept, even if a worker returns later."""
        if self.deaths(entry) >= MAX_ATTEMPTS:
            self.poisoned.add(entry)

    def serving(self) -> set[str]:
        """Revisions of workers that live, and of killed ones whose record has not ended yet."""
        silent = [worker for worker in self.gone.values() if self.now < worker.tried + RECORD_MS]
        return {worker.revision for worker in (*self.workers.values(), *silent)}

    def check_result(self, entry: str, payload: bytes) -> None:
        """A result that an API process gets, whether by a hint, a poll or a lookup."""
        result = decode_result(payload)
        if isinstance(result, Prediction):
            assert result.revision in self.revisions, "a revision that no worker ever had"
            assert payload == answer(entry, result.revision), "the answer of another text"
        elif result.code == "poison":
            self.note_poison(entry)
            assert self.damaged or entry in self.poisoned, "poison, though its workers live"
        elif result.code == "inference_failed":
            assert self.failed_on.get(entry), "a failure that no worker has reported"
            assert self.damaged or entry in self.final, "a failure that another attempt could have mended"
        else:
            assert result.code == "budget_exceeded"

    def check(self, view: View) -> None:
        """What must hold after each step."""
        assert not view.endless, "keys without an end"
        if self.damaged:
            return
        for api, entry in self.owed:
            assert entry in view.entries, f"{api} waits for {entry}, which is gone"
            assert api in view.entries[entry].apis, f"{entry} does not know that {api} waits"
        lost = view.entries.keys() - view.queued()
        assert not lost, f"no worker will find {lost}"
        for lane in ("interactive", "bulk"):
            assert view.waiting.get(lane, 0) == view.unclaimed_cost(lane), f"the waiting cost of {lane}"
        if not self.gone and not any(worker.frozen for worker in self.workers.values()):
            for entry in chain(*view.lists.values()):
                # A worker that has failed on an entry leaves it to the others.
                able = view.idle - self.failed_on.get(entry, set())
                assert view.woken or not able, f"{entry} waits, and no idle worker was woken"
        for entry in view.leases & view.entries.keys():
            assert view.claims.get(entry), "a lease without a claim"
