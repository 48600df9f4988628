"""A soak of a few seconds: everything is recorded, every answer is as expected. `make soak` is an hour."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.servers import needs_server
from tests.signing import SIGNED
from tests.soak.picture import draw
from tests.soak.run import Plan, soak
from tests.soak.service import maps
from tests.soak.slopes import Slope

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_soak_of_one_cycle_records_everything_and_gets_the_answers_that_it_expects() -> None:
    needs_server()
    found = soak(
        Plan(
            seconds=5,
            model=SIGNED,
            rate=10,
            every_s=0.5,
            cycles=1,
            filled=50,
            jobs=5,
            revisions=0,
            limited=True,
        )
    )
    assert found.wrong == []
    processes = ("API", "worker", "jobs worker", "Redis")
    names = {
        f"{process}: {name}"
        for process in processes
        for name in ("resident, MiB", "file descriptors", "threads")
    }
    names |= {f"replaced worker: {name}" for name in ("file descriptors", "threads")}
    assert names | {"replaced worker, at its end: resident, MiB"} < set(found.series)
    assert all(value > 0 for samples in found.series.values() for _, value in samples)
    assert {"API: asyncio tasks", "Redis: memory used, MiB", "Redis: keys", "Redis: clients"} < set(
        found.series
    )
    assert all(found.seen[kind] for kind in ("new 200", "dialect 200", "job 202"))
    flat = {name: Slope(1.0, 1.0, 0.0, 0.0, 0.0) for name in found.series}
    assert draw(found.series, flat, 5).count("<polyline") == len(found.series)


def test_a_process_that_has_loaded_a_library_is_known() -> None:
    """A worker that builds an artefact loads torch, and has 340 MiB more for good."""
    program = "import ctypes, sys; ctypes.CDLL('libm.so.6'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert maps(process.pid, "libm.so")
        assert not maps(process.pid, "libtorch")
        process.communicate()
