"""No request costs far more than it weighs: the worst bodies of every route, and what they cost the API.

The processor time is that of the API process alone, and the least of several runs, so that it does not depend
on what else the machine does. `make cost` runs the long form.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from socket import create_connection

import pytest

from api.dialect_names import DIALECTS
from api.settings import ApiSettings
from tests.cost.bodies import FILES, JSON_BODIES, MULTIPART, files, forms, json_bodies, zipped
from tests.cost.meter import KIB, MIB, Cost, Meter, Request
from tests.cost.routes import every_route
from tests.limits import confine, limit_bytes
from tests.service import Process, Service

pytestmark = [
    pytest.mark.redis,
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="the clocks of other processes are Linux's"),
]
ROOT = Path(__file__).parents[2]
KEY = "k" * 43
RUNS = 4
# The allowance of every request, and for each KiB of it.
BASE_S, KIB_S = 0.050, 0.008
# Below this, growth says nothing.
MEASURABLE_S = 0.1
ANSWER_BYTES: int = ApiSettings.model_fields["max_answer_bytes"].default
# These take bodies that are files, and do not hold them in memory.
FILE_ROUTES = ("/jobs", "/v1/files")
# These answer with what is stored, as streams.
STREAMS = ("/stats", "/jobs/{job_id}/events")


class ManyLabels(Service):
    """A service whose model has 151 labels."""

    def _start(self, command: str, settings: object = None) -> Process:
        if command != "worker":
            return super()._start(command)
        environment = {**self.environment, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "tests.cost.worker"]
        return Process(f"worker-{time.monotonic_ns()}", words, environment, self.folder)


@pytest.fixture
def meter(start_service: Callable[..., Service]) -> Meter:
    made = start_service(
        kind=ManyLabels,
        compat=",".join(DIALECTS),
        compat_models="*",
        moderation_labels="label_000=hate",
        admin_keys=f"ops:{sha256(KEY.encode()).hexdigest()}",
        open="true",
    )
    confine(made.api.pid, "api")
    found = Meter(made, KEY)
    for text in ("a", "b"):
        assert found.measure(Request("POST", "/predict", b'{"text":["%b"]}' % text.encode())).status == 200
    return found


def filled(path: str, value: str = "stub") -> str:
    """A path with values of its parameters."""
    return re.sub(r"\{\w+(:path)?\}", value, path.replace("{lane}", "bulk"))


def requests(method: str, path: str, size: int) -> Iterator[tuple[str, Request]]:
    """The worst requests of a route, of about so many bytes. None for a body that nothing here can write."""
    if path == "/jobs" and method == "POST":
        for name, query, kind, body in files(size):
            yield name, Request(method, path + query, body, kind)
        yield "gzip", Request(method, f"{path}?filename=a.txt", *zipped(8 * size))
    elif path == "/v1/files" and method == "POST":
        for name, body in forms(size):
            yield name, Request(method, path, body, MULTIPART)
    elif method in ("POST", "PUT") and path in JSON_BODIES:
        ordered = "?order=score" if path.endswith("predict") and "v1" not in path else ""
        for name, body in json_bodies(JSON_BODIES[path], size):
            yield name, Request(method, filled(path) + ordered, body)
    elif method in ("GET", "DELETE") or path == "/v1/batches/{batch_id}/cancel":
        most = min(size, 6 * KIB)
        yield "a plain request", Request(method, filled(path))
        if "{" in path:
            yield "a long name", Request(method, filled(path, "x" * most))
            yield "many parts", Request(method, filled(path, "x%2F" * (most // 4)))
        yield "many parameters", Request(method, filled(path) + "?" + "limit=5&" * (most // 8))
        yield "many unknown ones", Request(method, filled(path) + "?" + "a=&" * (most // 3))
        yield "a long parameter", Request(method, filled(path) + "?cursor=" + "0" * most)


def too_much(request: Request, cost: Cost) -> str:
    """Why a request costs more than it may; empty if it does not."""
    in_file = request.path.split("?")[0] in FILE_ROUTES
    memory = 64 * MIB if in_file else 16 * request.size + 32 * MIB
    allowed_s = BASE_S + KIB_S * request.size / KIB
    if cost.status == 500:
        return "status 500"
    if cost.cpu_s > allowed_s:
        return f"{cost.cpu_s * 1e3:.0f} ms of processor time, {allowed_s * 1e3:.0f} are allowed"
    if cost.memory > memory:
        return f"{cost.memory / MIB:.0f} MiB of memory, {memory / MIB:.0f} are allowed"
    if len(cost.answer) > ANSWER_BYTES + 4 * request.size:
        return f"an answer of {len(cost.answer)} bytes"
    return ""


def check(meter: Meter, method: str, path: str, size: int) -> list[str]:
    """What is too expensive on a route, each after several runs."""
    found = []
    for name, request in requests(method, path, size):
        for _ in range(RUNS):
            cost = meter.measure(request)
            if not (problem := too_much(request, cost)):
                break
        else:
            found.append(f"{method} {path}, {name}, {request.size} bytes: {problem}")
    return found


def streams(method: str, path: str) -> bool:
    return method == "GET" and path in STREAMS


def test_every_route_has_requests() -> None:
    """A new route needs an example of its body in tests/cost/bodies.py."""
    without = [route for route in every_route() if not any(True for _ in requests(*route, 1024))]
    assert without == []


def test_no_request_costs_more_than_it_weighs(meter: Meter) -> None:
    found = []
    for method, path in every_route():
        if not streams(method, path):
            for size in (4 * KIB, 64 * KIB):
                found += check(meter, method, path, size)
    assert not found, "\n".join(found)


LARGE = {
    "outputs": Request(
        "POST",
        "/v2/models/stub/infer",
        b'{"inputs":[{"name":"t","shape":[20],"datatype":"BYTES","data":[%b]}],"outputs":[%b]}'
        % (
            b",".join([b'""'] * 20),
            b",".join([b'{"name":"scores","parameters":{"classification":151}}'] * 1000),
        ),
    ),
    "detections": Request(
        "POST",
        "/api/v1/text/contents",
        b'{"contents":[%b],"detector_params":{"threshold":0}}' % b",".join([b'"%b"' % (b"x" * 19_000)] * 100),
    ),
    "order": Request("POST", "/predict?order=score", b'{"text":[%b]}' % b",".join([b'""'] * 1024)),
    "header": Request("POST", "/jobs?filename=a.csv", FILES["a wide header"](78 * KIB), ""),
    "names": Request(
        "POST", "/jobs?filename=a.csv&column=" + "ab" * 99, FILES["columns with long names"](199 * KIB), ""
    ),
    "record": Request("POST", "/jobs", FILES["one wide record over many lines"](15 * MIB), "text/csv"),
    "columns": Request("POST", "/jobs?filename=a.csv", FILES["empty names"](1000 * KIB), ""),
    "form": Request("POST", "/v1/files", [*forms(100)][-2][1], MULTIPART),
}


def test_four_of_the_largest_at_once_fit_into_the_limit(meter: Meter) -> None:
    """And none of them costs more than it may."""
    found = []
    for name, request in LARGE.items():
        for _ in range(RUNS):
            if not (problem := too_much(request, meter.measure(request))):
                break
        found += [f"{name}: {problem}"] if problem else []
        meter.forget_peak()
        with ThreadPoolExecutor(4) as four:
            statuses = [answer.status_code for answer in four.map(meter.send, [request] * 4)]
        if 500 in statuses or meter.memory() > limit_bytes("api") // 2:
            found.append(f"{name}, four at once: {statuses}, {meter.memory() / MIB:.0f} MiB")
    assert not found, "\n".join(found)


GZIP = Request("POST", "/jobs?filename=a.txt", *zipped(60 * MIB))


@pytest.mark.parametrize("request_", [GZIP, LARGE["header"]], ids=["gzip", "header"])
def test_work_ends_a_second_after_the_client_has_left(meter: Meter, request_: Request) -> None:
    head = (
        f"POST {request_.path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
        f"content-length: {len(request_.body)}\r\n\r\n"
    )
    began_s = meter.cpu_s()
    with create_connection(("127.0.0.1", meter.port)) as client:
        client.sendall(head.encode() + request_.body)
        deadline = time.monotonic() + 5
        while meter.cpu_s() - began_s < 0.05 and time.monotonic() < deadline:
            time.sleep(0.001)
    left_s = meter.cpu_s()
    time.sleep(4)
    assert meter.cpu_s() - left_s < 1.5  # of a second at most, and of what the process does anyway


def grows(meter: Meter, method: str, path: str, size: int) -> list[str]:
    """Requests that cost more than 2.3 times as much with twice the body."""
    found = []
    for (name, small), (_, large) in zip(
        requests(method, path, size), requests(method, path, 2 * size), strict=True
    ):
        if meter.measure(large).cpu_s < MEASURABLE_S:
            continue
        less, more = (min(meter.measure(one).cpu_s for _ in range(RUNS)) for one in (small, large))
        if more > MEASURABLE_S and more > 2.3 * less * large.size / (2 * small.size):
            found.append(f"{method} {path}, {name}: {less * 1e3:.0f} ms, twice the body {more * 1e3:.0f}")
    return found


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_twice_the_body_costs_twice(meter: Meter) -> None:
    found = []
    for method, path in every_route():
        if method in ("POST", "PUT") and "order" not in path:
            found += grows(meter, method, path, 512 * KIB)
    assert not found, "\n".join(found)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_largest_requests_cost_no_more_than_they_weigh(meter: Meter) -> None:
    found = []
    for method, path in every_route():
        if not streams(method, path):
            for size in (16 * KIB, 512 * KIB, 2 * MIB - 64 * KIB):
                found += check(meter, method, path, size)
    for size in (16 * MIB, 60 * MIB):
        found += check(meter, "POST", "/jobs", size) + check(meter, "POST", "/v1/files", size)
    assert not found, "\n".join(found)
