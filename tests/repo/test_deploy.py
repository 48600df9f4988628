"""scripts/deploy and scripts/undeploy with a kubectl and a curl that only write down how they were called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KUBECTL = """#!/bin/sh
echo "kubectl $*" >>"$CALLS"
if [ "$1" = kustomize ]; then
    printf '  MILLRACE_OPEN: "%s"\\n    image: millrace.example/millrace-api:1\\n' "$OPEN"
fi
"""
CURL = """#!/bin/sh
echo "curl $*" >>"$CALLS"
case "$*" in *--config*) cat >>"$CALLS" ;; esac
"""


def deploy(folder: Path, is_open: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """The ended script, and the commands that it called."""
    for name, text in (("kubectl", KUBECTL), ("curl", CURL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    given = {name: value for name, value in os.environ.items() if name not in ("API_KEY", "DRY_RUN", "URL")}
    given |= {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(calls), "OPEN": is_open}
    given |= {"REGISTRY": "millrace.example", "TAG": "1", "URL": "https://millrace.example", **environment}
    done = subprocess.run(
        [ROOT / "scripts/deploy", "production"], env=given, capture_output=True, text=True, timeout=60
    )
    return done, calls.read_text()


def test_a_deploy_that_needs_a_key_says_so_before_it_applies_anything(tmp_path: Path) -> None:
    """/predict was asked without a key and answered 401, after everything had been applied."""
    done, calls = deploy(tmp_path, "false")
    assert done.returncode == 2
    assert "API_KEY" in done.stderr
    assert "kubectl apply" not in calls


@pytest.mark.parametrize(("is_open", "key"), [("false", "a secret key"), ("true", "")])
def test_the_last_request_of_a_deploy_has_its_key_and_no_argument_shows_it(
    tmp_path: Path, is_open: str, key: str
) -> None:
    done, calls = deploy(tmp_path, is_open, **({"API_KEY": key} if key else {}))
    assert done.returncode == 0, done.stderr
    health, predict, said = calls.removesuffix("\n").split("\n")[-3:]
    assert "kubectl apply" in calls
    assert health.endswith("https://millrace.example/health")
    assert predict.endswith("https://millrace.example/predict")
    assert said == (f'header = "X-API-Key: {key}"' if key else "")


def test_a_dry_run_needs_no_key(tmp_path: Path) -> None:
    done, calls = deploy(tmp_path, "false", DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    assert "kubectl apply" not in calls


DELETING_KUBECTL = """#!/bin/sh
echo "kubectl $*" >>"$CALLS"
case "$1 $*" in
    kustomize*)
        for kind in Namespace Service Secret Deployment; do printf -- '---\\nkind: %s\\n' "$kind"; done ;;
    delete*--filename*) cat >>"$CALLS" ;;
esac
"""


@pytest.mark.parametrize(("arguments", "with_data"), [([], False), (["--data"], True)])
def test_undeploy_keeps_data_and_secrets_unless_asked(
    tmp_path: Path, arguments: list[str], with_data: bool
) -> None:
    (tmp_path / "kubectl").write_text(DELETING_KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    calls = tmp_path / "calls"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls)}
    command = [ROOT / "scripts/undeploy", "production", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    kinds = [line.removeprefix("kind: ") for line in calls.read_text().splitlines() if "kind: " in line]
    assert kinds == ["Service", "Deployment"]
    assert ("delete namespace millrace" in calls.read_text()) is with_data
