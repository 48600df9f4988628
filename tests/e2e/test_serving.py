"""The API as a real process without any Redis: starting, large bodies, draining, several processes."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from millrace.settings_loader import free_port
from tests.service import ForkedProcess, Process, millrace, wait_until

pytestmark = pytest.mark.e2e

Serve = Callable[..., tuple[Process, httpx.Client]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts `millrace api` with the given settings; gives the process and a client of it."""
    started: list[tuple[Process, httpx.Client]] = []

    def make(process_type: type[Process] = ForkedProcess, **settings: object) -> tuple[Process, httpx.Client]:
        port = free_port()
        environment = {f"MILLRACE_{name.upper()}": str(value) for name, value in settings.items()}
        environment |= {
            "MILLRACE_PORT": str(port),
            "MILLRACE_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        }
        process = process_type(f"api-{len(started)}", millrace("api"), environment, tmp_path)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False)
        started.append((process, client))

        def healthy() -> bool:
            assert process.running, process.said()
            try:
                return client.get("/livez").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(healthy, "the API to answer")
        return process, client

    yield make
    for process, client in started:
        client.close()
        process.close()


def place(client: httpx.Client) -> tuple[str, int]:
    """Host and port of the API."""
    assert client.base_url.port is not None
    return client.base_url.host, client.base_url.port


def test_starts_without_redis_and_is_small(serve: Serve) -> None:
    process, client = serve(Process)  # a forked one has the libraries of a worker too
    assert client.get("/readyz").json()["code"] == "redis_unavailable"
    answer = client.post("/predict", json={"text": ["a"]})
    assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
    assert answer.elapsed.total_seconds() < 5, "the budget of 10 s passed"
    with Path(f"/proc/{process.pid}/maps").open() as maps:
        loaded = maps.read()
    assert not re.search(r"torch|transformers|tokenizers|openvino|numpy", loaded)
    assert psutil.Process(process.pid).memory_info().rss < 150 * 1024**2


@pytest.mark.parametrize("chunked", [True, False])
def test_a_large_upload_is_refused_and_never_held(serve: Serve, chunked: bool) -> None:
    process, client = serve()
    before = psutil.Process(process.pid).memory_info().rss
    sent = 0

    def upload() -> Iterator[bytes]:
        nonlocal sent
        while sent < 2**30:
            sent += 2**16
            yield b" " * 2**16

    headers = {} if chunked else {"Content-Length": str(2**30)}
    answer = client.post("/predict", content=upload(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert sent < 2**27
    assert psutil.Process(process.pid).memory_info().rss < before + 16 * 2**20
    assert client.get("/livez").status_code == 200


def test_a_client_behind_a_proxy_is_what_the_proxy_says_not_what_it_says_itself(serve: Serve) -> None:
    """The address that the client wrote was taken: each of its requests came from another client."""
    _, client = serve(trust_proxy="127.0.0.1", rate_limit="3/minute")

    def status(said: str) -> int:
        return client.get("/stats", headers={"x-forwarded-for": said}).status_code

    assert [status(f"198.51.100.{number}, 203.0.113.5") for number in range(5)] == [200] * 3 + [429] * 2
    assert status("203.0.113.6") == 200


def test_nobody_is_believed_who_is_no_proxy(serve: Serve) -> None:
    _, client = serve(trust_proxy="10.0.0.0/8", rate_limit="3/minute")
    statuses = [
        client.get("/stats", headers={"x-forwarded-for": f"198.51.100.{number}"}).status_code
        for number in range(5)
    ]
    assert statuses == [200] * 3 + [429] * 2


def test_sigterm_takes_readiness_first_and_the_port_later(serve: Serve) -> None:
    process, client = serve(quiet_s=1.5, log_format="json")
    process.kill(signal.SIGTERM)
    wait_until(lambda: client.get("/readyz").json()["code"] == "draining", "draining", 1.0)
    assert client.get("/livez").status_code == 200
    assert process.wait(10) == 0
    assert [line for line in process.said().splitlines() if '"action":"draining"' in line]


def test_a_request_in_flight_is_answered_before_the_end(serve: Serve) -> None:
    process, client = serve()
    body = b'{"text": []}'
    with socket.create_connection(place(client), timeout=20) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode())
        time.sleep(0.2)
        process.kill(signal.SIGTERM)
        time.sleep(0.3)
        assert process.running
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 422 ")
    assert process.wait(10) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no filter of new connections")
def test_who_came_in_before_the_port_closes_is_answered(serve: Serve) -> None:
    """The kernel takes connections for the process; those that it had not looked at yet were reset."""
    process, client = serve()
    process.kill(signal.SIGSTOP)
    with contextlib.ExitStack() as stack:
        asking = [stack.enter_context(socket.create_connection(place(client), timeout=20)) for _ in range(50)]
        for connection in asking:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process.kill(signal.SIGTERM)
        time.sleep(0.3)  # timers are due, too
        process.kill(signal.SIGCONT)
        for connection in asking:
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer
    assert process.wait(10) == 0


def test_several_processes_close_the_port_before_the_last_request_is_answered(serve: Serve) -> None:
    process, client = serve(processes=2)
    wait_until(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 2, "two processes")
    with socket.create_connection(place(client), timeout=20) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\n")
        time.sleep(0.2)
        process.kill(signal.SIGTERM)

        def refused() -> bool:
            try:
                socket.create_connection(place(client), timeout=0.2).close()
            except ConnectionRefusedError:
                return True
            except TimeoutError:
                pass
            return False

        wait_until(refused, "the port to close", 30)
        connection.sendall(b'{"text": []}')
        assert connection.recv(65536).startswith(b"HTTP/1.1 422 ")
    assert process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_process_ends_at_once(serve: Serve, number: signal.Signals) -> None:
    process, _ = serve(drain_s=30)
    started = time.monotonic()
    process.kill(number)
    assert process.wait(25) == 0
    assert time.monotonic() - started < 20
    assert "Traceback" not in process.said()


def test_several_processes_share_the_port_and_count_as_one(serve: Serve) -> None:
    process, client = serve(processes=2)
    wait_until(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 2, "two processes")
    asked = 60

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, timeout=20, trust_env=False) as own:
            assert own.post("/predict", content=b"[]").status_code == 422

    threads = [threading.Thread(target=ask) for _ in range(asked)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def counted() -> bool:
        with httpx.Client(base_url=client.base_url, timeout=20, trust_env=False) as own:
            scraped = own.get("/metrics").text
        return f'millrace_requests_total{{route="/predict",status="422"}} {asked}.0' in scraped

    wait_until(counted, "what each process has counted in the last second")
    assert all(counted() for _ in range(10)), "whichever process answers"
    process.kill(signal.SIGTERM)
    assert process.wait(20) == 0
    assert "Traceback" not in process.said()
