"""The units for one machine, installed below a folder and checked by systemd's own verification."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.repo.manifests import ROOT
from tests.tools import needs

# What the units refer to but do not install.
SYSTEM = ("sysinit.target", "basic.target", "shutdown.target", "network.target", "multi-user.target")
UNITS = (
    "millrace.target",
    "millrace-redis.service",
    "millrace-api.service",
    "millrace-jobs.service",
    "millrace-worker@1.service",
)


def install(root: Path) -> str:
    """What the script says."""
    environment = os.environ | {"DESTDIR": str(root)}
    command = [ROOT / "scripts/install-systemd"]
    return subprocess.run(
        command, env=environment, check=True, timeout=60, stdout=subprocess.PIPE, text=True
    ).stdout


def settings(root: Path, name: str) -> dict[str, str]:
    text = (root / f"etc/millrace/{name}.env").read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    install(folder)
    return folder


def test_systemd_accepts_the_units(root: Path) -> None:
    verifier = needs("systemd-analyze")
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


def test_an_installation_without_an_operators_key_says_so_until_it_has_one(tmp_path: Path) -> None:
    assert "MILLRACE_ADMIN_KEYS=NAME:DIGEST in /etc/millrace/api.env" in install(tmp_path)
    api = tmp_path / "etc/millrace/api.env"
    assert "\n# MILLRACE_ADMIN_KEYS=NAME:DIGEST\n" in api.read_text()
    digest = "ops:" + "0" * 64
    api.write_text(f"MILLRACE_ADMIN_KEYS={digest}\n")
    assert install(tmp_path) == ""


# Stand-ins for pip and systemctl, in a mount namespace in which the folders of the system are empty.
AS_ROOT = """
set -e
mkdir -p /etc/millrace
for folder in /opt /etc/systemd /etc/millrace; do mount -t tmpfs none "$folder"; done
mkdir -p /opt/millrace/bin
printf '#!/bin/sh\necho "pip $* umask $(umask)"\n' >/opt/millrace/bin/pip
printf '#!/bin/sh\necho "/server/of $*"\n' >/opt/millrace/bin/python
printf '#!/bin/sh\n' >"$1/systemctl"
chmod +x /opt/millrace/bin/* "$1"/*
umask 077
PATH=$1:$PATH "$2/scripts/install-systemd"
readlink /opt/millrace/share/redis/server
"""


@pytest.fixture
def install_as_root(tmp_path: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Runs the script of a checkout in `tmp_path` as it runs on a machine, on which it changes nothing."""
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root and mount namespaces")
    for name in ("scripts", "docs", "k8s/base/redis", "packaging/systemd", "packaging/model"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "dist").mkdir()
    (tmp_path / "bin").mkdir()

    def run() -> subprocess.CompletedProcess[str]:
        words = ["unshare", "-m", "sh", "-c", AS_ROOT, "sh", str(tmp_path / "bin"), str(tmp_path)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_an_update_installs_the_wheels_of_this_version_again_for_every_user(
    tmp_path: Path, install_as_root: Callable[[], subprocess.CompletedProcess[str]]
) -> None:
    """pip kept old code of the same version, an old wheel ended the script, and umask 077 the units."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    server, model = (f"dist/millrace_server{name}-{version}-py3-none-any.whl" for name in ("", "_model"))
    for wheel in (server, model, "dist/millrace_server_model-0.0.1-py3-none-any.whl"):
        (tmp_path / wheel).touch()
    done = install_as_root()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [
        f"pip install --quiet --upgrade --constraint constraints.txt {server}[worker,cli] {model} umask 0022",
        f"pip install --quiet --force-reinstall --no-deps {server} {model} umask 0022",
    ]
    chosen = "/server/of -P -m millrace.local.redis_server /var/lib/private/millrace-redis"
    assert done.stdout.splitlines()[-1] == chosen, "the unit starts what find_server chooses"


def test_a_missing_wheel_is_named_with_what_makes_it(
    install_as_root: Callable[[], subprocess.CompletedProcess[str]],
) -> None:
    done = install_as_root()
    assert done.returncode == 2
    assert done.stderr.endswith("-py3-none-any.whl is missing: run make wheels first\n")


def test_systemd_never_gives_up_on_a_process(root: Path) -> None:
    """Redis ends at once while its disk is full; after five such ends, systemd left it stopped for good."""
    for unit in (root / "etc/systemd/system").glob("*.service"):
        text = unit.read_text()
        assert "Restart=always" in text
        assert "StartLimitIntervalSec=0" in text.partition("[Service]")[0], unit.name
