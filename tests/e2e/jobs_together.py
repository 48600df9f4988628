"""Jobs of many clients at once: a large one, ten clients with small ones, and two that cannot go on.

    python -m tests.e2e.jobs_together [--minutes 10] [--texts 1000000] [--seed 1]

Meanwhile workers and jobs workers are killed. In the end the pause ends and the missing worker comes. Every
result is compared with what the model says of the text that was sent, and no process may have more memory
than the manifests give it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import httpx
import psutil

from batcher.messages import fragment
from benchmarks.texts import stream
from model_store.stub import LABELS, StubClassifier
from tests.limits import MIB, limit_bytes
from tests.servers import RedisServer, needs_server
from tests.service import Process, Service, wait_until

WORKERS = 2
CLIENTS = 10
MAX_SMALL = 20
SMALL_P99_S = 2.0
# The model of each job that cannot go on, with another name of the stub: its answers are the same.
PAUSED, WITHOUT = "paused", "without"
MODELS = f"stub,{PAUSED}=stub@{PAUSED}"
NAMES = ("large", *(f"client{number}" for number in range(CLIENTS)))
KEYS = ",".join(f"{name}:{sha256(name.encode()).hexdigest()}" for name in NAMES)
END_S = 120.0
LINES = {"content-type": "application/x-ndjson"}


def settings(token_ms: float) -> dict[str, object]:
    """Those of a service for `run`."""
    limits = {"max_job_body_bytes": 1 << 28, "max_jobs_bytes": 1 << 30, "max_client_jobs_bytes": 1 << 30}
    return {"model": MODELS, "api_keys": KEYS, "stub_token_ms": token_ms, **limits}


@dataclass
class Report:
    """What was seen: seconds of each small job, the most memory of each kind of process, and faults."""

    small_s: list[float] = field(default_factory=list)
    # Those of them that ended while the large job was running.
    beside_s: list[float] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def p99_s(self) -> float:
        """Of the small jobs beside the large one; endless where there were none."""
        return sorted(self.beside_s)[math.ceil(0.99 * len(self.beside_s)) - 1] if self.beside_s else math.inf

    def __str__(self) -> str:
        memory = ", ".join(f"{role} {most // MIB} MiB" for role, most in sorted(self.memory.items()))
        return (
            f"{len(self.small_s)} small jobs, {len(self.beside_s)} of them while the large one ran (p99 "
            f"{self.p99_s:.2f} s), longest {max(self.small_s):.2f} s; {self.kills} kills; at most {memory}"
        )


def answers(texts: Sequence[str]) -> Iterator[Any]:
    """What the stub says of each text."""
    stub = StubClassifier()
    for at in range(0, len(texts), 1000):
        for row in stub.classify(stub.tokenize(texts[at : at + 1000])):
            yield json.loads(fragment(LABELS, row))


class Client:
    """A client of the API with its own key. Asks again while nothing answers."""

    def __init__(self, service: Service, name: str) -> None:
        auth = {"x-api-key": name}
        self.http = httpx.Client(base_url=service.base_url, timeout=60, trust_env=False, headers=auth)

    def hand_in(self, texts: Sequence[str], model: str = "") -> str:
        """The path of a new job."""
        body = "".join(json.dumps(text) + "\n" for text in texts)
        answer = self.http.post("/jobs", params={"model": model}, content=body, headers=LINES)
        assert answer.status_code == 202, answer.text
        return answer.headers["location"]

    def look(self, path: str, wait: float = 0) -> dict[str, Any]:
        answer = self.http.get(path, params={"wait": wait})
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def ended(self, path: str, timeout_s: float = END_S) -> dict[str, Any]:
        def end() -> dict[str, Any] | None:
            job = self.look(path, 10)
            return None if job["status"] in ("queued", "running") else job

        job: dict[str, Any] = wait_until(end, f"the end of {path}", timeout_s)
        return job

    def fault(self, path: str, texts: Sequence[str]) -> str:
        """What is wrong with a job that has ended; "" if nothing is."""
        job = self.look(path)
        if (job["status"], job["done"], job["failed"]) != ("finished", len(texts), 0):
            return f"{path}: {job}"
        wanted = answers(texts)
        page = {"params": {"limit": len(texts)}, "headers": {"accept": "application/x-ndjson"}}
        with self.http.stream("GET", f"{path}/predictions", **page) as answer:  # type: ignore[arg-type]
            for number, line in enumerate(answer.iter_lines()):
                if json.loads(line) != next(wanted, None):
                    return f"{path}: result {number} is not that of its text"
        return "" if next(wanted, None) is None else f"{path}: results are missing"


class Together:
    """One run: its clients, and what happens meanwhile."""

    def __init__(self, service: Service, seed: int) -> None:
        self.service = service
        self.rng = random.Random(seed)
        self.report = Report()
        self.source = stream(seed)
        # Texts of jobs that have ended, by client.
        self.sent: Counter[str] = Counter()
        self.over = threading.Event()
        self.large_ended = threading.Event()
        self._taking = threading.Lock()
        self.jobs = [service.start_jobs(), service.start_jobs()]

    def texts(self, count: int) -> list[str]:
        """Texts that no job has had."""
        with self._taking:
            return [next(self.source) for _ in range(count)]

    def small(self, name: str, sizes: random.Random) -> None:
        """Hands in one small job after the other."""
        client = Client(self.service, name)
        with closing(client.http):
            while not self.over.is_set():
                texts = self.texts(sizes.randint(1, MAX_SMALL))
                began = time.monotonic()
                path = client.hand_in(texts)
                client.ended(path)
                self.sent[name] += len(texts)
                took_s = time.monotonic() - began
                self.report.small_s.append(took_s)
                if not self.large_ended.is_set():
                    self.report.beside_s.append(took_s)
                if fault := client.fault(path, texts):
                    self.report.faults.append(fault)
                client.http.delete(path)
                self.over.wait(sizes.random())

    def kill(self, every_s: float) -> None:
        """Kills a worker or a jobs worker every so often, and starts another one."""
        while not self.over.wait(every_s):
            if self.rng.random() < 0.5:
                self._replace(self.jobs, self.service.start_jobs)
            else:
                self._replace(self.service.workers, self.service.start_worker)
            self.report.kills += 1

    def _replace(self, processes: list[Process], start: Callable[[], Process]) -> None:
        gone = processes.pop(0)
        gone.kill()
        if (made := start()) not in processes:
            processes.append(made)

    def follow(self, path: str, timeout_s: float) -> None:
        """Waits for the end of the large job."""
        client = Client(self.service, "large")
        with closing(client.http):
            client.ended(path, timeout_s)
        self.large_ended.set()

    def watch(self) -> None:
        """Notes the most memory of each kind of process."""
        while not self.over.wait(0.5):
            for role, processes in (("jobs", [*self.jobs]), ("api", [self.service.api])):
                for process in processes:
                    try:
                        size = psutil.Process(process.pid).memory_info().rss
                    except psutil.Error:
                        continue
                    self.report.memory[role] = max(self.report.memory.get(role, 0), size)

    def threads(self, kill_every_s: float, large: str, timeout_s: float) -> list[threading.Thread]:
        targets: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            (self.small, (name, random.Random(self.rng.random()))) for name in NAMES[1:]
        ]
        targets += [(self.kill, (kill_every_s,)), (self.watch, ()), (self.follow, (large, timeout_s))]
        return [threading.Thread(target=self._guarded, args=target) for target in targets]

    def _guarded(self, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            target(*arguments)
        except Exception as error:  # a fault of the service, or of this program
            self.report.faults.append(f"{target.__name__}: {error!r}")


def blocked(service: Service, client: Client, texts: Sequence[str]) -> dict[str, str]:
    """Jobs that cannot go on, by why: of a model that is paused, and of one whose only worker is killed."""
    paused = service.http.put(f"/admin/pauses/models/{PAUSED}", json={"waiting": "keep", "for_s": 86_400})
    assert paused.status_code == 200, paused.text
    worker = service.start_worker(model=f"-,{WITHOUT}=stub@{WITHOUT}", stub_batch_ms=5000)
    wait_until(lambda: client.http.get(f"/v1/models/{WITHOUT}").status_code == 200, WITHOUT, 90)
    jobs = {"paused": client.hand_in(texts, PAUSED), "no_worker": client.hand_in(texts, WITHOUT)}
    service.workers.remove(worker)
    worker.kill()
    return jobs


def usage_fault(service: Service, sent: Counter[str]) -> str:
    """What is wrong with the usage of the clients; "" if it is what their jobs had, once each."""
    used: Counter[str] = Counter()
    for row in service.http.get("/admin/usage").json()["usage"]:
        used[row["key"]] += row["texts"]
    return "" if used == sent else f"usage {dict(used)} is not {dict(sent)}"


def waits_for(client: Client, job: str, why: str) -> bool:
    return bool(client.look(job)["waits_for"] == why)


def unblock(service: Service) -> None:
    service.http.delete(f"/admin/pauses/models/{PAUSED}")
    service.start_worker(model=f"-,{WITHOUT}=stub@{WITHOUT}")


def run(service: Service, seconds: float, large: int, seed: int = 1) -> Report:
    """Runs small jobs for so many seconds beside one of `large` texts. All have ended when it returns."""
    together = Together(service, seed)
    report = together.report
    client = Client(service, "large")
    with closing(client.http):
        few, many = together.texts(200), together.texts(large)
        stuck = blocked(service, client, few)
        path = client.hand_in(many)
        threads = together.threads(seconds / 5, path, seconds * 5 + END_S)
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        together.over.set()
        for why, job in stuck.items():  # a worker that was killed counts until its record has expired
            wait_until(partial(waits_for, client, job, why), f"a job to say that it waits for {why}", END_S)
        for thread in threads:
            thread.join(seconds * 5 + END_S)
        unblock(service)
        for job, texts in ((path, many), *((one, few) for one in stuck.values())):
            client.ended(job, seconds * 5 + END_S)
            report.faults += filter(None, [client.fault(job, texts)])
            together.sent["large"] += len(texts)
    report.faults += filter(None, [usage_fault(service, together.sent)])
    for role, most in report.memory.items():
        if most > limit_bytes(role):
            report.faults.append(f"{role}: {most // MIB} MiB of memory")
    return report


class Plain(Service):
    """Its processes are started as people start them, so that their memory is their own."""

    process_type = Process


def main() -> int:
    """Prints what was seen; status 1 if anything is wrong, or small jobs waited."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.jobs_together", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--texts", type=int, default=1_000_000, help="of the large job")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with closing(RedisServer(needs_server(), ("--maxmemory", "2gb"))) as redis:
        redis.start()
        service = Plain(redis, settings(WORKERS * given.minutes * 60 / given.texts / 25 * 1000))
        with closing(service):
            for _ in range(WORKERS):
                service.start_worker()
            service.wait_ready()
            report = run(service, given.minutes * 60, given.texts, given.seed)
    print(report)
    print(*report.faults[:20], sep="\n")
    return 1 if report.faults or report.p99_s > SMALL_P99_S else 0


if __name__ == "__main__":
    sys.exit(main())
