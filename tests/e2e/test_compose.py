"""compose.yaml under podman: up, requests, three workers, Redis restarted and a worker killed, down."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from millrace.settings_loader import free_port

ROOT = Path(__file__).parents[2]
PROJECT = "millrace-test"
USERS = 6
LOAD_S = 60.0

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]


def run(*words: str, port: int = 0, timeout_s: float = 600) -> str:
    environment = {
        **os.environ,
        "COMPOSE_PROJECT_NAME": PROJECT,
        "CONTAINERS_CONF": str(ROOT / "scripts/podman/containers.conf"),
        "PORT": str(port),
    }
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def service() -> Iterator[httpx.Client]:
    """A client of the service that compose.yaml starts, ready."""
    if not os.environ.get("TEST_IMAGES"):
        pytest.skip("TEST_IMAGES is not set: building both images takes minutes")
    needed = ("podman", "buildah", "runc", "debootstrap", os.environ.get("PODMAN_COMPOSE", "podman-compose"))
    if missing := [name for name in needed if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} here")
    if os.geteuid():
        pytest.skip("podman is run as root here")
    secret = ("--secret", f"id=ca,src={os.environ['CA']}") if os.environ.get("CA") else ()
    run("scripts/compose-without-docker", "build", *secret, timeout_s=3000)
    port = free_port("127.0.0.1")
    try:
        run("scripts/compose-without-docker", "up", "--detach", port=port)
        with httpx.Client(base_url=f"http://localhost:{port}", timeout=60) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200)
            yield client
    finally:
        # podman-compose forgets the containers that `--scale` added.
        named = f"podman ps --all --quiet --filter name={PROJECT}"
        run("sh", "-c", f"{named} | xargs --no-run-if-empty podman rm --force --depend --ignore")
        run("scripts/compose-without-docker", "down", "--volumes", port=port)


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
            answer = self._service.post(
                "/predict", json={"text": [f"user {user} says {number} {time.time()}"]}
            )
            if answer.status_code == 200:
                ((first, second),) = answer.json()["predictions"]
                assert first["score"] + second["score"] == pytest.approx(1, abs=1e-5)
            self.statuses[answer.status_code] += 1
            self.last[user] = answer.status_code
            if answer.status_code == 503:
                time.sleep(int(answer.headers["Retry-After"]))


def test_it_answers_requests_and_jobs(service: httpx.Client) -> None:
    answer = service.post("/predict", json={"text": ["I hate you.", "I love you."]})
    assert [max(pair, key=lambda one: one["score"])["label"] for pair in answer.json()["predictions"]] == [
        "NEGATIVE",
        "POSITIVE",
    ]
    job = service.post("/jobs", json={"text": [f"text {number}" for number in range(500)]}).json()
    wait_for(lambda: service.get(f"/jobs/{job['id']}").json()["status"] == "finished")


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


def test_redis_is_restarted_under_load(service: httpx.Client) -> None:
    with Load(service) as load:
        time.sleep(2)
        run("podman", "restart", f"{PROJECT}_redis_1")
        wait_for(lambda: service.get("/readyz").status_code == 200)
        time.sleep(5)
    assert load.statuses.keys() <= {200, 503}, "an outage is reported, and nothing else happens"
    assert set(load.last.values()) == {200}


def test_one_of_three_workers_is_killed_under_load(service: httpx.Client) -> None:
    port = service.base_url.port or 0
    run("scripts/compose-without-docker", "up", "--detach", "--scale", "worker=3", port=port)
    wait_for(lambda: service.get("/readyz").json().get("workers") == 3)
    with Load(service) as load:
        time.sleep(2)
        run("podman", "kill", f"{PROJECT}_worker_2")
        time.sleep(LOAD_S)
    assert load.statuses.keys() == {200}
