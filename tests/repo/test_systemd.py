"""The units for one machine, installed below a folder and checked by systemd's own verification."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.repo.manifests import K8S, ROOT

# What the units refer to but do not install.
SYSTEM = ("sysinit.target", "basic.target", "shutdown.target", "network.target", "multi-user.target")
UNITS = (
    "millrace.target",
    "millrace-redis.service",
    "millrace-api.service",
    "millrace-jobs.service",
    "millrace-worker@1.service",
)


def install(root: Path) -> None:
    environment = os.environ | {"DESTDIR": str(root)}
    subprocess.run([ROOT / "scripts/install-systemd"], env=environment, check=True, timeout=60)


def settings(root: Path, name: str) -> dict[str, str]:
    text = (root / f"etc/millrace/{name}.env").read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    install(folder)
    return folder


def test_systemd_accepts_the_units(root: Path) -> None:
    if (verifier := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not on PATH")
    for name in SYSTEM:
        path = root / "usr/lib/systemd/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Unit]\n")
    for command in ("bin/sh", "opt/millrace/bin/millrace"):
        path = root / command
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    units = [f"/etc/systemd/system/{name}" for name in UNITS]
    done = subprocess.run(
        [verifier, "verify", f"--root={root}", *units], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_each_process_has_its_user_and_only_root_reads_the_passwords(root: Path) -> None:
    given = settings(root, "redis")
    for name in ("api", "worker", "jobs"):
        password = given[f"REDIS_{name.upper()}_PASSWORD"]
        assert len(password) == 48
        assert settings(root, name)["MILLRACE_REDIS_URL"] == f"redis://{name}:{password}@127.0.0.1:6390/0"
        assert (root / f"etc/millrace/{name}.env").stat().st_mode & 0o777 == 0o600
    assert "--port 6390" in (root / "etc/systemd/system/millrace-redis.service").read_text()


def test_an_update_keeps_settings_and_passwords(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "etc/millrace/api.env").write_text("MILLRACE_PORT=9000\n")
    before = settings(tmp_path, "redis")
    install(tmp_path)
    assert settings(tmp_path, "api") == {"MILLRACE_PORT": "9000"}
    assert settings(tmp_path, "redis") == before


def test_the_proxy_has_the_public_paths_of_the_cluster() -> None:
    service = yaml.safe_load((K8S / "components/istio/virtualservice.yaml").read_text())["spec"]
    public = set()
    for match in (match["uri"] for http in service["http"] for match in http["match"]):
        public |= {match["prefix"], f"{match['prefix']}/*"} if "prefix" in match else {match["exact"]}
    (listed,) = re.findall(r"@public path (.*)", (ROOT / "packaging/caddy/Caddyfile").read_text())
    assert set(listed.split()) == public
