"""No request costs far more than it weighs: the worst requests of every route, and what they cost the API.

The processor time is that of the API process and of those that read tables for it, and the least of several
runs, so that it does not depend on what else the machine does. `make cost` runs the long form, and prints
what each route costs at most.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api.settings import ApiSettings
from tests.cost.bodies import JSON_BODIES
from tests.cost.files import MULTIPART, form
from tests.cost.meter import KIB, MIB, Cost, Meter, Request
from tests.cost.planted import PLANTED, Planted
from tests.cost.requests import FILES, JOBS, LABELLED, LARGE_ZIP, PLAIN, Named, bodies, heads
from tests.cost.routes import ApiRoute, every_route
from tests.cost.stored import ENDED, GAP_BYTES, TEXTS
from tests.limits import limit_bytes
from tests.mutation.mutants import ROOT

pytestmark = [
    pytest.mark.redis,
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="the clocks of other processes are Linux's"),
]
ROUTES = every_route()
RUNS = 4
# The allowance of every request, and for each KiB of it.
BASE_S, KIB_S = 0.050, 0.008
# For each process that reads a table: its start, 0.2 s. Its own limits are wider: content is compressed.
TABLE_S = 0.5
# For each KiB of an answer, and for each row of stored results.
STORED_S, STORED_ROW_S = 0.0004, 0.0003
# For each KiB of blank lines in what is stored.
BLANK_S = 0.00004
# For each job that an operator's request looks for a text or a client in.
JOB_S = 0.00006
# What all requests of a route may leave behind, beside caches that were empty.
LEFT_BYTES = 96 * MIB
# What may go on after its client has left.
LEFT_S = 1.5
# Below this, growth is that of memory beyond the caches of a processor: `json.loads` takes 2.8 times as long.
MEASURABLE_S = 0.3
ANSWER_BYTES: int = ApiSettings.model_fields["max_answer_bytes"].default
# Half of the limit is for what is there without these requests.
AT_ONCE_BYTES = limit_bytes("api") // 2
# A JSON body may have 2 MiB, and a file 64.
JSON_SIZE, FILE_SIZE = 2 * MIB - 64 * KIB, 60 * MIB
# Enough to see that a record as long as the file is held.
RECORD_SIZE = 12 * MIB
# How many kinds of bodies are sent in the largest size: those that take the most time, and so on.
DEAREST = 8


def reads_file(route: ApiRoute) -> bool:
    """Whether the body is a file, which is never in memory as a whole."""
    return route.method == "POST" and route.path in (JOBS, FILES, LABELLED)


def has_body(route: ApiRoute) -> bool:
    return route.method in ("POST", "PUT") and (reads_file(route) or route.path in JSON_BODIES)


def reads_stored(route: ApiRoute) -> bool:
    """Whether the answer is what is stored, in blocks."""
    return route.method == "GET" and route.path.endswith(("/predictions", "/texts", "/content"))


def is_one_record(name: str) -> bool:
    """Whether a file has one large record, in one of the formats whose readers differ."""
    return "record" in name and name.startswith(("one", "csv", "ndjson", "body of a table"))


def allowed_s(route: ApiRoute, request: Request, answer: int = 0) -> float:
    stored = STORED_S * answer / KIB if route.method == "GET" else 0
    if reads_stored(route):  # a line of CSV is short, and its result is not
        stored = max(stored, STORED_ROW_S * TEXTS)
    if route.path == "/admin/forget":
        stored = JOB_S * ENDED + BLANK_S * GAP_BYTES / KIB
    return BASE_S + TABLE_S * request.tables + KIB_S * request.size / KIB + stored


def too_much(route: ApiRoute, request: Request, cost: Cost) -> str:
    """Why a request costs more than it may; empty if it does not."""
    memory = 64 * MIB if reads_file(route) or reads_stored(route) else 16 * request.size + 32 * MIB
    most_s = allowed_s(route, request, len(cost.answer))
    if cost.status in (0, 500):
        return f"status {cost.status}: {cost.answer[:200]!r}"
    if cost.cpu_s > most_s:
        return f"{cost.cpu_s * 1e3:.0f} ms of processor time, {most_s * 1e3:.0f} are allowed"
    if cost.memory > memory:
        return f"{cost.memory / MIB:.0f} MiB of memory, {memory / MIB:.0f} are allowed"
    if not reads_stored(route) and len(cost.answer) > ANSWER_BYTES + 4 * request.size:
        return f"an answer of {len(cost.answer)} bytes"
    return ""


class Costs:
    """What requests of one route cost: those that cost too much, and the dearest."""

    def __init__(self, meter: Meter, route: ApiRoute) -> None:
        self.meter, self.route = meter, route
        self.found: list[str] = []
        self.measured: list[tuple[str, Request, Cost]] = []
        self.resident = meter.memory("VmRSS")

    def measure(self, requests: Iterable[Named]) -> None:
        """Measures each request, again where it costs too much."""
        for name, request in requests:
            for _ in range(RUNS):
                cost = self.meter.measure(request)
                if not (problem := too_much(self.route, request, cost)):
                    break
            else:
                self.found.append(f"{name}, {request.size} bytes: {problem}")
            self.measured.append((name, request, cost))

    def grow(self, size: int) -> None:
        """Compares bodies of `size` bytes with others of twice as many."""
        stored = self.meter.stored
        pairs = zip(bodies(self.route, size, stored), bodies(self.route, 2 * size, stored), strict=True)
        for (name, small), (_, large) in pairs:
            self.measure([(name, small)])
            less = self.measured[-1][2].cpu_s
            self.measure([(name, large)])
            more = self.measured[-1][2].cpu_s
            share = 2.3 * large.size / (2 * small.size)
            for _ in range(RUNS):
                if large.size < 1.5 * small.size or more < max(MEASURABLE_S, share * less):
                    break
                less = min(less, self.meter.measure(small).cpu_s)
                more = min(more, self.meter.measure(large).cpu_s)
            else:
                self.found.append(f"{name}: {less * 1e3:.0f} ms, twice the body {more * 1e3:.0f}")

    def grow_to(self, size: int) -> None:
        """Measures bodies of `size` bytes of the kinds that cost the most so far."""
        dearest = {
            name
            for key in (lambda one: one[2].cpu_s, lambda one: one[2].memory, lambda one: len(one[2].answer))
            for name, _, _ in sorted(self.measured, key=key)[-DEAREST:]
        }
        self.measure(bodies(self.route, size, self.meter.stored, dearest.__contains__))

    def four_at_once(self) -> None:
        """Sends four times at once what took the most memory."""
        name, request, _ = max(self.measured, key=lambda one: one[2].memory)
        self.meter.forget_peak()
        with ThreadPoolExecutor(4) as four:
            statuses = [*four.map(self.meter.status, [request] * 4)]
        if {0, 500} & {*statuses} or self.meter.memory() > AT_ONCE_BYTES:
            self.found.append(f"{name}, four at once: {statuses}, {self.meter.memory() / MIB:.0f} MiB")

    def leave(self) -> None:
        """Leaves in the middle and at the end of the body that costs the most processor time."""
        name, request, _ = max(self.measured, key=lambda one: one[2].cpu_s)
        for share in (0.5, 1) if request.body else ():
            used_s = self.meter.leave(request, share)
            if used_s > LEFT_S and (used_s := self.meter.leave(request, share)) > LEFT_S:
                self.found.append(f"{name}: {used_s:.1f} s after the client left at {share:.0%} of the body")

    def leave_large(self) -> None:
        """Leaves after small files whose content takes seconds, also behind bytes that are not read yet."""
        kinds = (
            "gzip: blank lines",
            "gzip: blank lines of a table",
            "gzip: blank lines before others",
            "gzip: many short rows",
        )
        for name, request in bodies(self.route, LARGE_ZIP // 8, self.meter.stored, kinds.__contains__):
            used_s = self.meter.leave(request, patience_s=5)
            if used_s > LEFT_S and (used_s := self.meter.leave(request, patience_s=5)) > LEFT_S:
                self.found.append(f"{name}: {used_s:.1f} s after the client left")

    def finish(self) -> None:
        """Prints the dearest request, and fails if any costs too much."""
        plain = [one.status for name, _, one in self.measured if name == PLAIN]
        if self.route.method == "GET" and min(plain, default=200) >= 400:
            self.found.append(f"what it asks for is not stored: {plain}")
        name, request, cost = max(self.measured, key=lambda one: one[2].cpu_s)
        memory = max(one.memory for _, _, one in self.measured)
        answer = max(len(one.answer) for _, _, one in self.measured)
        left = self.meter.memory("VmRSS") - self.resident
        if left > LEFT_BYTES:
            self.found.append(f"{left / MIB:.0f} MiB of memory are left")
        limit_ms = 1e3 * allowed_s(self.route, request, len(cost.answer))
        dearest = f"{1e3 * cost.cpu_s:.0f} ms of {limit_ms:.0f} ({name}, {request.size} bytes)"
        print(
            f"\n{self.route}: {len(self.measured)} requests, at most {dearest}, "
            f"{memory / MIB:.0f} MiB, answers of {answer} bytes, "
            f"{left / MIB:+.0f} MiB afterwards",
            *self.found,
            sep="\n",
            flush=True,
        )
        assert not self.found, "\n".join([str(self.route), *self.found])


def test_every_route_has_requests(meter: Meter) -> None:
    """A new route with a body needs an example of it in tests/cost/bodies.py."""
    without = [str(route) for route in ROUTES if next(heads(route, meter.stored), None) is None]
    assert without == []


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_no_request_costs_more_than_it_weighs(meter: Meter, route: ApiRoute) -> None:
    costs = Costs(meter, route)
    if "{request_id}" in route.path:
        meter.remember()
    costs.measure(heads(route, meter.stored))
    costs.measure(bodies(route, 64 * KIB, meter.stored))
    if reads_file(route):
        costs.measure(bodies(route, RECORD_SIZE, meter.stored, is_one_record))
        costs.leave_large()
    costs.four_at_once()
    costs.leave()
    costs.finish()


def test_deleting_what_is_large_costs_no_more_than_it_weighs(meter: Meter) -> None:
    lines = b"a text of some words\n" * 16_000  # whose results may need half of what a client may store
    made = meter.send(Request("POST", f"{JOBS}?filename=a.txt", lines, ""), tidy=False)
    assert made.status_code == 202, made.text
    job = made.headers["location"]
    file = meter.send(Request("POST", FILES, form(lines), MULTIPART), tidy=False).json()["id"]
    for target in (job, job, f"{FILES}/{file}"):  # a job is cancelled, then deleted
        request = Request("DELETE", target)
        cost = meter.measure(request)
        assert cost.status in (200, 204), cost
        assert too_much(ApiRoute("DELETE", target), request, cost) == ""


@pytest.mark.parametrize("path", ["/predict?order=score", "/v1/classify", "/invocations"])
def test_nothing_is_computed_for_an_answer_that_can_only_be_too_large(meter: Meter, path: str) -> None:
    texts = [f"{path} {number}" for number in range(1000)]
    field = {"/predict?order=score": "text", "/v1/classify": "input", "/invocations": "inputs"}[path]
    before = meter.computed()
    for _ in range(2):  # the results of the first one would be known
        assert meter.status(Request("POST", path, json.dumps({field: texts}).encode())) in (400, 413)
    assert meter.computed() == before


@pytest.mark.parametrize("planted", PLANTED, ids=lambda one: one.name)
def test_a_repair_can_still_be_taken_out(planted: Planted, tmp_path: Path) -> None:
    for file in {edit.file for edit in planted.edits}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text((ROOT / file).read_text())
    planted.apply(tmp_path)


def test_a_batch_with_megabytes_between_two_lines_costs_no_more_than_it_weighs(meter: Meter) -> None:
    sparse = meter.stored.values["file_id"][2]
    wanted = {"input_file_id": sparse, "endpoint": "/v1/classify", "completion_window": "24h"}
    request = Request("POST", "/v1/batches", json.dumps(wanted).encode())
    costs = [meter.measure(request) for _ in range(RUNS)]
    assert [cost.status for cost in costs] == [200] * RUNS
    assert min(cost.cpu_s for cost in costs) < BASE_S + BLANK_S * GAP_BYTES / KIB


def test_a_batch_whose_lines_name_long_models_kept_all_the_names(meter: Meter) -> None:
    """60 lines took 227 MiB."""
    name = f"{'x' * 900_000}\N{GRINNING FACE}"
    line = '{"custom_id":"%d","method":"POST","url":"/v1/classify","body":{"model":"%d%s","input":"a"}}\n'
    lines = [(line % (number, number, name)).encode() for number in range(30)]
    file = meter.send(Request("POST", FILES, form(b"".join(lines)), MULTIPART), tidy=False).json()["id"]
    wanted = {"input_file_id": file, "endpoint": "/v1/classify", "completion_window": "24h"}
    cost = meter.measure(Request("POST", "/v1/batches", json.dumps(wanted).encode()))
    assert cost.status == 200, cost
    assert cost.memory < 64 * MIB


def test_a_compressed_body_of_blank_lines_was_read_to_its_end_without_its_client(meter: Meter) -> None:
    packed, encoding = gzip.compress(b"text\n" + b"\n" * 20 * MIB, 1), (("content-encoding", "gzip"),)
    request = Request("POST", f"{JOBS}?filename=a.csv", packed, "", 20 * MIB, encoding)
    assert meter.leave(request, patience_s=5) < LEFT_S


@pytest.mark.long
@pytest.mark.parametrize("route", [*filter(has_body, ROUTES)], ids=str)
def test_the_largest_requests_cost_no_more_than_they_weigh(meter: Meter, route: ApiRoute) -> None:
    costs = Costs(meter, route)
    costs.grow(JSON_SIZE // 4)
    costs.grow_to(FILE_SIZE if reads_file(route) else JSON_SIZE)
    costs.four_at_once()
    costs.leave()
    costs.finish()
