"""Jobs while processes are killed: each ends in `finished`, with every result, in order."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from batcher.messages import fragment
from benchmarks.texts import texts
from millrace.settings_loader import free_port
from model_store.stub import LABELS, StubClassifier
from tests.service import ForkedProcess, Process, Service, millrace, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

COUNT = 3000
# About three seconds of one worker: long enough to be killed in the middle.
SLOW = {"stub_token_ms": 0.05}
ENDED = ("finished", "failed", "cancelled")
PAIR = list[dict[str, Any]]


def expected(asked: list[str]) -> list[PAIR]:
    """What the stub says of each text."""
    stub = StubClassifier()
    rows = stub.classify(stub.tokenize(asked))
    return [json.loads(fragment(LABELS, row)) for row in rows]


def hand_in(service: Service, asked: list[str], **headers: str) -> str:
    """The path of a new job."""
    body = "".join(json.dumps(text) + "\n" for text in asked)
    names = {"content-type": "application/x-ndjson", **headers}
    answer = service.http.post("/jobs", content=body, headers=names)
    assert answer.status_code == 202, answer.text
    return answer.headers["location"]


def look(service: Service, path: str, wait: float = 0) -> dict[str, Any]:
    answer = service.http.get(path, params={"wait": wait})
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def underway(service: Service, path: str) -> dict[str, Any]:
    """The job, once some of it is done and some is not."""
    job: dict[str, Any] = wait_until(lambda: (job := look(service, path)) and job["done"] and job, "progress")
    assert job["status"] == "running"
    return job


def ended(service: Service, path: str, timeout_s: float = 60) -> dict[str, Any]:
    job: dict[str, Any] = wait_until(
        lambda: (job := look(service, path, 1)) and job["status"] in ENDED and job, "the end", timeout_s
    )
    return job


def assert_complete(service: Service, path: str, asked: list[str]) -> None:
    job = look(service, path)
    assert (job["status"], job["done"], job["failed"]) == ("finished", len(asked), 0)
    answer = service.http.get(
        f"{path}/predictions", params={"limit": len(asked)}, headers={"accept": "application/x-ndjson"}
    )
    assert [json.loads(line) for line in answer.text.splitlines()] == expected(asked)


def start_wrong(service: Service, command: str, clock: str) -> Process:
    """One more process of the service, with a clock that is wrong by so much."""
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    words = ["faketime", "-f", clock, *millrace(command)]
    process = Process(f"{command}{clock}", words, service.environment_of(command), service.folder)
    service.processes.append(process)
    return process


@pytest.mark.parametrize("clock", ["", "+1h", "-1h"])
def test_a_job_goes_on_within_90_s_when_its_process_is_killed(
    start_service: Callable[..., Service], clock: str
) -> None:
    """Also if the clock of that process was wrong: an hour ahead, the job was `running` for that hour."""
    service, asked = start_service(**SLOW), texts(COUNT)
    first = start_wrong(service, "jobs", clock) if clock else service.start_jobs()
    path = hand_in(service, asked)
    before = underway(service, path)
    first.kill()
    killed_at = time.monotonic()
    service.start_jobs()
    wait_until(lambda: look(service, path)["done"] > before["done"] + 512, "the job to go on", 90)
    print(f"continued after {time.monotonic() - killed_at:.1f} s")
    ended(service, path)
    assert_complete(service, path, asked)


@pytest.mark.parametrize("clock", ["+1h", "-1h"])
@pytest.mark.parametrize("command", ["worker", "api"])
def test_a_job_goes_on_within_90_s_when_another_process_with_a_wrong_clock_is_killed(
    start_service: Callable[..., Service], command: str, clock: str
) -> None:
    service, asked = start_service(**SLOW), texts(COUNT)
    (service.workers.pop() if command == "worker" else service.api).kill()
    wrong = start_wrong(service, command, clock)
    service.start_jobs()
    wait_until(lambda: answers(service), "the service to become ready", 90)
    path = hand_in(service, asked)
    before = underway(service, path)
    wrong.kill()
    if command == "worker":
        service.start_worker()
    else:
        service.start_api()
        wait_until(lambda: answers(service), "the API to answer again", 90)
    wait_until(
        lambda: (job := look(service, path))["done"] > before["done"] + 512 or job["status"] in ENDED,
        "the job to go on",
        90,
    )
    ended(service, path)
    assert_complete(service, path, asked)


def test_a_jobs_worker_that_stood_still_adds_nothing_to_a_job_that_another_one_has_taken(
    start_service: Callable[..., Service],
) -> None:
    service, asked = start_service(**SLOW), texts(COUNT)
    first = service.start_jobs()
    path = hand_in(service, asked)
    before = underway(service, path)
    first.kill(signal.SIGSTOP)
    service.start_jobs()
    wait_until(lambda: look(service, path)["done"] > before["done"] + 512, "the job to go on", 90)
    first.kill(signal.SIGCONT)
    ended(service, path)
    assert_complete(service, path, asked)
    (row,) = service.http.get("/admin/usage").json()["usage"]
    assert (row["key"], row["texts"]) == ("-", COUNT)
    assert first.stop() == 0


def answers(service: Service) -> bool:
    """Whether the API is there, and ready."""
    try:
        return service.http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_a_job_goes_on_when_the_model_worker_is_killed(start_service: Callable[..., Service]) -> None:
    service, asked = start_service(**SLOW), texts(COUNT)
    service.start_jobs()
    path = hand_in(service, asked)
    underway(service, path)
    service.workers[0].kill()
    wait_until(lambda: service.http.get("/readyz").status_code == 503, "its record to go: no worker is left")
    assert (look(service, path)["status"], look(service, path)["waits_for"]) == ("running", "no_worker")
    service.start_worker()
    ended(service, path)
    assert_complete(service, path, asked)


def test_a_job_outlives_a_restart_of_redis(start_service: Callable[..., Service]) -> None:
    service, asked = start_service(**SLOW), texts(COUNT)
    service.start_jobs()
    path = hand_in(service, asked)
    underway(service, path)
    service.redis.kill()
    assert service.http.get(path).status_code == 503
    time.sleep(1.5)
    service.redis.start()
    wait_until(lambda: service.http.get(path).status_code == 200, "the API to find Redis again")
    ended(service, path, 90)
    assert_complete(service, path, asked)


def test_a_job_goes_on_after_its_worker_was_asked_to_stop(start_service: Callable[..., Service]) -> None:
    service, asked = start_service(**SLOW), texts(COUNT)
    first = service.start_jobs()
    path = hand_in(service, asked)
    underway(service, path)
    assert first.stop(timeout_s=60) == 0
    between = look(service, path)
    assert between["status"] == "running"
    assert between["done"] < COUNT
    assert "Traceback" not in first.said()
    service.start_jobs()
    ended(service, path)
    assert_complete(service, path, asked)


def test_cancelling_empties_the_lane_long_before_it_would_have_run(
    start_service: Callable[..., Service],
) -> None:
    service = start_service(stub_token_ms=1.0)
    service.start_jobs()
    path = hand_in(service, texts(COUNT))
    with service.redis.client() as client:
        lane = "{millrace:2:default}:bulk"
        wait_until(lambda: client.llen(lane), "entries in the lane")
        answer = service.http.delete(path)
        assert answer.json()["status"] == "cancelled"
        wait_until(lambda: not client.llen(lane), "an empty lane", 10)
        wait_until(lambda: not list(client.scan_iter("{millrace:2:default}:entry:*")), "the end of the batch")
    job = look(service, path)
    assert (job["status"], job["error"]) == ("cancelled", None)
    follow_up = hand_in(service, ["after", "that"])
    ended(service, follow_up)
    assert_complete(service, follow_up, ["after", "that"])


def test_a_long_poll_ends_with_an_answer_when_the_api_restarts(start_service: Callable[..., Service]) -> None:
    service = start_service()
    path = hand_in(service, ["none", "runs", "this"])
    answers: list[httpx.Response] = []
    polling = threading.Thread(target=lambda: answers.append(service.http.get(path, params={"wait": 30})))
    polling.start()
    time.sleep(0.5)
    assert service.api.stop(timeout_s=60) == 0
    polling.join(timeout=60)
    assert answers[0].json()["status"] == "queued"
    service.start_api()
    service.wait_ready()
    assert look(service, path)["position"] == 1


def test_any_replica_answers_for_any_job(start_service: Callable[..., Service]) -> None:
    service, asked = start_service(), texts(700)
    port = free_port()
    other = ForkedProcess(
        "replica",
        millrace("api"),
        {**service.environment_of("api"), "MILLRACE_PORT": str(port)},
        service.folder,
    )
    service.processes.append(other)
    service.start_jobs()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as replica:

        def answers() -> bool:
            try:
                return replica.get("/livez").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, "the replica")
        path = hand_in(service, asked, **{"idempotency-key": "one"})
        body = "".join(json.dumps(text) + "\n" for text in asked)
        again = replica.post(
            "/jobs", content=body, headers={"content-type": "application/x-ndjson", "idempotency-key": "one"}
        )
        assert (again.status_code, again.headers["location"]) == (200, path)
        wait_until(lambda: replica.get(path).json()["status"] == "finished", "the end")
        assert replica.get(f"{path}/predictions", params={"offset": 699}).json()["predictions"] == expected(
            asked[699:]
        )
