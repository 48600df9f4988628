"""Traffic with known answers: clients of /predict like behind a load balancer, and jobs."""

from __future__ import annotations

import asyncio
import json
import random
import time

import httpx

from tests.chaos.answers import Answers
from tests.chaos.deployment import Deployment
from tests.chaos.ledger import HONEST, Ledger

# Budget 10 s, an API frozen for 3 s, and a busy machine.
PATIENCE_S = 30.0
TRIES = 60
HOT = [f"asked again and again {number}" for number in range(40)]
WORDS = (
    "the",
    "service",
    "race",
    "turns",
    "a",
    "wheel",
    "that",
    "grinds",
    "good",
    "bad",
    "awful",
    "splendid",
    "corn",
    "slowly",
    "but",
    "surely",
    "today",
)


class Clients:
    """Closed-loop clients of /predict until `stop`; each request gets its one line in the ledger.

    Some send texts that make the stub raise, or end its process; to a real model these are like others.
    """

    def __init__(self, deployment: Deployment, ledger: Ledger, rng: random.Random, answers: Answers) -> None:
        self.stop = asyncio.Event()
        self._plant, self._ledger, self._rng, self._answers = deployment, ledger, rng, answers
        self._number = 0

    async def run(self, clients: int) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients * 2)
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S, limits=limits) as http:
            await asyncio.gather(*(self._client(http) for _ in range(clients)))

    async def _client(self, http: httpx.AsyncClient) -> None:
        while not self.stop.is_set():
            await asyncio.sleep(self._rng.uniform(0.01, 0.12))
            texts = self._texts()
            self._ledger.asked += 1
            self._ledger.texts.update(texts)
            for text in texts:
                self._ledger.history.add_call(text, time.time(), None)
            asking = asyncio.create_task(self._ask(http, texts))
            if self._rng.random() < 0.04:
                await asyncio.sleep(self._rng.uniform(0, 0.2))
                if asking.cancel():
                    await asyncio.wait([asking])
                    if asking.cancelled():
                        self._ledger.left += 1
                        continue
            await asking

    def _texts(self) -> list[str]:
        rng = self._rng
        if self._answers.model.startswith("stub") and rng.random() < 0.0015:
            return [f"{rng.choice([chr(0) + 'raise', chr(0) + 'kill'])} {rng.random()}"]
        if rng.random() < 0.2:
            return rng.sample(HOT, rng.randrange(1, 4))
        texts = []
        for _ in range(1 if rng.random() < 0.7 else rng.randrange(2, 9)):
            self._number += 1
            texts.append(f"{self._number} {' '.join(rng.choices(WORDS, k=rng.randrange(2, 30)))}")
        return texts

    async def _ask(self, http: httpx.AsyncClient, texts: list[str]) -> None:
        """One request to its end: an answer, from whichever replica still stands."""
        began = time.monotonic()
        urls = self._plant.urls()
        at = self._rng.randrange(len(urls))
        for attempt in range(TRIES):
            sent = time.time()
            try:
                answer = await http.post(f"{urls[(at + attempt) % len(urls)]}/predict", json={"text": texts})
            except httpx.TimeoutException:
                self._ledger.lost.append(f"no answer within {PATIENCE_S} s to {texts!r}")
                return
            except httpx.TransportError:
                self._ledger.retried += 1
                await asyncio.sleep(0.02 if attempt < 2 else 0.25)
                continue
            self._remember(answer, texts, sent)
            await self._note(answer, texts, time.monotonic() - began)
            return
        self._ledger.lost.append(f"no replica took {texts!r}")

    def _remember(self, answer: httpx.Response, texts: list[str], sent: float) -> None:
        """An answer is one of every text, a failure one of the text that it names."""
        said = answer.json()
        if answer.status_code == 200:
            for text in texts:
                self._ledger.history.add_call(text, sent, "answer")
        elif said.get("code") in ("inference_failed", "poison"):
            self._ledger.history.add_call(texts[said["index"]], sent, said["code"])

    async def _note(self, answer: httpx.Response, texts: list[str], seconds: float) -> None:
        ledger = self._ledger
        ledger.slowest_s = max(ledger.slowest_s, seconds)
        status = answer.status_code
        code = "" if status == 200 else str(answer.json().get("code"))
        if status == 200 and not texts[0].startswith("\0"):
            if wrong := await self._answers.wrong(
                texts, answer.json()["predictions"], answer.headers["x-model"]
            ):
                ledger.wrong.append(f"{texts!r}: {wrong}")
            else:
                ledger.right += 1
        elif status in HONEST:
            ledger.refused[f"{status} {code}"] += 1
        elif (texts[0].startswith("\0raise") and code == "inference_failed") or (
            texts[0].startswith("\0kill") and code == "poison"
        ):
            ledger.right += 1
        else:
            ledger.wrong.append(f"{texts!r} got {status} {code}")


class Jobs:
    """Hands in one job after the other, and checks every result at the end."""

    def __init__(self, deployment: Deployment, ledger: Ledger, rng: random.Random, answers: Answers) -> None:
        self.stop = asyncio.Event()
        self._plant, self._ledger, self._rng, self._answers = deployment, ledger, rng, answers
        self._accepted: list[tuple[str, list[str], float]] = []

    async def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            size = self._rng.randrange(50, 600)
            texts = [f"job {number} {' '.join(self._rng.choices(WORDS, k=8))} {n}" for n in range(size)]
            began = time.monotonic()
            answer = await self._call(
                "POST", "/jobs", json={"text": texts}, headers={"idempotency-key": f"{number}"}
            )
            if answer is None or answer.status_code in HONEST:
                self._ledger.jobs["refused"] += 1
            elif answer.status_code in (200, 202):  # 200: an earlier call arrived whose answer was lost
                self._accepted.append((answer.headers["location"], texts, began))
                self._ledger.texts.update(texts)
            else:
                self._ledger.wrong_jobs.append(f"POST /jobs got {answer.status_code} {answer.text[:200]}")
            await asyncio.sleep(self._rng.uniform(1, 5))

    async def finish(self, timeout_s: float) -> None:
        """Waits until every accepted job has ended, and compares each of its results."""
        for path, texts, began in self._accepted:
            state = await self._outcome(path, texts, began, time.monotonic() + timeout_s)
            self._ledger.jobs[state] += 1

    async def _outcome(self, path: str, texts: list[str], began: float, until: float) -> str:
        while True:
            answer = await self._call("GET", path)
            if answer is None or answer.status_code != 200:
                break
            job = answer.json()
            if job["status"] in ("finished", "failed", "cancelled"):
                break
            if time.monotonic() > until:
                self._ledger.lost_jobs.append(
                    f"{path} is still {job['status']}, {job['done']} of {job['total']} done"
                )
                return "stuck"
            await asyncio.sleep(0.5)
        if answer is not None and answer.status_code == 404:
            if any(at > began for at in self._plant.emptied_at):
                return "gone with the data of Redis"
            self._ledger.lost_jobs.append(f"{path} is gone")
            return "lost"
        if answer is None or answer.status_code != 200 or job["status"] != "finished":
            self._ledger.lost_jobs.append(f"{path}: {answer and answer.text[:300]}")
            return "failed"
        return await self._compare(path, texts)

    async def _compare(self, path: str, texts: list[str]) -> str:
        names = {"accept": "application/x-ndjson"}
        page = await self._call("GET", f"{path}/predictions?limit={len(texts)}", headers=names)
        got = [json.loads(line) for line in page.text.splitlines()] if page is not None else None
        if wrong := await self._answers.wrong(texts, got):
            self._ledger.wrong_jobs.append(
                f"{path} has {got and len(got)} results of {len(texts)}, wrong: {str(wrong[:3])[:1000]}"
            )
            return "wrong"
        return "finished"

    async def _call(self, method: str, path: str, **more: object) -> httpx.Response | None:
        """From whichever replica answers; None when none did within a minute."""
        urls = self._plant.urls()
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            for attempt in range(240):
                try:
                    answer = await http.request(method, urls[attempt % len(urls)] + path, **more)  # type: ignore[arg-type]
                except httpx.TransportError:
                    await asyncio.sleep(0.25)
                    continue
                if method == "GET" and answer.status_code in HONEST:
                    await asyncio.sleep(0.25)
                    continue
                return answer
        return None
