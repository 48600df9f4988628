"""scripts/redis-secrets with a kubectl that keeps what it is given: users, passwords and certificates."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.tools import needs

ROOT = Path(__file__).parents[2]
# Keeps the files of each Secret, and finds those that it has.
KUBECTL = """#!/bin/sh
echo "kubectl $*" >>"$KEPT/calls"
case "$*" in
    "get namespace "*) exit 1 ;;
    *" get secret "*) for name; do :; done; test -d "$KEPT/$name" ;;
    *" create secret generic "*)
        mkdir "$KEPT/$6"
        for word; do
            case "$word" in --from-file=*) cp "${word#--from-file=}" "$KEPT/$6/" ;; esac
        done ;;
esac
"""
USERS = ("api", "worker", "jobs", "autoscaler", "sentinel", "admin")
HOST = "redis.service.svc.cluster.local"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder of the Secrets, after a first run."""
    needs("openssl")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl").write_text(KUBECTL)
    (tmp_path / "bin/kubectl").chmod(0o755)
    folder = tmp_path / "kept"
    folder.mkdir()
    create(folder)
    return folder


def create(folder: Path) -> str:
    """Runs the script. Returns what it prints."""
    path = f"{folder.parent / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        [ROOT / "scripts/redis-secrets", "service"],
        env={**os.environ, "PATH": path, "KEPT": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_each_user_of_the_cluster_gets_a_password_that_no_argument_has(kept: Path) -> None:
    rules = (ROOT / "k8s/base/redis/users.acl").read_text()
    # `cluster` forms the Redis Cluster of compose.
    assert set(re.findall(r"^user (\w+) on >", rules, re.MULTILINE)) == {*USERS, "cluster"}
    passwords = [(kept / f"redis-{user}" / "REDIS_PASSWORD").read_text() for user in USERS]
    assert len(set(passwords)) == len(USERS)
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)
    calls = (kept / "calls").read_text()
    assert not any(password in calls for password in passwords)
    for user in USERS:
        assert f"create secret generic redis-{user} --from-literal=REDIS_USERNAME={user}" in calls


def test_the_certificate_is_that_of_the_redis_in_this_namespace(kept: Path) -> None:
    authority, certificate = kept / "redis-tls/ca.crt", kept / "redis-tls/tls.crt"
    for host in (HOST, f"redis-2.{HOST}", "redis", "localhost"):
        words = ["openssl", "verify", "-CAfile", authority, "-verify_hostname", host, certificate]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (kept / "redis-tls").iterdir()) == ["ca.crt", "tls.crt", "tls.key"]


def test_a_second_run_keeps_every_secret(kept: Path) -> None:
    before = {path: path.read_text() for path in kept.rglob("*") if path.is_file() and path.name != "calls"}
    create(kept)
    after = {path: path.read_text() for path in kept.rglob("*") if path.is_file() and path.name != "calls"}
    assert after == before
