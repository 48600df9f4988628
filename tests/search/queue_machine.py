"""Every command of the queue in any order, on a fake Redis and a real one, compared after each step.

The queue's clock stands still between steps and moves by the rule `advance`: `P:clock` is written before each
command, so that a lease or a budget ends exactly where the model expects it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fakeredis
import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batcher.core.commands import (
    Accepted,
    Cancel,
    Claim,
    Claimed,
    Command,
    Complete,
    Enqueue,
    EnqueueAll,
    Full,
    Outcomes,
    Release,
    Retire,
    SendHeartbeat,
    Wake,
)
from batcher.core.snapshot import Sweep
from batcher.messages import Failure
from tests.search.queue_model import LEASE_MS, MAX_ATTEMPTS, RECORD_MS, Model, P, View, Worker, answer

# Sets the clock of the queue to exactly ARGV[1]: it is an hour ahead, but advances by one step at most.
PIN = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('SET', KEYS[1] .. ':clock', string.format('%.0f %.0f', ARGV[1] - now + 3600000, ARGV[1] - 1200))
"""
# No key may end by itself while the queue's clock stands still.
KEEP = """
for _, key in ipairs(redis.call('KEYS', KEYS[1] .. ':*')) do
  if redis.call('PTTL', key) > 0 then redis.call('PEXPIRE', key, 3600000) end
end
"""
COSTS = {"a": 3, "b": 5, "c": 7, "d": 600}
IDS = st.lists(st.sampled_from(sorted(COSTS)), min_size=1, max_size=3, unique=True)
APIS = st.sampled_from(["A", "B"])
REVISIONS = st.sampled_from(["r1", "r2"])
# The revision of the current model by what an API process knows of all shards.
PUBLISHED = st.sampled_from(["", "r1", "r2"])
BUDGETS = st.sampled_from([1_500, 5_500, 20_500])
FAILURE = Failure("inference_failed", "it cannot be read").encode()
HEALING_ROUNDS = 15


class QueueMachine(RuleBasedStateMachine):
    """`clients`: the servers to compare. Subclasses set it."""

    clients: Sequence[redis.Redis] = ()

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.count = 0
        self.may_damage = self.full = False
        self.copies: list[list[tuple[bytes, int, bytes]]] = [[] for _ in self.clients]
        for client in self.clients:
            client.flushall()

    # -- running commands --------------------------------------------------------------------------

    def run(self, command: Command[Any]) -> Any:
        """Runs a command on each server. They must agree. Returns the reply of the first."""
        replies = [self._run(client, command) for client in self.clients]
        for reply in replies[1:]:
            assert comparable(reply) == comparable(replies[0]), command
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies[0]

    def _run(self, client: Any, command: Command[Any]) -> Any:
        for known in (True, False):
            pipe = client.pipeline(transaction=False)
            pipe.eval(PIN, 1, P, self.model.now)
            if self.full:
                pipe.config_set("maxmemory", 1)
            pipe.execute_command(*command.words(P, known=known))
            if self.full:
                pipe.config_set("maxmemory", 0)
            pipe.eval(KEEP, 1, P)
            reply = pipe.execute(raise_on_error=False)[1 + self.full]
            if not isinstance(reply, redis.exceptions.NoScriptError):
                break
        return reply if isinstance(reply, Exception) else command.read(reply)

    def view(self) -> View:
        return View(self.clients[0])

    # -- API processes -----------------------------------------------------------------------------

    @rule(
        ids=IDS,
        api=APIS,
        lane=st.sampled_from(["interactive", "bulk"]),
        budget=BUDGETS,
        first=st.booleans(),
        cap=st.sampled_from([8, 10_000]),
        published=PUBLISHED,
        reply_lost=st.booleans(),
    )
    def enqueue(
        self,
        ids: list[str],
        api: str,
        lane: Any,
        budget: int,
        first: bool,
        cap: int,
        published: str,
        reply_lost: bool,
    ) -> None:
        texts, costs = [f"text {entry}" for entry in ids], [COSTS[entry] for entry in ids]
        one = Enqueue(ids, texts, costs, api, lane, budget, cap, first=first)
        command = EnqueueAll([one], published)
        before = self.view()
        try:
            (answered,) = self.run(command)
            if reply_lost and isinstance(answered, Accepted):
                (answered,) = self.run(command)  # the caller repeats what has run already
        except redis.exceptions.OutOfMemoryError:
            assert self.full, "memory is full for one who did not fill it"
            return
        if isinstance(answered, Full):
            assert before.waiting.get(lane, 0) > 0, "a lane that is empty is never full"
            return
        for entry, state in zip(ids, answered.states, strict=True):
            if state.result:
                self.reused(entry, state.result, published)
                self.model.owed.discard((api, entry))
            else:
                if entry not in before.entries:
                    assert reply_lost or state.kind == "queued"
                    self.model.forget(entry)
                self.model.owed.add((api, entry))

    def reused(self, entry: str, payload: bytes, published: str) -> None:
        """A result that was kept answers a new caller."""
        self.model.check_result(entry, payload)
        if payload.endswith(b"\n"):
            assert b'"poison"' in payload, "an old failure answers a new caller"
        elif not self.model.damaged:
            current = self.current_revision()
            serving = self.model.serving() | ({current} if published in ("", current) else set())
            assert any(payload == answer(entry, revision) for revision in serving), "a model that has left"

    def current_revision(self) -> str:
        return (self.clients[0].hget(f"{P}:model", "revision") or b"").decode()

    @rule(api=APIS, ids=IDS, repeats=st.booleans())
    def cancel(self, api: str, ids: list[str], repeats: bool) -> None:
        for _ in range(1 + repeats):
            self.run(Cancel(api, ids))
        for entry in ids:
            self.model.owed.discard((api, entry))

    @rule(api=APIS)
    def poll(self, api: str) -> None:
        """The slow poll. What is gone would be asked for again."""
        ids = sorted(entry for owner, entry in self.model.owed if owner == api)
        for entry, state in zip(ids, self.run(Outcomes(ids)) if ids else [], strict=True):
            if state.result:
                self.model.check_result(entry, state.result)
            if state.kind in ("known", "gone"):
                assert self.model.damaged, "an end without a hint"
                self.model.owed.discard((api, entry))

    @rule()
    def sweep(self) -> None:
        self.run(Sweep("A", MAX_ATTEMPTS))

    @rule()
    def wake(self) -> None:
        self.run(Wake())

    # -- workers -----------------------------------------------------------------------------------

    def live(self, frozen: bool = False) -> list[str]:
        return sorted(name for name, worker in self.model.workers.items() if worker.frozen == frozen)

    @precondition(lambda self: len(self.model.workers) < 3)
    @rule(revision=REVISIONS)
    def another_worker(self, revision: str) -> None:
        self.start_worker(revision)

    def start_worker(self, revision: str) -> None:
        self.count += 1
        worker = Worker(f"w{self.count}", revision)
        self.model.workers[worker.name] = worker
        self.model.revisions.add(revision)
        self.send_beat(worker, takeover=True)

    def send_beat(self, worker: Worker, takeover: bool = False) -> None:
        record = {"revision": worker.revision, "rate": 10, "texts": 0}
        model = {"name": "m", "revision": worker.revision, "identity": worker.revision}
        worker.tried = self.model.now
        command = SendHeartbeat(
            worker.name, LEASE_MS, RECORD_MS, sorted(worker.holds), record, model, takeover
        )
        self.run(command)
        for entry in worker.holds.keys() & self.view().leases:
            self.model.leases[entry] = self.model.now + LEASE_MS
            self.model.still_runs(worker.name, entry)

    @rule()
    def work(self) -> None:
        """Some worker takes and answers whatever it gets."""
        for name in self.live()[:1]:
            worker = self.model.workers[name]
            self.send_beat(worker)
            if not worker.holds:
                self.take(worker, Claim(name, 9, 9999, 9999, LEASE_MS, MAX_ATTEMPTS), False)
            if worker.holds:
                self.send_results(worker, sorted(worker.holds), fails=False, idle=True)

    @rule()
    def leases_end(self) -> None:
        """No worker is heard of for longer than a lease; one of them then takes what they lost."""
        self.model.now += LEASE_MS + 500
        free = [name for name in self.live() if not self.model.workers[name].holds]
        for name in free[:1] or self.live()[:1]:
            worker = self.model.workers[name]
            worker.holds.clear()  # it was busy, and has given up
            self.take(worker, Claim(name, 1, 9999, 9999, LEASE_MS, MAX_ATTEMPTS), False)

    @rule(revision=REVISIONS)
    def deploy(self, revision: str) -> None:
        """One worker of a revision takes the place of all others."""
        for name in self.live():
            self.stop_worker(self.model.workers[name], suspects=[])
        self.start_worker(revision)

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        self.send_beat(self.model.workers[data.draw(st.sampled_from(self.live()))])

    @precondition(lambda self: self.live())
    @rule(
        data=st.data(),
        most=st.integers(1, 3),
        cost=st.sampled_from([4, 100, 2000]),
        free=st.sampled_from([True, True, True, False]),
        waits=st.booleans(),
        reply_lost=st.booleans(),
    )
    def claim(
        self, data: st.DataObject, most: int, cost: int, free: bool, waits: bool, reply_lost: bool
    ) -> None:
        worker = self.model.workers[data.draw(st.sampled_from(self.live()))]
        free = free and not worker.holds
        self.take(
            worker,
            Claim(worker.name, most, cost, cost, LEASE_MS, MAX_ATTEMPTS, free, waits, 0 if free else -1),
            reply_lost,
        )

    @precondition(lambda self: self.live(frozen=True))
    @rule(data=st.data())
    def claim_of_a_frozen_worker(self, data: st.DataObject) -> None:
        """Sent before it froze, run by Redis now."""
        worker = self.model.workers[data.draw(st.sampled_from(self.live(frozen=True)))]
        if not worker.holds:
            self.take(worker, Claim(worker.name, 3, 100, 100, LEASE_MS, MAX_ATTEMPTS, True, True, 0), True)

    def take(self, worker: Worker, command: Claim, reply_lost: bool) -> Claimed:
        before = self.view()
        for client in self.clients:
            client.lpop(f"{P}:wake:{worker.name}")
        claimed: Claimed = self.run(command)
        solo = [entry for entry in claimed.entries if entry.solo]
        assert not solo or (len(claimed.entries) == 1 and command.free), "it runs alone"
        for entry in claimed.entries:
            self.check_claimed(entry, before)
            self.model.attempts[entry.id] = entry.attempts
            self.model.leases[entry.id] = self.model.now + LEASE_MS
            if entry.solo:
                self.model.alone.setdefault(entry.id, []).append((worker.name, self.model.now))
            if not reply_lost:
                worker.holds[entry.id] = worker.revision
        return claimed

    def check_claimed(self, entry: Any, before: View) -> None:
        assert entry.text == f"text {entry.id}"
        assert before.entries[entry.id].deadline > self.model.now, "its budget has ended"
        if self.model.damaged:
            return
        assert self.model.leases.get(entry.id, 0) <= self.model.now, "another worker holds it"
        assert entry.attempts == self.model.attempts.get(entry.id, 0) + 1, (
            "claims that were not charged right"
        )
        assert entry.solo or entry.attempts == 1, "a suspect runs alone"

    def holders(self) -> list[str]:
        return [name for name in self.live() if self.model.workers[name].holds]

    @precondition(lambda self: self.holders())
    @rule(data=st.data(), fails=st.booleans(), repeats=st.booleans(), idle=st.booleans())
    def complete(self, data: st.DataObject, fails: bool, repeats: bool, idle: bool) -> None:
        """Also for texts whose lease has ended meanwhile, or that another worker has completed."""
        worker = self.model.workers[data.draw(st.sampled_from(self.holders()))]
        ids = data.draw(st.lists(st.sampled_from(sorted(worker.holds)), min_size=1, unique=True))
        self.send_results(worker, ids, fails, idle and len(ids) == len(worker.holds), repeats)

    def send_results(
        self, worker: Worker, ids: list[str], fails: bool, idle: bool, repeats: bool = False
    ) -> None:
        results = [FAILURE if fails else answer(entry, worker.holds[entry]) for entry in ids]
        command = Complete(worker.name, ids, results, 60_000, idle=idle)
        entries = self.view().entries
        for entry in ids if fails else ():
            self.model.fails(worker.name, entry, entries.get(entry))
        ended = [entry for entry in ids if fails and entry not in entries]
        kept = [self.clients[0].get(f"{P}:res:{entry}") for entry in ended]
        for _ in range(1 + repeats):
            self.run(command)
        for entry, result in zip(ended, kept, strict=True):
            assert self.clients[0].get(f"{P}:res:{entry}") == result, "a failure replaced a result"
        for entry in ids:
            del worker.holds[entry]
            self.model.leases.pop(entry, None)

    @precondition(lambda self: self.holders())
    @rule(data=st.data(), repeats=st.booleans())
    def release(self, data: st.DataObject, repeats: bool) -> None:
        worker = self.model.workers[data.draw(st.sampled_from(self.holders()))]
        ids = self.leased(worker)
        for _ in range(1 + repeats):
            self.run(Release(ids))
        for entry in ids:
            self.model.leases.pop(entry, None)
            self.model.attempts[entry] = self.model.attempts.get(entry, 1) - 1
        worker.holds.clear()

    @precondition(lambda self: self.model.workers)
    @rule(data=st.data(), event=st.sampled_from(["stops", "breaks", "dies", "freezes", "freezes", "thaws"]))
    def worker_event(self, data: st.DataObject, event: str) -> None:
        """A worker stops, ends because its engine broke, is killed, is frozen, or goes on."""
        worker = self.model.workers[data.draw(st.sampled_from(sorted(self.model.workers)))]
        if event in ("freezes", "thaws"):
            worker.frozen = event == "freezes"
            return
        del self.model.workers[worker.name]
        self.model.gone[worker.name] = worker
        if worker.frozen or event == "dies":
            return
        self.stop_worker(worker, self.leased(worker) if event == "breaks" else [])

    def leased(self, worker: Worker) -> list[str]:
        return sorted(entry for entry in worker.holds if self.model.leases.get(entry, 0) > self.model.now)

    def stop_worker(self, worker: Worker, suspects: list[str]) -> None:
        self.model.workers.pop(worker.name, None)
        self.run(Retire(worker.name, suspects))
        for entry in suspects:
            self.model.leases[entry] = self.model.now
        worker.tried = -1
        self.model.gone[worker.name] = worker

    # -- time and Redis itself ---------------------------------------------------------------------

    @rule(ms=st.sampled_from([1_000, 3_000, 7_000]))
    def advance(self, ms: int) -> None:
        self.model.now += ms

    @precondition(lambda self: not any(isinstance(client, fakeredis.FakeRedis) for client in self.clients))
    @rule(full=st.booleans())
    def memory(self, full: bool) -> None:
        """While it is full, a real server refuses new texts, and nothing else."""
        self.full = full

    @rule()
    def flush_scripts(self) -> None:
        for client in self.clients:
            client.script_flush()

    @initialize(damages=st.integers(0, 3), begun=st.booleans())
    def begin(self, damages: int, begun: bool) -> None:
        """In one of four histories Redis loses writes, which leaves fewer promises to check."""
        self.may_damage = damages == 1
        if begun:
            self.start_worker("r1")
            self.enqueue(["a"], "A", "interactive", 20_500, False, 10_000, "", False)

    @precondition(lambda self: self.may_damage)
    @rule(data=st.data(), event=st.sampled_from(["evicts", "restarts empty", "is copied", "is restored"]))
    def redis_event(self, data: st.DataObject, event: str) -> None:
        """A key is evicted, or a server comes back empty or, as a promoted replica might, with older data."""
        if event == "is copied":
            self.copies = [copy_of(client) for client in self.clients]
            return
        self.model.damaged = True
        keys = sorted(key for key in self.clients[0].keys(f"{P}:*") if not key.endswith(b":clock"))
        if event == "evicts" and keys:
            key = data.draw(st.sampled_from(keys))
            for client in self.clients:
                client.delete(key)
            return
        for client, copy in zip(self.clients, self.copies, strict=False):
            client.flushall()
            for key, ttl, value in copy if event == "is restored" else ():
                client.restore(key, ttl, value)

    # -- checks ------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        hints = [read_hints(client) for client in self.clients]
        for other in hints[1:]:
            assert other == hints[0]
        for api, entry, payload in hints[0]:
            if b'"poison"' in payload:
                self.model.note_poison(entry)
            if (api, entry) in self.model.owed:
                self.model.check_result(entry, payload)
                self.model.owed.discard((api, entry))
        for entry, result in zip(
            COSTS, self.clients[0].mget([f"{P}:res:{entry}" for entry in COSTS]), strict=True
        ):
            if result and b'"poison"' in result:  # perhaps of a text that no API process waits for
                self.model.note_poison(entry)
        self.model.check(self.view())

    def teardown(self) -> None:
        """Once everything works again, each text that is owed ends, and nothing is left in the queue.

        Where Redis has lost writes, a text may also end with its budget, which the API process watches.
        """
        self.full = False
        medic = Worker("medic", "r1")
        self.model.revisions.add("r1")
        self.model.workers[medic.name] = medic
        for _ in range(HEALING_ROUNDS):
            self.send_beat(medic, takeover=True)
            self.sweep()
            while self.take(medic, Claim("medic", 9, 9999, 9999, LEASE_MS, MAX_ATTEMPTS), False).entries:
                self.send_results(medic, sorted(medic.holds), False, False)
            self.nothing_is_wrong()
            for api in ("A", "B"):
                self.poll(api)
            view = self.view()
            if not (self.model.owed or view.entries or view.queued() or view.claims):
                return
            self.model.now += 2_000
        assert self.model.damaged, f"left in the queue: {self.model.owed or view.queued() or view.claims}"


def comparable(reply: Any) -> Any:
    """A reply as both servers must give it."""
    return type(reply) if isinstance(reply, Exception) else reply


def copy_of(client: Any) -> list[tuple[bytes, int, bytes]]:
    """Every key with its lifetime in ms (0: no end) and its value."""
    return [(key, max(client.pttl(key), 0), client.dump(key)) for key in client.keys("*")]


def read_hints(client: Any) -> list[tuple[str, str, bytes]]:
    """Takes what was sent to the API processes: to whom, about which id, and the result."""
    hints = []
    for key in sorted(client.scan_iter(f"{P}:reply:*")):
        assert client.pttl(key) > 0, "a list of hints without an end"
        api = key.decode().rpartition(":")[2]
        for message in client.lrange(key, 0, -1):
            for hint in message.split(b"\0"):
                entry, _, payload = hint.partition(b"\n")
                hints.append((api, entry.decode(), payload))
        client.delete(key)
    return sorted(hints)
