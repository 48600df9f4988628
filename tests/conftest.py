"""Fixtures for everyone: fakeredis and a real Redis, fresh for each test."""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis
from hypothesis import HealthCheck, settings

from batcher.jobs.upload import encode_text
from model_store import telemetry  # noqa: F401  # before tests import openvino
from tests import fakeredis_patches
from tests.crashes import ending
from tests.lazy import import_engines
from tests.order import ENGINES, long_first, place
from tests.servers import RedisServer, check_reload, needs_server, redis_version
from tests.service import Service

# Whatever the person's shell says of Millrace and Redis must not reach the tests.
for _name in [name for name in os.environ if name.upper().startswith("MILLRACE_") or name == "REDIS_URL"]:
    del os.environ[_name]

# Waiting threads of OpenMP spin by default: on a busy machine a tiny model loaded in 20 s instead of 0.5 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# An example that is slow on a busy machine is not a failure.
settings.register_profile("millrace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("millrace")

fakeredis_patches.install()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects garbage more rarely, and not in what the test modules have imported.

    It took a third of the import and a fifth of the tests: a collection looks at all that torch consists of.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


@pytest.fixture(autouse=True)
def _logging_stays_as_it_was() -> Iterator[None]:
    """A test that leaves logs turned off, or a level changed, hides what later tests look for."""
    root = logging.getLogger()
    # Those of pytest, which stay the same through all tests.
    handlers = {handler: handler.level for handler in root.handlers}
    before, muted_before = (root.level, root.manager.disable, [*handlers.values()]), _muted_loggers()
    yield
    after = root.level, root.manager.disable, [handler.level for handler in handlers]
    root.setLevel(before[0])
    logging.disable(before[1])
    for handler, level in handlers.items():
        handler.setLevel(level)
    assert after == before, "this test has changed the level of all logs, or of pytest's handlers"
    assert _muted_loggers() == muted_before, "this test has turned off logs of the product"


def _muted_loggers() -> list[str]:
    """The loggers of the product that do not pass every warning on."""
    return [
        name
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
        and name.partition(".")[0] in {"api", "batcher", "model_store", "millrace", "text_files"}
        and (logger.disabled or not logger.propagate or logger.level > logging.WARNING)
    ]


# On a Python that torch has no wheel for, what needs torch is skipped and says so. Where torch is installed
# nothing is skipped.
_NEEDS_TORCH = re.compile(
    r"No module named '(torch|transformers|nncf|safetensors)'|EngineUnavailable: .* not installed"
)


def _skip_without_torch(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a failure whose cause is the missing torch into a skip."""
    if report.failed and find_spec("torch") is None and _NEEDS_TORCH.search(report.longreprtext):
        report.outcome = "skipped"
        report.longrepr = (report.nodeid, 0, "Skipped: torch is not installed on this Python")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run: the same one in every process of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def once(shared: Path) -> Callable[[str, Callable[[], Any]], Any]:
    """`once(name, make)`: what `make` returns, as JSON has it, in the first process of this run that asks."""

    def made(name: str, make: Callable[[], Any]) -> Any:
        kept = shared / f"{name}.json"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                kept.write_text(json.dumps(make()))
        return json.loads(kept.read_text())

    return made


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as the Hugging Face Hub has it, the same in every process. Copy it to change it."""
    from tests.unit.model_store.checkpoints import write_checkpoint  # imports torch

    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def kept(shared: Path) -> Path:
    """The artefact directory of this run, where `load` builds each artefact of `checkpoint` once."""
    return shared / "kept"


@dataclass(frozen=True, slots=True)
class FakeRedis:
    """One fake server, with a client for coroutines and one for threads. Both answer bytes."""

    server: fakeredis.FakeServer
    aio: fakeredis.FakeAsyncRedis
    sync: fakeredis.FakeRedis


@pytest.fixture
async def fake_redis() -> AsyncIterator[FakeRedis]:
    """Redis semantics, Lua included, without sockets, races, eviction or persistence."""
    server = fakeredis.FakeServer(version=(7,))
    aio, sync = fakeredis.FakeAsyncRedis(server=server), fakeredis.FakeRedis(server=server)
    yield FakeRedis(server, aio, sync)
    await aio.aclose()
    sync.close()


@pytest.fixture
def redis_servers() -> Iterator[Callable[..., RedisServer]]:
    """Makes and starts real servers: `redis_servers("--maxmemory", "4mb", tcp=True)`."""
    binary = needs_server()
    started: list[RedisServer] = []

    def make(*options: str, tcp: bool = False, bare: str = "", start: bool = True) -> RedisServer:
        server = RedisServer(binary, options, tcp=tcp, bare=bare)
        started.append(server)
        return server.start() if start else server

    yield make
    for server in started:
        server.close()


@pytest.fixture
def redis_server(redis_servers: Callable[..., RedisServer]) -> RedisServer:
    """One real server on a unix socket, running. Kill it, pause it, restart it."""
    return redis_servers()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, in every process of pytest-xdist."""
    items[:] = long_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without this, each collection of garbage in a test of engines looked at all that torch consists of."""
    if place(item.nodeid) == ENGINES:
        import_engines()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report: Any) -> None:
    """Says how a process of pytest-xdist ended."""
    report.longrepr = f"{report.longrepr}\n{ending(report.node.gateway._io.popen)}"


_SERVICES = pytest.StashKey[list[Service]]()


@pytest.fixture
def start_service(
    request: pytest.FixtureRequest, redis_servers: Callable[..., RedisServer]
) -> Iterator[Callable[..., Service]]:
    """Starts real processes and waits until they are ready: `start_service(workers=2, stub_batch_ms=500)`.

    The model is the stub unless `model=` says otherwise; `redis=` is a server that runs already.
    Whatever the test leaves running is ended, and a failed test shows what the processes said.
    """
    services = request.node.stash.setdefault(_SERVICES, [])

    def make(
        workers: int = 1,
        redis: RedisServer | None = None,
        kind: Callable[..., Service] = Service,
        **settings: object,
    ) -> Service:
        made = kind(redis or redis_servers(), {"model": "stub", **settings})
        services.append(made)
        for _ in range(workers):
            made.start_worker()
        if workers:
            made.wait_ready()
        return made

    yield make
    for made in services:
        made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts the logs of a service's processes under the failure of its test."""
    report = yield
    _skip_without_torch(report)
    if report.failed:
        for number, made in enumerate(item.stash.get(_SERVICES, []), 1):
            report.sections.append((f"processes of service {number}", made.logs()))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that imports torch is skipped as a whole where there is none."""
    report = yield
    _skip_without_torch(report)
    return report


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.redis)])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """The same test twice: on a fake server and on a real one, which afterwards loads what it has written."""
    if request.param == "fake":
        fake: FakeRedis = request.getfixturevalue("fake_redis")
        yield fake.sync
    else:
        make: Callable[..., RedisServer] = request.getfixturevalue("redis_servers")
        server = make("--enable-debug-command", "local") if redis_version() >= 7 else make()
        with server.client() as real:
            yield real
            if redis_version() >= 7:
                check_reload(real)


def encoded(texts: Iterable[str | None]) -> list[bytes]:
    """Texts as `Upload.add` takes them."""
    return [encode_text(text) for text in texts]
