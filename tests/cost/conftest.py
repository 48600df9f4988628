"""The service that the cost tests measure: one for all of them, started again if a request ends it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from api.dialect_names import DIALECTS
from tests.cost.meter import HEADERS, KEY, Meter, Request
from tests.cost.stored import store
from tests.limits import confine
from tests.servers import RedisServer, needs_server
from tests.service import Process, Service

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "model": "stub",
    "compat": ",".join(DIALECTS),
    "compat_models": "*",
    "moderation_labels": "label_000=hate",
    "admin_keys": f"ops:{sha256(KEY.encode()).hexdigest()}",
    "open": "true",
    "keep_refused_texts": "true",
}


# Memory that is freed goes back to the system, so that each peak is that of one request.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class ManyLabels(Service):
    """A service whose model has 151 labels."""

    process_type = Process

    def _start(self, command: str, settings: Mapping[str, str] | None = None) -> Process:
        own = {"PYTHONPATH": str(ROOT)} | (ALLOCATOR if command != "worker" else {})
        environment = {**self.environment_of(command), **own, **(settings or {})}
        words = [sys.executable, "-m", "tests.cost.process", command]
        return Process(f"{command}-{time.monotonic_ns()}", words, environment, self.folder)


@pytest.fixture(scope="session")
def filled_meter() -> Iterator[Meter]:
    redis = RedisServer(needs_server()).start()
    service = ManyLabels(redis, SETTINGS)
    try:
        service.start_worker()
        service.wait_ready()
        stored = store(service, HEADERS)
        confine(service.api.pid, "api")
        with closing(Meter(service, stored)) as made:
            yield made
    finally:
        service.close()
        redis.close()


@pytest.fixture
def meter(filled_meter: Meter) -> Meter:
    """An API process that may take as much memory as its manifest says, and knows the texts of requests."""
    service = filled_meter.service
    if not service.api.running:
        service.start_api()
        service.wait_ready()
        confine(service.api.pid, "api")
    for text in ("a", "b"):
        asked = Request("POST", "/predict", b'{"text":["%b"]}' % text.encode())
        assert filled_meter.measure(asked).status == 200, service.logs()
    return filled_meter
