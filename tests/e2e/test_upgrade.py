"""0.1.0 and this version over one Redis, under one name and under load: to this version and back."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.answers import right_json
from tests.dialects import PREDICT
from tests.old_version import OldMill, old_user_rules, unpack_old_code
from tests.servers import RedisServer
from tests.service import Service, wait_until
from tests.signing import SIGNED, Checker, Revision, Said, rows_of

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

# A job takes about a second of a worker. What a busy machine makes slow does not count as lost.
SETTINGS = {"stub_token_ms": 0.1, "default_budget_s": 60, "lease_ms": 10_000}
LONG = "word " * 600
JOB = [f"text {number} of a job" for number in range(1000)]
PATIENCE_S = 120
# Between two requests of a client, who would otherwise take the processor from what is tested.
PAUSE_S = 0.02
# This version runs a stub that signs. 0.1.0 knows only the other one.
CHECKER = Checker([Revision(SIGNED)])


class Load:
    """Clients that ask `service` again and again for known, unknown and long texts, and check each answer."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.wrong: list[str] = []
        self._asking: Counter[Service] = Counter()
        self._answered: Counter[Service] = Counter()
        self._numbers = itertools.count()
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._clients = [threading.Thread(target=self._run, daemon=True) for _ in range(3)]
        for client in self._clients:
            client.start()

    def wait(self, requests: int = 30) -> None:
        """Returns after that many further answers."""
        enough = self._answered[self.service] + requests
        wait_until(lambda: self.wrong or self._answered[self.service] >= enough, "answers", PATIENCE_S)
        assert not self.wrong, self.wrong[:3]

    def move(self, service: Service) -> None:
        """Sends further requests to `service`. Returns when no request is left at the other one."""
        other, self.service = self.service, service
        self.wait()
        wait_until(lambda: not self._asking[other], "the last answers", PATIENCE_S)

    def stop(self) -> None:
        """Ends all clients."""
        self._stopping.set()
        for client in self._clients:
            client.join(PATIENCE_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                service, number = self.service, next(self._numbers)
                self._asking[service] += 1
            texts = [f"text {number}", f"text {number % 20}", LONG]
            try:
                answer = service.predict(*texts)
                if wrong := faults(service, answer, texts):
                    self.wrong.append(f"{wrong} {answer.text[:200]}")
            except Exception as error:
                self.wrong.append(repr(error))
            with self._lock:
                self._asking[service] -= 1
                self._answered[service] += 1
            self._stopping.wait(PAUSE_S)


def faults(service: Service, answer: httpx.Response, texts: list[str]) -> object:
    """What is wrong with an answer of `/predict`; nothing if it is right."""
    if answer.status_code != 200:
        return answer.status_code
    if isinstance(service, OldMill):
        return answer.json()["predictions"] != right_json(texts)
    return CHECKER.wrong(PREDICT.said(answer, texts))


def hand_in(service: Service, texts: list[str]) -> str:
    """The path of a new job."""
    answer = service.http.post("/jobs", json={"text": texts})
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def status(service: Service, job: str) -> str:
    return str(service.http.get(job).json()["status"])


def finish(service: Service, job: str, texts: list[str]) -> None:
    """Waits until a job is finished, and all its results are right."""
    wait_until(lambda: status(service, job) == "finished", f"the end of {job}", PATIENCE_S)
    check_results(service, job, texts)


def check_results(service: Service, job: str, texts: list[str]) -> None:
    answer = service.http.get(f"{job}/predictions", headers={"accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    if isinstance(service, OldMill):
        assert lines == right_json(texts)
    else:
        assert CHECKER.wrong(Said(texts, rows_of(lines))) == []


@pytest.fixture
def old_code(tmp_path: Path) -> Path:
    return unpack_old_code(tmp_path / "0.1.0")


@pytest.fixture
def server(redis_servers: Callable[..., RedisServer], old_code: Path) -> RedisServer:
    """A server with the users of this version and `millrace`, that of 0.1.0."""
    made = redis_servers(tcp=True)
    with made.client() as admin:
        admin.execute_command("ACL", "SETUSER", "millrace", *old_user_rules(old_code))
    return made


@pytest.fixture
def load() -> Iterator[Callable[[Service], Load]]:
    """Starts the load: `load(service)`."""
    made: list[Load] = []

    def start(service: Service) -> Load:
        made.append(Load(service))
        return made[-1]

    yield start
    for one in made:
        one.stop()


def refuses(service: Service) -> bool:
    """Whether it answers that no worker runs, instead of waiting for those of the other version."""
    try:
        answer = service.predict("asked too early")
    except httpx.TransportError:  # it does not listen yet
        return False
    return (answer.status_code, answer.json()["code"]) == (503, "no_worker")


@pytest.mark.timeout(900)
def test_0_1_0_and_this_version_run_side_by_side_and_lose_nothing(
    start_service: Callable[..., Service],
    server: RedisServer,
    old_code: Path,
    load: Callable[[Service], Load],
) -> None:
    old = start_service(redis=server, kind=partial(OldMill, code=old_code), **SETTINGS)
    clients = load(old)
    jobs = old.start_jobs()
    running = hand_in(old, JOB)

    # The API first: it has no workers, and says so. 0.1.0 goes on.
    new = start_service(workers=0, redis=server, model=SIGNED, **SETTINGS)
    wait_until(lambda: "format.other" in new.api.said(), "the warning about the other version", PATIENCE_S)
    wait_until(lambda: refuses(new), "this version to miss its workers", PATIENCE_S)
    clients.wait()
    unsigned = new.start_worker(model="stub")
    new.wait_ready(PATIENCE_S)
    # The same revision and the same texts, but nothing is read from the cache of 0.1.0.
    first = new.predict(LONG)
    assert (first.headers["x-cache"], first.headers["x-truncated-tokens"]) == ("MISS", "90")
    new.start_worker()
    wait_until(lambda: new.http.get("/readyz").json().get("workers") == 2, "both revisions", PATIENCE_S)
    assert unsigned.stop() == 0
    new.workers.remove(unsigned)
    name = CHECKER.revisions[0].name
    wait_until(lambda: new.predict(LONG).headers["x-model"] == name, "the signed revision", PATIENCE_S)
    clients.move(new)
    finish(old, running, JOB)

    # All of 0.1.0 stops, with a job that waits there; this version has its own jobs.
    jobs.kill()
    waiting = hand_in(old, JOB[:300])
    old.workers.pop().stop()
    old.api.kill()
    clients.wait()
    assert new.http.get(waiting).status_code == 404
    jobs = new.start_jobs()
    own = hand_in(new, JOB[:400])
    finish(new, own, JOB[:400])

    # Back, the API first again: jobs of 0.1.0 are still there, finished and waiting ones.
    jobs.kill()
    left = hand_in(new, JOB[:200])
    old.start_api()
    wait_until(lambda: refuses(old), "0.1.0 to miss its workers", PATIENCE_S)
    old.start_worker()
    old.wait_ready(PATIENCE_S)
    clients.move(old)
    old.start_jobs()
    finish(old, waiting, JOB[:300])
    check_results(old, running, JOB)

    # To this version again, which has kept its jobs.
    new.workers.pop().stop()
    clients.wait()
    wait_until(lambda: new.http.get("/readyz").status_code == 503, "no worker", PATIENCE_S)
    new.start_worker()
    new.wait_ready(PATIENCE_S)
    new.start_jobs()
    finish(new, left, JOB[:200])
    check_results(new, own, JOB[:400])
    clients.move(new)
