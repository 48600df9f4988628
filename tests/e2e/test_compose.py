"""compose.yaml under podman: up, requests, Redis restarted and restored, the API replaced, kills, down.

On one Redis, the workers run a stub that signs, so that every answer can be checked; on the cluster, the
model of their image.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from batcher.messages import entry_id
from batcher.shards import shard_of
from millrace.settings_loader import free_port
from tests.dialects import PREDICT
from tests.e2e.test_prometheus import Prometheus, check_panels_and_alerts
from tests.signing import SIGNED, Checker, Revision, Said, rows_of
from tests.tools import needs

ROOT = Path(__file__).parents[2]
PROJECT = "millrace-test"
CLUSTER = "millrace-cluster"
USERS = 6
LOAD_S = 60.0
OPERATOR = "the key of an operator"
CHECKER = Checker([Revision(SIGNED)])

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]


def run(*words: str, port: int = 0, project: str = PROJECT, timeout_s: float = 600) -> str:
    environment = {
        **os.environ,
        "COMPOSE_PROJECT_NAME": project,
        "CONTAINERS_CONF": str(ROOT / "scripts/podman/containers.conf"),
        "PORT": str(port),
        "REDIS_ADMIN_PASSWORD": "admin",
        "MILLRACE_ADMIN_KEYS": f"operator:{sha256(OPERATOR.encode()).hexdigest()}",
    }
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def images() -> None:
    """The images, built here."""
    if not os.environ.get("TEST_IMAGES"):
        pytest.skip("TEST_IMAGES is not set: building both images takes minutes")
    for tool in ("podman", "buildah", "runc", "debootstrap", "podman-compose"):
        needs(tool)
    if os.geteuid():
        pytest.skip("podman is run as root here")
    secret = ("--secret", f"id=ca,src={os.environ['CA']}") if os.environ.get("CA") else ()
    run("scripts/compose-without-docker", "build", *secret, timeout_s=3000)


@contextmanager
def running(project: str, *options: str) -> Iterator[httpx.Client]:
    """A client of the service that compose.yaml starts with these options, ready."""
    port = free_port("127.0.0.1")
    compose = ("scripts/compose-without-docker", *options)
    try:
        run(*compose, "up", "--detach", port=port, project=project)
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=60) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200)
            yield client
    finally:
        # podman-compose forgets the containers that `--scale` added.
        named = f"podman ps --all --quiet --filter name={project}"
        run("sh", "-c", f"{named} | xargs --no-run-if-empty podman rm --force --depend --ignore")
        run(*compose, "down", "--volumes", port=port, project=project)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The options that have the workers run a stub that signs."""
    override = tmp_path_factory.mktemp("compose") / "signed.yaml"
    override.write_text(json.dumps({"services": {"worker": {"environment": {"MILLRACE_MODEL": SIGNED}}}}))
    return "--file", str(override)


@pytest.fixture(scope="module")
def service(images: None, signed: Sequence[str]) -> Iterator[httpx.Client]:
    """The service as compose.yaml has it, with a stub that signs."""
    with running(PROJECT, *signed) as client:
        yield client


@pytest.fixture(scope="module")
def cluster(images: None) -> Iterator[httpx.Client]:
    """The service with the profile `cluster`."""
    with running(CLUSTER, "--env-file", "compose.cluster.env") as client:
        yield client


def wait_for(holds: Callable[[], bool], limit_s: float = 300) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            if holds():
                return
        except httpx.TransportError:
            pass  # the API is not listening yet
        assert time.monotonic() < deadline
        time.sleep(0.5)


class Load:
    """Users that send texts that no cache knows, until the block ends."""

    def __init__(self, service: httpx.Client) -> None:
        self.statuses: Counter[int] = Counter()
        self.last: dict[int, int] = {}
        self._service = service
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(USERS)

    def __enter__(self) -> Load:
        self._users = [self._pool.submit(self._use, user) for user in range(USERS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for user in self._users:
            user.result()  # raises what a request raised
        self._pool.shutdown()

    def _use(self, user: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            texts = [f"user {user} says {number} {time.time()}"]
            try:
                answer = self._service.post("/predict", json={"text": texts})
            except httpx.TransportError:
                self.statuses[0] += 1
                self.last[user] = 0
                time.sleep(0.1)
                continue
            if answer.status_code == 200:
                assert CHECKER.wrong(PREDICT.said(answer, texts)) == []
            self.statuses[answer.status_code] += 1
            self.last[user] = answer.status_code
            if answer.status_code == 503:
                time.sleep(int(answer.headers["Retry-After"]))


def results(service: httpx.Client, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    """What a job answers."""
    job = service.post("/jobs", json={"text": texts}).json()
    wait_for(lambda: service.get(f"/jobs/{job['id']}").json()["status"] == "finished")
    found: list[list[dict[str, Any]]] = service.get(f"/jobs/{job['id']}/predictions").json()["predictions"]
    return found


def test_it_answers_requests_and_jobs(service: httpx.Client) -> None:
    texts = [f"text {number}" for number in range(500)]
    answer = service.post("/predict", json={"text": texts[:20]})
    assert answer.status_code == 200, answer.text
    assert CHECKER.wrong(PREDICT.said(answer, texts[:20])) == []
    assert CHECKER.wrong(Said(texts, rows_of(results(service, texts)))) == []


def test_every_process_is_healthy_and_confined(service: httpx.Client) -> None:
    for name in ("api", "worker", "jobs"):
        run("podman", "healthcheck", "run", f"{PROJECT}_{name}_1")
        found = run(
            "podman",
            "inspect",
            "--format",
            "{{.HostConfig.ReadonlyRootfs}} {{.EffectiveCaps}}",
            f"{PROJECT}_{name}_1",
        )
        assert found.strip() == "true []"


def test_prometheus_finds_every_container_and_fills_every_panel(
    service: httpx.Client, tmp_path: Path
) -> None:
    """The configuration and the command of compose.yaml, with this machine's Prometheus in another image."""
    binary, port, name = needs("prometheus"), free_port("127.0.0.1"), f"{PROJECT}_prometheus_1"
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(compose["configs"]["prometheus"]["content"].replace("15s", "1s"))
    rules = ROOT / "k8s/components/monitoring"
    mounts = {binary: "/usr/bin/prometheus", configuration: "/etc/prometheus/prometheus.yml", rules: "/rules"}
    volumes = [f"--volume={here}:{there}:ro" for here, there in mounts.items()]
    described = compose["services"]["prometheus"]
    shell, option, script = described["entrypoint"]
    runbooks = described["environment"]["RUNBOOKS"].partition(":-")[2].rstrip("}")
    options = [
        "--detach",
        "--rm",
        f"--name={name}",
        f"--network={PROJECT}_default",
        f"--env=RUNBOOKS={runbooks}",
    ]
    options += [*volumes, "--tmpfs=/prometheus", f"--publish=127.0.0.1:{port}:9090", f"--entrypoint={shell}"]
    image = "localhost/millrace-redis:local"
    run("podman", "run", *options, image, option, script.replace("$$", "$"))
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_for(prometheus.up)
        check_panels_and_alerts(prometheus, str(service.base_url))
    finally:
        prometheus.http.close()
        run("podman", "rm", "--force", name)


def test_redis_is_restarted_under_load(service: httpx.Client) -> None:
    with Load(service) as load:
        time.sleep(2)
        run("podman", "restart", f"{PROJECT}_redis_1")
        wait_for(lambda: service.get("/readyz").status_code == 200)
        time.sleep(5)
    assert load.statuses.keys() <= {200, 503}, "an outage is reported, and nothing else happens"
    assert set(load.last.values()) == {200}


def test_the_only_api_is_replaced_under_load(service: httpx.Client, signed: Sequence[str]) -> None:
    """Its port is closed meanwhile, as there is no other; accepted requests are answered."""
    port = service.base_url.port or 0
    with Load(service) as load:
        time.sleep(2)
        run(
            "scripts/compose-without-docker",
            *signed,
            "up",
            "--detach",
            "--force-recreate",
            "--no-deps",
            "api",
            port=port,
        )
        wait_for(lambda: service.get("/readyz").status_code == 200)
        time.sleep(5)
    assert load.statuses.keys() <= {200, 503, 0}
    assert set(load.last.values()) == {200}


class Operator:
    """What an operator and a client of jobs see and do."""

    def __init__(self, service: httpx.Client) -> None:
        self._service = service

    def job(self, count: int, key: str) -> str:
        texts = [f"{key} {number}" for number in range(count)]
        created = self._service.post("/jobs", json={"text": texts}, headers={"Idempotency-Key": key})
        assert created.is_success, created.text
        return f"/jobs/{created.json()['id']}"

    def admin(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {OPERATOR}"}
        answer = self._service.request(method, f"/admin/{path}", json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def has_decided(self) -> list[object]:
        held = self.admin("GET", "clients")["held"]
        return [[one["client"] for one in held], list(self.admin("GET", "pauses")["pauses"])]


def back_up(to: Path) -> None:
    """As docs/backup.md says."""
    admin = f"podman exec {PROJECT}_redis_1 sh -c 'REDISCLI_AUTH=$REDIS_ADMIN_PASSWORD redis-cli --user admin"
    run("sh", "-c", f"{admin} BGSAVE'")
    done = ("rdb_bgsave_in_progress:0", "rdb_last_bgsave_status:ok")
    wait_for(lambda: all(fact in run("sh", "-c", f"{admin} INFO persistence'") for fact in done))
    run("podman", "cp", f"{PROJECT}_redis_1:/data/dump.rdb", str(to))


def restore(backup: Path) -> None:
    """The same."""
    write = f"podman exec -i {PROJECT}_redis_1 sh -c 'cat >/data/restore.rdb'"
    run("sh", "-c", f"{write} <{backup}")
    run("podman", "restart", f"{PROJECT}_redis_1")


@pytest.mark.parametrize("how", ["restart", "restore"])
def test_jobs_a_hold_and_a_pause_survive(service: httpx.Client, how: str, tmp_path: Path) -> None:
    operator = Operator(service)
    finished = operator.job(5, f"{how} first")
    wait_for(lambda: service.get(finished).json()["status"] == "finished")
    operator.admin("POST", "clients/hold", {"client": "key:held", "what": "all", "for_s": 3600})
    # The job runs, and waits for the end of the pause.
    operator.admin("PUT", "pauses/bulk", {"waiting": "keep", "for_s": 3600})
    running = operator.job(2000, f"{how} second")
    wait_for(lambda: service.get(running).json()["status"] == "running")
    decided = [["key:held"], ["bulk"]]
    wait_for(lambda: operator.has_decided() == decided)  # every process knows of a pause within two seconds
    before = service.get(finished).json()
    if how == "restart":
        run("podman", "restart", f"{PROJECT}_redis_1")
    else:
        back_up(tmp_path / "backup.rdb")
        later = operator.job(5, "after the backup")
        operator.admin("POST", "clients/hold", {"client": "key:later", "what": "all", "for_s": 3600})
        restore(tmp_path / "backup.rdb")
    wait_for(lambda: service.get("/readyz").status_code == 200)
    wait_for(lambda: operator.has_decided() == decided)
    assert service.get(finished).json() == before
    assert how == "restart" or service.get(later).status_code == 404
    operator.admin("DELETE", "pauses/bulk")
    wait_for(lambda: service.get(running).json()["status"] == "finished")
    assert (service.get(running).json()["done"], service.get(running).json()["failed"]) == (2000, 0)


def test_one_of_three_workers_is_killed_under_load(service: httpx.Client, signed: Sequence[str]) -> None:
    port = service.base_url.port or 0
    run("scripts/compose-without-docker", *signed, "up", "--detach", "--scale", "worker=3", port=port)
    wait_for(lambda: service.get("/readyz").json().get("workers") == 3)
    with Load(service) as load:
        time.sleep(2)
        run("podman", "kill", f"{PROJECT}_worker_2")
        time.sleep(LOAD_S)
    assert load.statuses.keys() == {200}


def of_shard(number: int, what: str, count: int = 10) -> list[str]:
    """Texts that belong to one of the three shards of the cluster."""
    texts = (f"{what} {at}" for at in itertools.count())
    return list(itertools.islice((text for text in texts if shard_of(entry_id(text), 3) == number), count))


def test_the_cluster_answers_requests_and_jobs(cluster: httpx.Client) -> None:
    wait_for(lambda: cluster.get("/readyz").json().get("shards_up") == 3)
    texts = ["I hate you.", "I love you."]
    for found in (
        cluster.post("/predict", json={"text": texts}).json()["predictions"],
        results(cluster, texts),
    ):
        best = [max(pair, key=lambda one: one["score"])["label"] for pair in found]
        assert best == ["NEGATIVE", "POSITIVE"]
    kept = "REDISCLI_AUTH=local-jobs redis-cli --user jobs type {millrace-jobs:default}:jobs:ends"
    assert run("podman", "exec", f"{CLUSTER}_redis_1", "sh", "-c", kept).strip() == "zset"


def test_without_one_of_three_masters_the_texts_of_the_others_go_on(cluster: httpx.Client) -> None:
    run("podman", "kill", f"{CLUSTER}_redis-3_1")  # it has the slot of shard 2
    wait_for(lambda: cluster.get("/readyz").json().get("shards_up") == 2)
    for number, status in ((0, 200), (1, 200), (2, 503)):
        answers = [cluster.post("/predict", json={"text": [text]}) for text in of_shard(number, "without")]
        assert {answer.status_code for answer in answers} == {status}, number
    assert "shard 2 of 3" in cluster.get("/readyz").json()["warning"]
    job = cluster.post("/jobs", json={"text": of_shard(0, "job") + of_shard(1, "job")}).json()
    wait_for(lambda: cluster.get(f"/jobs/{job['id']}").json()["status"] == "finished")

    run("podman", "start", f"{CLUSTER}_redis-3_1")
    wait_for(lambda: cluster.get("/readyz").json().get("shards_up") == 3)
    wait_for(lambda: cluster.post("/predict", json={"text": of_shard(2, "back")}).status_code == 200)
