"""One text through real processes, and what happens to it when they die."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from millrace.settings_loader import free_port
from tests.servers import RedisServer, as_user
from tests.service import Process, Service, millrace, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

QUEUE = "{millrace:2:default}"
# A batch of the long texts takes two seconds: a test surely meets them in flight. Warm-up takes three.
SLOW = {"stub_token_ms": 1.5, "batch_tokens": 100_000}
LONG = tuple(f"{number} " + "word " * 500 for number in range(3))
HEAVY = ("torch", "transformers", "tokenizers", "openvino", "numpy")


def in_flight(service: Service) -> int:
    with service.redis.client() as client:
        return int(client.zcard(f"{QUEUE}:inflight"))


def left_behind(service: Service) -> list[bytes]:
    """Keys of requests that are over but not forgotten."""
    with service.redis.client() as client:
        lists = [f"{QUEUE}:{name}" for name in ("q", "bulk", "solo")]
        waiting = [name.encode() for name in lists if client.llen(name)]
        waiting += [b"inflight"] if client.zcard(f"{QUEUE}:inflight") else []
        return waiting + list(client.scan_iter(f"{QUEUE}:entry:*"))


def computed(service: Service) -> int:
    """Texts that workers ran, by their own records."""
    return sum(int(record[b"texts"]) for record in service.live_workers())


def test_every_request_is_answered_though_a_worker_is_killed_with_its_batch(
    start_service: Callable[..., Service],
) -> None:
    made = start_service(workers=1, stub_batch_ms=400, lease_ms=500)
    with ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(made.predict, f"text {number}", f"more {number}") for number in range(24)]
        wait_until(lambda: in_flight(made) > 1, "a batch")
        made.workers[0].kill()
        held = in_flight(made)
        made.workers.clear()
        made.start_worker(stub_batch_ms=1)
        done = [answer.result() for answer in answers]
    assert held > 0, "the worker was killed with nothing in its hands"
    assert [answer.status_code for answer in done] == [200] * 24
    assert all(len(answer.json()["predictions"]) == 2 for answer in done)
    wait_until(lambda: not left_behind(made), "the queue to be empty", 5)


async def ask(port: int, body: bytes) -> tuple[bytes, bytes]:
    """Head and body of one POST /predict. A plain socket, so that a thousand are cheap."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    before, _, after = answer.partition(b"\r\n\r\n")
    return before, after


async def test_a_thousand_identical_requests_at_two_apis_cost_one_inference(
    start_service: Callable[..., Service],
) -> None:
    one = start_service(workers=1, stub_batch_ms=300)
    other = start_service(workers=0, redis=one.redis)
    other.wait_ready()
    warm_up = computed(one)
    body = b'{"text": ["the one text that everyone asks for"]}'
    ports = [one.port, other.port] * 500
    answers = await asyncio.gather(*(ask(port, body) for port in ports))
    assert {head.split(b"\r\n")[0] for head, _ in answers} == {b"HTTP/1.1 200 OK"}
    assert len({body for _, body in answers}) == 1
    waited = sum(b"x-cache: MISS" in head for head, _ in answers)
    assert waited > 1, "each request computed the text again"
    # The worker's record, which comes with its heartbeat, is as new as this one then.
    await asyncio.to_thread(one.predict, "asked last")
    await asyncio.to_thread(wait_until, lambda: computed(one) >= warm_up + 2, "the record of the last text")
    assert computed(one) == warm_up + 2


def test_the_api_starts_fast_small_and_without_a_model(redis_server: RedisServer, tmp_path) -> None:
    port = free_port()
    environment = {"MILLRACE_REDIS_URL": as_user(redis_server.url, "api"), "MILLRACE_PORT": str(port)}
    api = Process("api", millrace("api"), environment, tmp_path)

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).json() == {"status": "live"}
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, "the API", 60)
        process = psutil.Process(api.pid)
        spent = process.cpu_times()
        rss = process.memory_info().rss
        mapped = [mapping.path for mapping in process.memory_maps() if "site-packages" in mapping.path]
        assert mapped, "an interpreter maps extension modules"
        assert not [path for path in mapped if any(f"/{name}" in path for name in HEAVY)]
        assert rss < 150 * 1024**2
        # About a second of an idle core. The time of the clock depends on what else runs.
        assert spent.user + spent.system < 4
        assert api.stop() == 0
    finally:
        api.close()


def test_the_api_imports_nothing_of_the_model() -> None:
    code = f"import sys, api.server.run; sys.exit(', '.join(sorted({{*{HEAVY!r}}} & set(sys.modules))) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_api_told_to_stop_answers_what_it_holds(start_service: Callable[..., Service]) -> None:
    made = start_service(**SLOW)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(made.predict, *LONG)
        wait_until(lambda: in_flight(made), "the worker to hold it")
        assert made.api.stop() == 0
        assert answer.result().status_code == 200


def test_a_worker_told_to_stop_finishes_its_batch(start_service: Callable[..., Service]) -> None:
    made = start_service(**SLOW)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(made.predict, *LONG)
        wait_until(lambda: in_flight(made), "the worker to hold it")
        assert made.workers[0].stop() == 0
        assert answer.result().status_code == 200
    assert not left_behind(made)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals a single thread with tgkill")
@pytest.mark.parametrize("command", ["api", "worker", "jobs"])
def test_a_process_ends_when_another_than_its_main_thread_receives_the_signal(
    start_service: Callable[..., Service], command: str
) -> None:
    """The kernel may choose any thread, and does not wake the main one for it."""
    made = start_service()
    process = {"api": made.api, "worker": made.workers[0]}.get(command) or made.start_jobs()
    wait_until(lambda: '"ready' in process.said() or "listening" in process.said(), "its main loop")
    others = [thread.id for thread in psutil.Process(process.pid).threads() if thread.id != process.pid]
    if not others:  # a process of jobs has only one while it has no webhooks to send
        pytest.skip(f"{command} has a single thread")
    assert libc().tgkill(process.pid, others[-1], signal.SIGTERM) == 0
    assert process.wait() == 0


def libc() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def test_an_api_without_redis_says_so_and_recovers(
    start_service: Callable[..., Service], redis_server: RedisServer
) -> None:
    redis_server.stop()
    made = start_service(workers=0, redis=redis_server)

    def reason() -> str:
        try:
            return str(made.http.get("/readyz").json().get("code", ""))
        except httpx.TransportError:
            return ""

    wait_until(lambda: reason() == "redis_unavailable", "the API to notice")
    refused = made.predict("no worker is there")
    assert refused.status_code == 503
    assert refused.json()["code"] == "redis_unavailable"
    redis_server.start()
    made.start_worker()
    made.wait_ready()
    assert made.predict("a worker is there").status_code == 200


@pytest.mark.parametrize("command", ["api", "worker", "jobs"])
def test_a_wrong_setting_is_one_line_on_stderr(command: str) -> None:
    environment = {**os.environ, "MILLRACE_LEASE_MSS": "2000"}
    done = subprocess.run(millrace(command), env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"millrace {command}: unknown setting MILLRACE_LEASE_MSS: did you mean MILLRACE_LEASE_MS?\n"
    )


def test_a_paused_worker_keeps_nobody_waiting(start_service: Callable[..., Service]) -> None:
    """A worker that hangs loses its lease: another one answers."""
    made = start_service(workers=1, lease_ms=400, **SLOW)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(made.predict, *LONG)
        wait_until(lambda: in_flight(made), "the worker to hold it")
        made.workers[0].kill(signal.SIGSTOP)
        made.start_worker(stub_token_ms=0)
        assert answer.result().status_code == 200
    made.workers[0].kill(signal.SIGCONT)
