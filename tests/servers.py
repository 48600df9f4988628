"""Real Redis servers for tests: each its own process and directory, to be killed, paused and restarted.

They start as Redis does in the cluster, with compose and with systemd: by start.sh, with redis.conf and a
user for each role. The password of a user is its name, and `as_user` gives each process its URL.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import redis
from redis.driver_info import DriverInfo

from millrace.errors import CommandError
from millrace.local.redis_server import find_server
from millrace.settings_loader import free_port
from tests.tools import REDIS, missing, use

SHIPPED = Path(__file__).parents[1] / "k8s/base/redis"
ROLES = ("api", "worker", "jobs", "autoscaler", "cluster", "sentinel", "admin")
_ADMIN = "admin:admin@"


def as_user(url: str, role: str) -> str:
    """The same URL, or several, for another user than the administrator. That of a bare server has none."""
    return url.replace(_ADMIN, f"{role}:{role}@")


def server_binary() -> Path | None:
    """TEST_REDIS_SERVER, else what `millrace up` would start; None where there is none."""
    if chosen := os.environ.get("TEST_REDIS_SERVER"):
        return Path(chosen)
    try:
        return find_server().path
    except CommandError:
        return None


def needs_server() -> Path:
    """What `server_binary` finds; skips the test where there is none, and fails it in CI."""
    binary = server_binary()
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("neither a redis-server on PATH nor a packaged one")
        missing(REDIS, "neither on PATH nor packaged")
    use(REDIS, binary)
    return binary


@cache
def _said_version() -> str:
    command = [str(server_binary()), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def redis_version() -> int:
    """The first number of the version of that server."""
    found = re.search(r"v=(\d+)", _said_version())
    assert found
    return int(found[1])


def loads_with_rights() -> bool:
    """Whether that server skips in its file what `default` may not do, as Redis 7 does."""
    return _said_version().startswith("Redis server v=7.")


def needs_rights_to_load() -> None:
    """Skips the test unless it does."""
    if not loads_with_rights():
        pytest.skip("this server loads its file without regard to rights")


def contents(client: redis.Redis) -> dict[bytes, object]:
    """The value of each key that does not expire soon."""
    read: dict[bytes, Callable[[bytes], object]] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
        b"none": lambda key: None,  # gone meanwhile
    }
    # -1: it does not expire. -2: it has just expired.
    lasting = [key for key in client.scan_iter() if (ms := client.pttl(key)) == -1 or ms >= 10_000]
    return {key: read[client.type(key)](key) for key in lasting}


def check_reload(client: redis.Redis) -> None:
    """Fails unless the server, as it does at its start, loads all that it holds from its append-only file."""
    before = contents(client)
    client.execute_command("DEBUG", "LOADAOF")
    assert contents(client) == before


def leftovers(client: redis.Redis) -> list[bytes]:
    """Entries, claims, leases and places in lists: what must not outlive its work."""
    ends = (b":q", b":bulk", b":solo", b":inflight", b":claims")
    keys: list[bytes] = client.keys("*")
    return [key for key in keys if b":entry:" in key or key.endswith(ends)]


class RedisServer:
    """A server as it ships: `restart()` brings everything back, `restart(empty=True)` nothing.

    It listens on a unix socket (`url`, of the administrator); with `tcp=True` also on a port of the loopback,
    then its `url`. `options` are further words of its command line, e.g. ("--maxmemory", "4mb"), and `prefix`
    those before it. `bare` says why a server has to do without the users of the roles: every client may
    do everything.
    """

    def __init__(
        self,
        binary: Path,
        options: Sequence[str] = (),
        *,
        tcp: bool = False,
        prefix: Sequence[str] = (),
        bare: str = "",
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="service-redis-"))
        self.socket = self.directory / "s"
        # The bus of a cluster has a port 10,000 higher.
        self.port = next(port for port in iter(free_port, 0) if port <= 55_535) if tcp else 0
        user = "" if bare else _ADMIN
        self.url = f"redis://{user}127.0.0.1:{self.port}/0" if tcp else f"unix://{user}{self.socket}"
        self._binary, self._bare = binary, bool(bare)
        self._options, self._prefix = tuple(options), tuple(prefix)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there (paused ones are)."""
        return self._process is not None and self._process.poll() is None

    def start(self, *options: str) -> RedisServer:
        """Returns when it answers PING. `options` are further words for this start only."""
        assert not self.running, "the server runs already"
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *self._command(), *words, *self._options, *options],
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                said = self.log()
                self.close()
                raise AssertionError(f"redis-server did not start:\n{said}")
            time.sleep(0.01)
        if not self._bare:
            with self.client() as client:
                skipped = client.info("stats")["unexpected_error_replies"]
            assert not skipped, f"it has not loaded all of its data:\n{self.log()}"
        return self

    def _command(self) -> list[str]:
        # Sentinels rewrite redis.conf.
        files = {path.name: shutil.copy(path, self.directory) for path in SHIPPED.iterdir()}
        if self._bare:
            return [str(self._binary), files["redis.conf"], "--dir", str(self.directory)]
        # A replica is let in by its master as the administrator.
        return ["sh", files["start.sh"], "--masteruser", "admin", "--masterauth", "admin"]

    def _environment(self) -> dict[str, str]:
        places = {"SERVER": str(self._binary), "DIR": str(self.directory)}
        places["USERS"] = str(self.directory / "digests.acl")
        passwords = {f"{role.upper()}_PASSWORD": role for role in ROLES}
        return {f"REDIS_{name}": value for name, value in (places | passwords).items()}

    def kill(self) -> None:
        """SIGKILL: no goodbye, no flush."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and waits until it is gone. A new replica refuses until its data is on disk."""
        self.resume()
        deadline = time.monotonic() + 20
        with self.client() as client:
            while client.info("persistence")["aof_rewrite_in_progress"]:
                assert time.monotonic() < deadline, f"it still writes its data:\n{self.log()}"
                time.sleep(0.02)
        self._end(signal.SIGTERM)

    def restart(self, *, empty: bool = False) -> None:
        """Kills it and starts it again at the same address, with its data or without."""
        self.kill()
        if empty:
            self.forget()
        self.start()

    def appended(self) -> list[Path]:
        """Its append-only file: a folder since Redis 7, one file before."""
        return list(self.directory.glob("appendonly*"))

    def forget(self) -> None:
        """Removes what it wrote to disk; only while it does not run."""
        assert not self.running
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
        (self.directory / "appendonly.aof").unlink(missing_ok=True)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Ends a pause."""
        os.kill(self.pid, signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A client to look inside and to prepare things; the caller closes it. Answers bytes."""
        known = DriverInfo(lib_version=redis.__version__)  # which each connection would look for, in 2 ms
        return redis.Redis.from_url(self.url, socket_timeout=10, driver_info=known)

    def log(self) -> str:
        """What the server wrote, its last lines."""
        return "\n".join((self.directory / "log").read_text(errors="replace").splitlines()[-30:])

    def close(self) -> None:
        """Ends it and removes its directory."""
        if self.running:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        if not self.socket.exists():  # which costs less than a client
            return False
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError, redis.TimeoutError):
            return False

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None, "the server does not run"
        self._process.send_signal(how)
        self._process.wait(timeout=20)
