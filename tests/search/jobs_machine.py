"""Every command of the job store in any order, on a fake Redis and a real one, compared after each step.

Runs of a job are as the jobs worker has them: they read a chunk of texts, and later append its results. A run
may be cut off at any point and come back, while others begin at the same job, or at another job of that id.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batcher.jobs import store as store_module
from batcher.jobs.records import OPEN, Attempt, Counts, JobRecord
from batcher.jobs.store import JobStore, jobs_prefix
from batcher.jobs.upload import Submission, encode_text
from batcher.messages import fragment

NAME = "search"
P = jobs_prefix(NAME)
IDS = ("a" * 32, "b" * 32)
# Five texts in three chunks.
TOTAL, CHUNK, CHUNKS = 5, 2, 3
MAX_STALLED = 2
ANY_JOB = st.sampled_from(IDS)
VERSIONS = st.sampled_from(["v1", "v2"])


def texts_of(version: str, chunk: int) -> list[str]:
    return [f"{version} {number}" for number in range(TOTAL)][chunk * CHUNK : (chunk + 1) * CHUNK]


def results_of(texts: Sequence[str]) -> bytes:
    """The results of texts depend on the texts, and on nothing else."""
    return b"\n".join(fragment([text.upper()], [1.0]) for text in texts)


@dataclass
class Job:
    """A job as it must be. `number`: jobs in the order of their creation. `stalled`: attempts since `at`."""

    number: int
    version: str
    owner: str
    nonce: str
    status: str = "queued"
    token: str = ""
    attempt: int = 0
    chunks: int = 0
    failed: int = 0
    stalled: int = 0
    at: int = -1

    @property
    def done(self) -> int:
        return min(TOTAL, self.chunks * CHUNK)


@dataclass
class Run:
    """A worker at a job: `read` are the texts of its next chunk."""

    attempt: Attempt
    chunk: int
    read: list[str] = field(default_factory=list)


class JobsMachine(RuleBasedStateMachine):
    """`clients`: the servers to compare. Subclasses set it."""

    clients: Sequence[redis.Redis] = ()

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Job] = {}
        self.runs: list[Run] = []
        self.count = 0
        self.may_damage = self.damaged = False
        for client in self.clients:
            client.flushall()
        self.stores = [JobStore(client, NAME, 600) for client in self.clients]

    def each(self, call: Callable[[JobStore], Any]) -> Any:
        """What a call returns at each server. They must agree. Tokens are the same at all of them."""
        self.count += 1
        token = f"{self.count:016x}"
        with (
            patch.object(store_module.secrets, "token_hex", lambda _size: token),
            patch.object(store_module, "MAX_STALLED", MAX_STALLED),
        ):
            replies = [call(store) for store in self.stores]
        assert all(reply == replies[0] for reply in replies), replies
        return replies[0]

    def of_status(self, *statuses: str) -> list[str]:
        found = [job_id for job_id, job in self.jobs.items() if job.status in statuses]
        return sorted(found, key=lambda job_id: self.jobs[job_id].number)

    # -- clients -----------------------------------------------------------------------------------

    @rule(job_id=ANY_JOB, version=VERSIONS)
    def submit(self, job_id: str, version: str) -> None:
        self.upload(job_id, version, "", 9, "creates")

    @rule(
        job_id=ANY_JOB,
        version=VERSIONS,
        owner=st.sampled_from(["", "one", "two"]),
        most=st.sampled_from([1, 4, 9]),
        ending=st.sampled_from(["creates", "repeats", "drops", "leaves"]),
    )
    def upload(self, job_id: str, version: str, owner: str, most: int, ending: str) -> None:
        """Also by a key that has been used: the second finds the job of the first, whatever its texts."""

        def send(store: JobStore) -> Any:
            upload = store.upload(job_id, CHUNK, Submission(owner=owner, client=owner))
            for chunk in range(CHUNKS):
                upload.add([encode_text(text) for text in texts_of(version, chunk)])
            if ending == "drops":
                upload.drop()
                assert store.create(upload, version, 99).outcome in ("lost", "exists")
            if ending not in ("creates", "repeats"):
                return None
            created = store.create(upload, version, most)
            if ending == "repeats" and created.outcome == "created":
                assert store.create(upload, version, most) == created
            return created

        queued, known = self.of_status("queued"), self.jobs.get(job_id)
        own = [queued_id for queued_id in queued if self.jobs[queued_id].owner == owner]
        full = "full" if len(queued) >= most else "client_full" if len(own) >= math.ceil(most / 2) else ""
        created = self.each(send)
        if created is None:
            return
        if not self.damaged:
            expected = "exists" if known else full or "created"
            assert created.outcome == expected
            assert created.digest == (known.version if known else version if expected == "created" else "")
        if created.outcome == "created":
            self.jobs[job_id] = Job(self.count, version, owner, f"{self.count:016x}")

    @rule(job_id=ANY_JOB, repeats=st.booleans())
    def cancel(self, job_id: str, repeats: bool) -> None:
        for _ in range(1 + repeats):
            assert self.each(lambda store: store.cancel(job_id)) == self.ended(job_id, None, "cancelled")

    @rule(job_id=ANY_JOB)
    def delete(self, job_id: str) -> None:
        job = self.jobs.get(job_id)
        deleted = self.each(lambda store: store.delete(job_id))
        assert deleted == (job is not None and job.status not in OPEN)
        if deleted:
            del self.jobs[job_id]

    @rule(
        count=st.integers(1, 3),
        status=st.sampled_from([None, "queued", "running", "finished", "cancelled"]),
        owner=st.sampled_from(["", "one"]),
    )
    def list_pages(self, count: int, status: str | None, owner: str) -> None:
        listed: list[str] = []
        for number, store in enumerate(self.stores):
            pages, before = [], ""
            while True:
                page, following = store.newest(count, before, status=status, owner=owner)
                assert len(page) <= count
                pages += page
                if following is None:
                    break
                before = following
            assert number == 0 or pages == listed
            listed = pages
        wanted = [status] if status else {job.status for job in self.jobs.values()}
        expected = [
            job_id
            for job_id in reversed(self.of_status(*wanted))
            if owner == "" or self.jobs[job_id].owner in ("", owner)
        ]
        assert listed == expected

    # -- workers -----------------------------------------------------------------------------------

    @rule(job_id=ANY_JOB, reply_lost=st.booleans())
    def start(self, job_id: str, reply_lost: bool) -> None:
        """An attempt begins. If the reply is lost, the same call is sent again."""

        def send(store: JobStore) -> Attempt:
            attempt = store.start(job_id)
            return replace(store.start(job_id) if reply_lost else attempt, ran_ms=0)

        attempt = self.each(send)
        job = self.jobs.get(job_id)
        if job is None:
            assert attempt.status == "gone"
            return
        if job.status in OPEN:
            job.stalled = 1 if job.at != job.chunks else job.stalled + 1
            job.at, job.token, job.attempt = job.chunks, attempt.token, job.attempt + 1
            job.status = "failed" if job.stalled > MAX_STALLED else "running"
        assert (attempt.status, attempt.number, attempt.first) == (job.status, job.attempt, job.chunks)
        if job.status == "running":
            self.runs.append(Run(attempt, attempt.first))
            self.read(self.runs[-1])

    @precondition(lambda self: self.of_status(*OPEN))
    @rule(data=st.data(), chunks=st.integers(1, CHUNKS))
    def work(self, data: st.DataObject, chunks: int) -> None:
        """An attempt that gets on."""
        before = len(self.runs)
        self.start(data.draw(st.sampled_from(self.of_status(*OPEN))), reply_lost=False)
        for run in self.runs[before:]:
            for _ in range(chunks):
                if run.read:
                    self.send_results(run, failed=0)
            if not run.read:
                self.send_end(run)

    def draw_run(self, data: st.DataObject) -> Run:
        return self.runs[data.draw(st.integers(0, len(self.runs) - 1))]

    @precondition(lambda self: any(run.read for run in self.runs))
    @rule(data=st.data(), failed=st.integers(0, 1), reply_lost=st.booleans())
    def append(self, data: st.DataObject, failed: int, reply_lost: bool) -> None:
        """Of the texts that were read after the last append, which may be long ago."""
        run = data.draw(st.sampled_from([run for run in self.runs if run.read]))
        self.send_results(run, failed, reply_lost)

    def read(self, run: Run) -> None:
        run.read = self.each(lambda store: store.input(run.attempt.job_id, run.chunk)) or []

    def send_results(self, run: Run, failed: int, reply_lost: bool = False) -> None:
        def send(store: JobStore) -> str:
            chunks = [results_of(run.read)]
            return store.append(run.attempt, run.chunk, chunks, counts=Counts(failed), rate=1.0, model="m")

        status, job = self.each(send), self.jobs.get(run.attempt.job_id)
        expected = "gone" if job is None else job.status
        if job and (job.token != run.attempt.token or job.chunks not in (run.chunk, run.chunk + 1)):
            expected = "superseded"
        assert status == expected
        if job and status == "superseded" and job.token == run.attempt.token:
            job.token = ""  # its place is not where the results end
        if status == "running" and job and job.chunks == run.chunk:
            job.chunks, job.failed = job.chunks + 1, job.failed + failed
        if status == "running" and not reply_lost:
            run.chunk += 1
            self.read(run)

    def ended(self, job_id: str, token: str | None, status: str) -> str:
        """The status of a job after a request to end it."""
        job = self.jobs.get(job_id)
        if job is None:
            return "gone"
        if job.status in OPEN:
            if token is not None and job.token != token:
                return "superseded"
            job.status = status
        return job.status

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """It has finished, or something in it fails. It may come back later all the same."""
        self.send_end(self.draw_run(data))

    def send_end(self, run: Run) -> None:
        status: Any = "finished" if run.chunk == CHUNKS else "failed"
        after = self.each(
            lambda store: store.end(run.attempt, status, "" if status == "finished" else "x", "y")
        )
        assert after == self.ended(run.attempt.job_id, run.attempt.token, status)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def is_interrupted(self, data: st.DataObject) -> None:
        run = self.draw_run(data)
        self.runs.remove(run)
        self.each(lambda store: store.release(run.attempt, 0))
        job = self.jobs.get(run.attempt.job_id)
        if job and job.token == run.attempt.token:
            job.stalled -= 1
            job.token = ""

    @rule()
    def recover(self) -> None:
        assert self.each(lambda store: store.open_ids()) == [
            *self.of_status("queued"),
            *self.of_status("running"),
        ]

    # -- time and Redis itself ---------------------------------------------------------------------

    @rule(job_id=ANY_JOB)
    def lifetime_ends(self, job_id: str) -> None:
        """Of a job that has ended, and of every upload that has not become one."""
        if job_id in self.jobs and self.jobs[job_id].status not in OPEN:
            del self.jobs[job_id]
        for client, store in zip(self.clients, self.stores, strict=True):
            every: Any = client.zrange(f"{P}:jobs:ends", 0, -1)
            over = [name for name in every if name.startswith(b"upload:") or name.endswith(job_id.encode())]
            if over:
                client.zadd(f"{P}:jobs:ends", dict.fromkeys(over, 1))
            store.newest(1)

    @rule()
    def flush_scripts(self) -> None:
        for client in self.clients:
            client.script_flush()

    @initialize(may_damage=st.booleans())
    def begin(self, may_damage: bool) -> None:
        """In half of the histories a Redis that may evict keys stands behind the jobs."""
        self.may_damage = may_damage
        self.submit(IDS[0], "v1")

    @precondition(lambda self: self.may_damage)
    @rule(job_id=ANY_JOB)
    def record_is_evicted(self, job_id: str) -> None:
        """By a Redis that may evict. The job is gone, and what else it had must not reach a later one."""
        self.damaged = self.damaged or job_id in self.jobs
        self.jobs.pop(job_id, None)
        for client in self.clients:
            client.delete(f"{P}:job:{job_id}")

    # -- checks ------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        for client, store in zip(self.clients, self.stores, strict=True):
            for job_id, record in zip(IDS, store.records(IDS), strict=True):
                check_job(store, record, self.jobs.get(job_id))
            every: Any = client.keys(f"{P}:*")
            self.check_ends(client, every)
            if not self.damaged:
                self.check_lists(client, every)

    def check_ends(self, client: Any, keys: list[bytes]) -> None:
        """Jobs that have not ended have no lifetime, nor do the lists meanwhile; all else has one."""
        endless = {key for key in keys if client.pttl(key) < 0}
        of_open = {f"{P}:job:{job_id}".encode() for job_id in self.of_status(*OPEN)}
        kept = {key for key in keys if key.rpartition(b":")[0] in of_open or key in of_open}
        lists = {key for key in keys if key.startswith(f"{P}:jobs".encode()) and not key.endswith(b":totals")}
        if not self.damaged:
            assert endless == (kept | lists if of_open else set()), "lifetimes"

    def check_lists(self, client: Any, keys: list[bytes]) -> None:
        for status in ("queued", "running", "finished", "failed", "cancelled"):
            places = [
                place.decode().partition(":")[2] for place in client.zrange(f"{P}:jobs:{status}", 0, -1)
            ]
            assert places == self.of_status(status), f"the list of {status} jobs"
        sizes = {name: int(line.split()[0]) for name, line in client.hgetall(f"{P}:jobs:sizes").items()}
        accounts = {name: int(size) for name, size in client.hgetall(f"{P}:jobs:bytes").items()}
        held = accounts.pop(b"all", 0)
        assert held == sum(sizes.values()) == sum(accounts.values()), "the sum of bytes"
        owners = {key.split(b":")[3].decode() for key in keys if key.startswith(f"{P}:job:".encode())}
        uploads = {name.split(b":")[1].decode() for name in sizes if name.startswith(b"upload:")}
        holders = {name.decode().partition(":")[2] for name in sizes if not name.startswith(b"upload:")}
        assert holders <= self.jobs.keys(), "bytes of a job that is gone"
        assert owners <= self.jobs.keys() | uploads, "data of a job that is gone"

    def teardown(self) -> None:
        """Once everything works again, each open job ends with all of its results."""
        self.runs.clear()
        for job_id in self.of_status(*OPEN):
            self.jobs[job_id].stalled = 0
            self.each(lambda store, job_id=job_id: store._client.hset(f"{P}:job:{job_id}", "stalled", 0))
            self.start(job_id, reply_lost=False)
            run = self.runs[-1]
            while run.chunk < CHUNKS:
                self.send_results(run, failed=0)
            self.send_end(run)
            assert self.jobs[job_id].status == "finished"
        self.nothing_is_wrong()


def check_job(store: JobStore, record: JobRecord | None, job: Job | None) -> None:
    """The record of a job, and that its results are those of its texts."""
    if record is None or job is None:
        assert record is None
        assert job is None, "a job is lost"
        return
    lines = [line for chunk in store.output(record, 0, TOTAL) for line in chunk]
    texts = [text for chunk in range(CHUNKS) for text in texts_of(job.version, chunk)]
    assert b"\n".join(lines) == results_of(texts[: record.done]), "results of other texts"
    assert record.labels == Counter(text.upper() for text in texts[: record.done]), "labels counted twice"
    expected = (job.status, job.done, job.failed, job.attempt, job.version, TOTAL, job.owner)
    found = (
        record.status,
        record.done,
        record.failed,
        record.attempt,
        record.digest,
        record.total,
        record.owner,
    )
    assert found == expected
