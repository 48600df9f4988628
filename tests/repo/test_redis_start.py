"""How the cluster and compose start Redis: a user for each role, passwords as digests, room for a rewrite.

What the users may do is tested with the service itself in tests/faults/test_redis_users.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.retry import Retry

from millrace.settings_loader import free_port
from tests.old_version import COMMIT_0_2_0, unpack
from tests.repo.manifests import K8S, ROOT, Object, of_kind, render
from tests.servers import loads_with_rights, needs_server, redis_version

FOLDER = K8S / "base/redis"
# The users that get a password in all places. `default` has none, `probe` is added by start.sh, `cluster`
# only has one in compose, and `sentinel` with components/redis-sentinel.
ROLES = {"admin", "api", "worker", "jobs", "autoscaler"}
VARIABLES = {role: f"REDIS_{role.upper()}_PASSWORD" for role in ROLES}
EVERYTHING = {
    "allkeys",
    "~*",
    "allchannels",
    "&*",
    "allcommands",
    "+@all",
    "+@admin",
    "+@dangerous",
    "nopass",
}


def compose() -> dict[str, Object]:
    services: dict[str, Object] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return services


def secrets_of(thing: object) -> set[str]:
    """The Secrets of Redis users that are named anywhere in an object."""
    return set(re.findall(rf"\bredis-(?:{'|'.join(ROLES)})\b", yaml.safe_dump(thing)))


def container_of(workload: Object) -> Object:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    found: Object = container
    return found


@pytest.fixture(params=["local", "production"])
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return render(K8S / "overlays" / request.param)


def test_finding_01_every_role_has_a_user_of_redis_and_nobody_else() -> None:
    rules = dict(re.findall(r"^user (\S+) (.+)$", (FOLDER / "users.acl").read_text(), re.MULTILINE))
    assert rules.keys() == ROLES | {"default", "cluster", "sentinel"}
    assert rules["default"] == "off resetpass allkeys allchannels +@all"
    for role in ROLES | {"cluster", "sentinel"}:
        assert re.findall(r">(\S+)", rules[role]) == [f"{role.upper()}_PASSWORD"]
        assert role == "admin" or not EVERYTHING & set(rules[role].split())


def test_finding_01_every_pod_gets_the_secret_of_its_own_role(objects: list[Object]) -> None:
    for name, workload in of_kind(objects, "Deployment").items():
        assert secrets_of(workload) == {f"redis-{name}"}
        (url,) = [e["value"] for e in container_of(workload)["env"] if e["name"] == "MILLRACE_REDIS_URL"]
        assert "//$(REDIS_USERNAME):$(REDIS_PASSWORD)@" in url
    for trigger in of_kind(objects, "TriggerAuthentication").values():
        assert secrets_of(trigger) == {"redis-autoscaler"}
        parameters = {entry["parameter"] for entry in trigger["spec"]["secretTargetRef"]}
        assert parameters >= {"username", "password"}
    for name, secret in of_kind(objects, "Secret").items():  # the local overlay makes them
        assert secret["data"].keys() == {"REDIS_USERNAME", "REDIS_PASSWORD"}
        assert secrets_of(name) == {name}


def test_finding_01_cluster_and_compose_start_redis_with_the_same_rules(objects: list[Object]) -> None:
    (config,) = [thing for name, thing in of_kind(objects, "ConfigMap").items() if name.startswith("redis-")]
    for name in ("users.acl", "start.sh", "redis.conf"):
        assert config["data"][name] == (FOLDER / name).read_text()
    container, service = container_of(of_kind(objects, "StatefulSet")["redis"]), compose()["redis"]
    assert container["command"] == service["command"] == ["sh", "/etc/redis/start.sh"]
    assert "./k8s/base/redis:/etc/redis:ro" in service["volumes"]
    assert {entry["name"] for entry in container["env"]} >= set(VARIABLES.values())
    for role in ("api", "worker", "jobs"):
        url = compose()[role]["environment"]["MILLRACE_REDIS_URL"]
        user = f"{role}:${{{VARIABLES[role]}:-local-{role}}}"
        assert url == f"${{REDIS_SCHEME:-redis}}://{user}@${{REDIS_ADDRESS:-redis:6379/0}}"
        assert service["environment"][VARIABLES[role]] in url
        if role != "worker":
            jobs_url = compose()[role]["environment"]["MILLRACE_JOBS_REDIS_URL"]
            assert jobs_url == f"redis://{user}@redis:6379/0"


def test_finding_24_no_password_is_an_argument(objects: list[Object]) -> None:
    """Arguments are there to be read: by the users of a machine, by those who may look at pods."""
    for workload in (of_kind(objects, "Deployment") | of_kind(objects, "StatefulSet")).values():
        container = container_of(workload)
        words = " ".join([*container.get("command", []), *container.get("args", [])])
        assert not re.search(r"password|requirepass", words, re.IGNORECASE)
    found = (ROOT / "scripts").rglob("*")
    scripts = [path for path in found if path.is_file() and path.parent.name != "__pycache__"]
    files = [ROOT / "compose.yaml", FOLDER / "start.sh", *scripts, *K8S.rglob("*.yaml")]
    assert [path for path in files if "--requirepass" in path.read_text()] == []


def test_finding_08_redis_has_room_to_rewrite_its_file(objects: list[Object]) -> None:
    """It forks to do so, and pages that are written meanwhile exist twice: at worst all of them."""
    (most,) = re.findall(r"^maxmemory (\d+)mb$", (FOLDER / "redis.conf").read_text(), re.MULTILINE)
    resources = container_of(of_kind(objects, "StatefulSet")["redis"])["resources"]
    limit, request = (
        int(resources[kind]["memory"].removesuffix("Gi")) * 1024 for kind in ("limits", "requests")
    )
    assert limit >= 2 * int(most) + 256
    assert request >= int(most) * 1.25, "what it holds must not depend on what its neighbours leave free"


# -- a real server -----------------------------------------------------------------------------------


class Server:
    """Redis started by start.sh of these `files`, as the cluster and compose start it."""

    def __init__(self, binary: Path, folder: Path, passwords: dict[str, str], files: Path) -> None:
        self.port = free_port()
        self.users = folder / "users.acl"
        command = folder / "bin/redis-server"  # which start.sh of 0.2.0 looks for on PATH
        command.parent.mkdir(exist_ok=True)
        command.unlink(missing_ok=True)
        command.symlink_to(binary)
        environment = {
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "REDIS_SERVER": str(binary),
            "REDIS_DIR": str(folder),
            "REDIS_USERS": str(self.users),
            **{VARIABLES[role]: password for role, password in passwords.items()},
        }
        self.process = subprocess.Popen(
            ["sh", str(files / "start.sh"), "--port", str(self.port), "--bind", "127.0.0.1"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def lets_in(self, user: str | None, password: str | None) -> bool:
        """Whether it takes a user and password. Raises ConnectionError where it does not answer at all."""
        client = redis.Redis(
            port=self.port, username=user, password=password, retry=Retry(NoBackoff(), 0), socket_timeout=10
        )
        with closing(client):
            try:
                return bool(client.ping())
            except redis.exceptions.AuthenticationError:
                return False

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                assert self.lets_in("probe", "probe")
                return
            except redis.exceptions.ConnectionError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(self.stop()) from None
                time.sleep(0.02)

    def stop(self) -> str:
        """Ends it; what it has logged."""
        self.process.terminate()
        return self.process.communicate(timeout=20)[0].decode()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[dict[str, str]], Server]]:
    binary = needs_server()
    started: list[Server] = []

    def start(passwords: dict[str, str], files: Path = FOLDER) -> Server:
        started.append(Server(binary, tmp_path, passwords, files))
        started[-1].wait()
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.mark.redis
def test_finding_01_a_server_loads_the_users_and_holds_no_password(server: Callable[..., Server]) -> None:
    passwords = {role: f"{role} > s3cret/&'\\" for role in ROLES}
    started = server(passwords)
    for role, password in passwords.items():
        assert started.lets_in(role, password), role
        assert not started.lets_in(role, f"{password}x"), role
    for user, password in ((None, None), (None, "x"), ("default", "x"), ("default", "")):
        assert not started.lets_in(user, password), (user, password)
    process = Path(f"/proc/{started.process.pid}")
    seen = [(process / name).read_text() for name in ("cmdline", "environ") if process.exists()]
    assert not [text for text in (*seen, started.users.read_text()) if "s3cret" in text]
    assert started.users.stat().st_mode & 0o077 == 0


@pytest.mark.redis
def test_finding_01_a_user_without_a_password_is_switched_off(server: Callable[..., Server]) -> None:
    started = server({"api": "secret"})
    assert started.lets_in("api", "secret")
    for role in ROLES - {"api"}:
        for password in ("", "secret", f"{role.upper()}_PASSWORD"):
            assert not started.lets_in(role, password), role


@pytest.mark.redis
def test_finding_01_the_user_of_the_probes_may_ping_only(server: Callable[..., Server]) -> None:
    started = server({"api": "secret"})
    with closing(redis.Redis(port=started.port, username="probe", password="probe")) as client:
        assert client.ping()
        for words in (
            ("GET", "x"),
            ("INFO",),
            ("EVAL", "return 1", 0),
            ("PUBLISH", "x", "y"),
            ("ACL", "LIST"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)


PASSWORDS = dict.fromkeys(("api", "worker", "jobs", "admin"), "secret")


def write(started: Server) -> set[bytes]:
    """The keys that each role has written, by itself, in a script and in a transaction."""
    by_script = "redis.call('SET', KEYS[1], 'x') return redis.call('RPUSH', KEYS[2], 'x')"
    written = set()
    for role in ("api", "worker", "jobs"):
        keys = [f"{{millrace:2:{role}}}:{how}".encode() for how in ("plain", "script", "list", "multi")]
        written.update(keys)
        with closing(redis.Redis(port=started.port, username=role, password="secret")) as client:
            client.set(keys[0], "x")
            client.eval(by_script, 2, *keys[1:3])
            client.pipeline(transaction=True).set(keys[3], "x").execute()
    return written


def keys_of(started: Server) -> set[bytes]:
    with closing(redis.Redis(port=started.port, username="admin", password="secret")) as admin:
        return set(admin.keys())


@pytest.mark.redis
def test_what_scripts_and_transactions_wrote_was_gone_after_every_restart(
    server: Callable[..., Server],
) -> None:
    """Redis replays its file with the rights of `default`, which had none: it skipped every EXEC."""
    started = server(PASSWORDS)
    written = write(started)
    started.stop()
    assert keys_of(server(PASSWORDS)) == written


@pytest.mark.redis
def test_what_0_2_0_wrote_and_skipped_at_its_restarts_comes_back_on_the_same_volume(
    server: Callable[..., Server], tmp_path: Path
) -> None:
    """docs/upgrading.md promises it, with the files of that version as they were."""
    unpack(tmp_path, COMMIT_0_2_0, "k8s/base/redis")
    old = tmp_path / "k8s/base/redis"
    started = server(PASSWORDS, old)
    written = write(started)
    for _ in range(2):
        started.stop()
        started = server(PASSWORDS, old)
    if loads_with_rights():
        assert keys_of(started) < written
    started.stop()
    assert keys_of(server(PASSWORDS)) == written


def test_start_refuses_users_with_which_redis_would_skip_its_own_data(tmp_path: Path) -> None:
    """Also if later words of the line take rights back, but not if it gives them in other words."""
    text = (FOLDER / "users.acl").read_text()
    (rule,) = re.findall(r"^user default .*$", text, re.MULTILINE)
    (tmp_path / "start.sh").write_text((FOLDER / "start.sh").read_text())
    fewer = [f"{rule} -@dangerous", rule.replace(" allkeys", "")]
    fewer += [rule.replace(" +@all", f" {word} +@all") for word in ("resetkeys", "reset")]
    same = ["user default off resetpass ~* &* +@all", rule.replace("+@all", "allcommands")]
    for default in ("user default off", "", *fewer, *same):
        (tmp_path / "users.acl").write_text(text.replace(rule, default))
        done = subprocess.run(
            ["sh", tmp_path / "start.sh"],
            env={"PATH": os.environ["PATH"], "REDIS_SERVER": "false", "REDIS_USERS": str(tmp_path / "users")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, rule in done.stderr) == (1, default not in same), default
        assert (tmp_path / "users").exists() == (default in same)
        (tmp_path / "users").unlink(missing_ok=True)


@pytest.mark.redis
@pytest.mark.parametrize("role", ["api", "jobs"])
def test_finding_08_who_sweeps_may_evict_from_the_cache_and_not_write_to_it(
    server: Callable[..., Server], role: str
) -> None:
    """Where memory is short, a sweep walks over the keys and removes some of the cache: in a script."""
    if redis_version() < 7:
        pytest.skip("Redis 6 has no read-only keys")
    started = server({role: "secret", "worker": "secret"})
    key = "millrace:cache:2:default:r:id"
    evict = "redis.call('SCAN', '0') return redis.call('UNLINK', ARGV[1])"
    with closing(redis.Redis(port=started.port, username="worker", password="secret")) as worker:
        worker.set(key, "result")
    with closing(redis.Redis(port=started.port, username=role, password="secret")) as sweeper:
        assert sweeper.get(key) == b"result"
        assert sweeper.eval(evict, 1, "{millrace:2:default}", key) == 1
        for words in (("SET", key, "forged"), ("UNLINK", "another:application"), ("APPEND", key, "x")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                sweeper.execute_command(*words)
