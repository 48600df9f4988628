"""Light traffic with known answers. Each client of /predict stays with its API, as on a side of a network."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx

from tests.chaos.answers import Answers
from tests.chaos.history import History
from tests.chaos.ledger import HONEST

HOT = [f"asked again and again {number}" for number in range(20)]
# Far longer than any promise, so that what hangs is measured and not cut short.
PATIENCE_S = 60.0
# So many jobs at a time, each for so long at most; and so many of those lost are handed in again.
UNDER_WAY, GONE_S, REPEATED = 2, 40.0, 5
RANK = {"queued": 0, "running": 1, "finished": 2, "failed": 2, "cancelled": 2}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has ended, in s of the machine's clock. `status` 0 is none within PATIENCE_S."""

    began: float
    ended: float
    status: int
    known: bool


@dataclass
class Record:
    """What was asked and what came back; sentences for what was wrong."""

    history: History = field(default_factory=History)
    asked: list[Asked] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Predicts:
    """Closed-loop clients of one API until `stop`, each with a request every half second or so."""

    def __init__(self, url: str, record: Record, rng: random.Random, answers: Answers) -> None:
        self.stop = asyncio.Event()
        self._url, self._record, self._rng, self._answers = url, record, rng, answers
        self._numbers = itertools.count()

    async def run(self, clients: int) -> None:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=PATIENCE_S) as http:
            await asyncio.gather(*(self._client(http) for _ in range(clients)))

    async def _client(self, http: httpx.AsyncClient) -> None:
        while not self.stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), self._rng.uniform(0.1, 0.7))
            known = self._rng.random() < 0.25
            texts = self._rng.sample(HOT, 2) if known else self._new()
            await self.ask(http, texts, known=known)

    def _new(self) -> list[str]:
        return [f"{self._url} {next(self._numbers)} is new" for _ in range(self._rng.choice((1, 1, 1, 4)))]

    async def ask(self, http: httpx.AsyncClient, texts: list[str], *, known: bool = False) -> int:
        """One request to its end, on record. The status, 0 for none."""
        record, began = self._record, time.time()
        for text in texts:
            record.history.add_call(text, began, None)
        try:
            answer = await http.post("/predict", json={"text": texts})
        except httpx.TransportError as error:
            record.wrong.append(f"no answer to {texts!r} after {time.time() - began:.1f} s: {error!r}")
            record.asked.append(Asked(began, time.time(), 0, known))
            return 0
        record.asked.append(Asked(began, time.time(), answer.status_code, known))
        if answer.status_code == 200:
            for text in texts:
                record.history.add_call(text, began, "answer")
            if wrong := await self._answers.wrong(
                texts, answer.json()["predictions"], answer.headers["x-model"]
            ):
                record.wrong.append(f"{texts!r}: {wrong}")
        elif answer.status_code in HONEST:
            record.refused[f"{answer.status_code} {answer.json()['code']}"] += 1
        else:
            record.wrong.append(f"{texts!r} got {answer.status_code} {answer.text[:300]}")
        return answer.status_code


@dataclass
class Job:
    """A job that was accepted. `fate` is what is known of it at last."""

    key: str
    path: str
    texts: list[str]
    accepted: float
    rank: int = 0
    fate: str = "open"
    stepped_back: int = 0


class Jobs:
    """Hands in small jobs until `stop`, a few at a time, and waits for all at the end."""

    def __init__(self, urls: list[str], record: Record, rng: random.Random, answers: Answers) -> None:
        self.stop = asyncio.Event()
        self.jobs: list[Job] = []
        self.refused = 0
        self._urls, self._record, self._rng, self._answers = urls, record, rng, answers
        self._http = httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S)

    async def run(self) -> None:
        for number in itertools.count():
            if self.stop.is_set():
                return
            under_way = [job for job in self.jobs if job.rank < 2 and time.time() - job.accepted < GONE_S]
            for job in under_way:
                await self._look(job)
            texts = [f"job {number} text {at}" for at in range(self._rng.randrange(20, 80))]
            if len(under_way) < UNDER_WAY and (job := await self._submit(f"key-{number}", texts)) is not None:
                self.jobs.append(job)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), self._rng.uniform(2, 6))

    async def finish(self, timeout_s: float) -> None:
        """Waits until every job has ended or is gone, and compares all results."""
        until = time.monotonic() + timeout_s
        while (left := [job for job in self.jobs if job.fate == "open"]) and time.monotonic() < until:
            for job in left:
                await self._look(job, final=True)
            await asyncio.sleep(0.5)
        for job in left:
            job.fate = "stuck"
        await self._repeat()
        await self._http.aclose()

    async def _repeat(self) -> None:
        """Some of the lost jobs again, with their keys: they are new ones, and end."""
        lost = [job for job in self.jobs if job.fate == "lost"][:REPEATED]
        for job in lost:
            again = await self._submit(job.key, job.texts)
            until = time.monotonic() + PATIENCE_S
            while again is not None and again.fate == "open" and time.monotonic() < until:
                await self._look(again, final=True)
                await asyncio.sleep(0.1)
            if again is None or again.fate != "finished":
                self._record.wrong.append(f"{job.path} was lost, and again it is {again and again.fate}")

    async def _submit(self, key: str, texts: list[str]) -> Job | None:
        headers, url = {"idempotency-key": key}, self._rng.choice(self._urls)
        try:
            answer = await self._http.post(f"{url}/jobs", json={"text": texts}, headers=headers)
        except httpx.TransportError as error:
            self._record.wrong.append(f"POST /jobs: {error!r}")
            return None
        if answer.status_code in (200, 202):
            return Job(key, answer.headers["location"], texts, time.time())
        self.refused += 1
        if answer.status_code not in HONEST:
            self._record.wrong.append(f"POST /jobs got {answer.status_code} {answer.text[:300]}")
        return None

    async def _look(self, job: Job, *, final: bool = False) -> None:
        """What any API says of it. Only after the last cut, 404 means that it is lost."""
        try:
            answer = await self._http.get(self._rng.choice(self._urls) + job.path)
        except httpx.TransportError as error:
            self._record.wrong.append(f"{job.path}: {error!r}")
            return
        if answer.status_code == 404 and final:
            job.fate = "lost"
        elif answer.status_code == 200:
            status = answer.json()["status"]
            job.stepped_back += RANK[status] < job.rank
            job.rank = max(job.rank, RANK[status])
            if final and RANK[status] == 2:
                job.fate = status
                await self._compare(job)
        elif answer.status_code not in (404, *HONEST):
            self._record.wrong.append(f"{job.path} got {answer.status_code} {answer.text[:300]}")

    async def _compare(self, job: Job) -> None:
        page = await self._http.get(f"{self._urls[0]}{job.path}/predictions?limit=1000")
        got = page.json()["predictions"] if page.status_code == 200 else page.text
        if job.fate == "finished" and (wrong := await self._answers.wrong(job.texts, got)):
            self._record.wrong.append(f"{job.path}: {str(wrong)[:500]}")
