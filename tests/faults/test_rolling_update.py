"""A rolling update of the workers under load: no answer of any dialect mixes two revisions."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from api.dialect_names import DIALECTS as NAMES
from millrace.settings_loader import free_port
from tests.dialects import DIALECTS, PREDICT, Dialect
from tests.e2e.test_candidates import command
from tests.service import Service, millrace, wait_until
from tests.signing import SIGNED, Checker, Revision

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.timeout(600)]

# The second has the labels of the first in another order, and the third has other labels.
REFERENCES = [f"{SIGNED}-{name}" for name in (23, 39, 10)]
USERS = 6
# Between two requests of a user, who would otherwise take all of the processor from what is tested.
PAUSE_S = 0.05
# Answers of every dialect while workers of both revisions run, at each step; more in a long run.
ANSWERS = int(os.environ.get("ROLLING_ANSWERS", "2"))
SEED = int(os.environ.get("ROLLING_SEED", "1"))
# What the service may say in place of an answer.
HONEST = {429, 503, 504}


class Clients:
    """Users who wait for each answer, and take the dialects in turn."""

    def __init__(self, service: Service, checker: Checker) -> None:
        self.statuses: Counter[int] = Counter()
        self.answered: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._service, self._checker = service, checker
        self._stop = asyncio.Event()
        self._numbers = itertools.count()

    async def run(self) -> None:
        async with httpx.AsyncClient(base_url=self._service.base_url, trust_env=False, timeout=60) as http:
            await asyncio.gather(*(self._user(http, random.Random(f"{SEED} {n}")) for n in range(USERS)))

    def stop(self) -> None:
        self._stop.set()

    async def answers(self, what: str, count: int = ANSWERS) -> None:
        """Returns after so many further answers of every dialect."""
        enough = {name: self.answered[name] + count for name in DIALECTS}
        await until(lambda: self.wrong or all(self.answered[name] >= enough[name] for name in enough), what)
        assert self.wrong == [], self.wrong[:5]

    async def _user(self, http: httpx.AsyncClient, rng: random.Random) -> None:
        names = list(DIALECTS)
        rng.shuffle(names)
        for name in itertools.cycle(names):
            if self._stop.is_set():
                break
            await self._ask(http, name, DIALECTS[name], self._texts(rng, DIALECTS[name].most))
            await asyncio.sleep(rng.uniform(0, PAUSE_S))

    def _texts(self, rng: random.Random, most: int) -> list[str]:
        """New texts, and some that other users ask for too."""
        count = min(most, rng.choice((1, 2, 8, 20)))
        known = [f"a text of many users {rng.randrange(30)}" for _ in range(count // 2)]
        return [*known, *(f"text {next(self._numbers)}" for _ in range(count - len(known)))]

    async def _ask(self, http: httpx.AsyncClient, name: str, dialect: Dialect, texts: list[str]) -> None:
        asked_at = time.monotonic()
        answer = await http.post(dialect.path, json=dialect.ask(texts))
        self.statuses[answer.status_code] += 1
        if answer.status_code != 200:
            if answer.status_code not in HONEST or "retry-after" not in answer.headers:
                self.wrong.append(f"{name}: {answer.status_code} {answer.text[:300]}")
        elif wrong := self._faults(dialect, answer, texts, asked_at):
            self.wrong.append(f"{name}: {wrong} {answer.headers['x-model']} {answer.text[:300]}")
        self.answered[name] += answer.status_code == 200

    def _faults(self, dialect: Dialect, answer: httpx.Response, texts: list[str], asked_at: float) -> object:
        """What is wrong with an answer, also if it cannot be read at all."""
        try:
            return self._checker.wrong(dialect.said(answer, texts, asked_at=asked_at))
        except Exception as error:
            return repr(error)


async def until(true: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait_until, true, what, 120)


async def test_a_rolling_update_to_other_labels_mixes_no_two_revisions_in_any_dialect(
    start_service: Callable[..., Service],
) -> None:
    made = await asyncio.to_thread(
        lambda: start_service(
            model=REFERENCES[0], workers=2, compat=",".join(NAMES), stub_batch_ms=3, batch_texts=4
        )
    )
    checker = Checker([Revision(reference) for reference in REFERENCES])
    clients = Clients(made, checker)
    running = asyncio.create_task(clients.run())

    try:
        await clients.answers("answers before")
        for former, reference in itertools.pairwise(REFERENCES):
            for old in list(made.workers):
                made.start_worker(model=reference)
                await until(lambda: len(made.live_workers()) == 3, "the new worker")
                await clients.answers("answers of both revisions")
                assert await asyncio.to_thread(old.stop) == 0
                made.workers.remove(old)
            # The record of the model is read once a second, and one that has just gone is not known at once.
            name = Revision(reference).name
            await until(lambda name=name: _answers(made, name), "the move")  # type: ignore[misc]
            checker.settled(former, at=time.monotonic())
            await clients.answers("answers after the move")
    finally:
        clients.stop()
        await running
    assert clients.wrong == [], clients.wrong[:5]
    assert clients.statuses[200] >= 0.99 * clients.statuses.total(), clients.statuses
    print(dict(clients.statuses), dict(clients.answered))


async def test_candidates_and_moves_mix_no_two_revisions_in_any_dialect(
    start_service: Callable[..., Service],
) -> None:
    """Of published revisions with the same labels in the same order, as shares of one model need."""
    references = [f"{SIGNED}-{name}" for name in (98, 799, 1089)]
    checker = Checker([Revision(reference) for reference in references])
    assert len({one.labels for one in checker.revisions}) == 1
    made = await asyncio.to_thread(
        lambda: start_service(
            model=references[0], workers=2, compat=",".join(NAMES), stub_batch_ms=3, batch_texts=4
        )
    )
    clients = Clients(made, checker)
    running = asyncio.create_task(clients.run())

    async def publish(*words: str, to: int | None = None, former: int = 0) -> None:
        if to is not None:
            checker.settled(references[to], at=math.inf)  # it may answer again
        await asyncio.to_thread(command, made, "publish", *words)
        await clients.answers(f"answers during {words}", 1)
        if to is not None:
            await until(lambda: _answers(made, checker.revisions[to].name), f"the move of {words}")
            checker.settled(references[former], at=time.monotonic())
        await clients.answers(f"answers after {words}", 1)

    try:
        await publish(references[1], "--share", "0.5")
        await publish("--all", to=1)
        await publish("--back", to=0, former=1)
        await publish(references[2], "--shadow", "0.5")
        await publish("--all", to=2)
    finally:
        clients.stop()
        await running
    assert clients.wrong == [], clients.wrong[:5]
    assert clients.statuses[200] >= 0.99 * clients.statuses.total(), clients.statuses


def _answers(service: Service, name: str) -> bool:
    """Whether a text that was not sent before is answered by this revision."""
    return service.predict(f"{time.monotonic_ns()}").headers["x-model"] == name


def test_the_native_route_names_the_revision_of_each_text(start_service: Callable[..., Service]) -> None:
    """While two revisions run, each of its predictions is one revision's own, and X-Model names both."""
    made = start_service(model=REFERENCES[0], stub_batch_ms=3, batch_texts=2)
    made.start_worker(model=REFERENCES[1])
    wait_until(lambda: len(made.live_workers()) == 2, "the second worker")
    revisions = [Revision(reference) for reference in REFERENCES[:2]]
    checker = Checker(revisions)
    numbers = itertools.count()

    def both() -> bool:
        texts = [f"text {next(numbers)}" for _ in range(40)]
        said = PREDICT.said(made.predict(*texts), texts)
        assert set(checker.wrong(said)) <= {"mixed"}, said.rows
        return len(said.names) == 2

    wait_until(both, "an answer of two revisions", 60)


def test_an_api_process_that_stood_still_during_a_move_does_not_answer_by_the_former_revision(
    start_service: Callable[..., Service],
) -> None:
    """It finds requests waiting when it wakes up, of which it knows the answers of the former revision."""
    revisions = [Revision(f"{SIGNED}-{name}") for name in (98, 799)]
    checker = Checker(revisions)
    made = start_service(model=revisions[0].reference)
    port = free_port()
    environment = made.environment_of("api") | {"MILLRACE_PORT": str(port)}
    other = made.process_type("second-api", millrace("api"), environment, made.folder)
    made.processes.append(other)
    asked = [PREDICT, *(DIALECTS[name] for name in ("huggingface", "oip", "openai"))]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:

        def ask(dialect: Dialect) -> httpx.Response:
            return http.post(dialect.path, json=dialect.ask(["a known text"]))

        wait_until(lambda: _is_ready(http), "the second API process", 90)
        command(made, "publish", revisions[1].reference, "--shadow", "0.5")
        wait_until(lambda: ask(PREDICT).headers["x-cache"] == "HIT", "the text to be known")
        other.kill(signal.SIGSTOP)
        # Only of processes that have been silent for a while does a move not wait for the confirmation.
        command(made, "publish", "--all")
        checker.settled(revisions[0].reference, at=time.monotonic())
        asked_at = time.monotonic()
        with ThreadPoolExecutor(len(asked)) as threads:
            answers = [threads.submit(ask, dialect) for dialect in asked]
            time.sleep(0.5)  # so that they wait at its socket
            other.kill(signal.SIGCONT)
        for dialect, answer in zip(asked, answers, strict=True):
            assert answer.result().status_code == 200, answer.result().text
            said = dialect.said(answer.result(), ["a known text"], asked_at=asked_at)
            assert checker.wrong(said) == [], dialect.path


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
