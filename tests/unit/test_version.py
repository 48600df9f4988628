"""One version, that of the distribution, wherever the program says which it is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import fakeredis
import pytest
from prometheus_client import generate_latest

import batcher.version
from api.settings import ApiSettings
from batcher.connection.outage import Outage
from batcher.jobs.metrics import jobs_registry
from batcher.jobs.store import JobStore
from batcher.version import DISTRIBUTION, own_version
from batcher.worker.drift import DriftWatch
from batcher.worker.metrics import WorkerMetrics
from millrace import installation
from millrace.__main__ import main
from model_store.stub import StubClassifier
from tests.unit.api.service import running
from tests.unit.fakes import FakeCache, FakeHub


def test_the_command_says_the_version_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert installation.DISTRIBUTION == DISTRIBUTION
    assert capsys.readouterr().out == f"millrace {version(DISTRIBUTION)}\n"


async def test_the_api_said_unknown_in_all_its_documents() -> None:
    """It asked for a distribution called `millrace`."""
    expected = version(DISTRIBUTION)
    async with running(FakeHub(), FakeCache(), ApiSettings()) as service:
        openapi = (await service.client.get("/openapi.json")).json()
        assert openapi["info"]["version"] == expected
        assert (await service.client.get("/info")).json()["version"] == expected
        assert (await service.client.get("/v2")).json()["version"] == expected
        assert f'version="{expected}"' in (await service.client.get("/metrics")).text


def test_workers_and_jobs_workers_say_it_in_their_metrics() -> None:
    info = StubClassifier().info
    registries = [
        WorkerMetrics(info, DriftWatch(info)).registry,
        jobs_registry(JobStore(fakeredis.FakeRedis(), "default", 60), Outage()),
    ]
    for registry in registries:
        (line,) = [line for line in generate_latest(registry).decode().splitlines() if "build_info{" in line]
        assert f'version="{version(DISTRIBUTION)}"' in line


def test_a_program_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(batcher.version, "version", missing)
    assert own_version() == "unknown"
