"""The Redis that `millrace up` starts unless a URL is set: its command, its files and the lock on them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from millrace.errors import CommandError
from millrace.local.redis_server import ServerBinary, writer
from text_files.decoding import is_unicode, readable

# The limit of a Unix socket path (sun_path) is 108 bytes on Linux and 104 on macOS.
_SOCKET_PATH_MAX_BYTES = 100
_LOCK_WAIT_S = 5.0
# Files that a server keeps in its directory: those of Redis 7 and newer, of older versions, and snapshots.
_WRITTEN = ("appendonlydir", "appendonly.aof", "dump.rdb")
# What Millrace and its Redis keep there, by name.
_OURS = re.compile(
    rf"{'|'.join(map(re.escape, _WRITTEN))}|temp-.+\.(?:aof|rdb)|shard-\d+"
    r"|lock|redis\.(?:log|sock)|operator\.key|operators"
).fullmatch
# From this version on, Valkey can be asked to try snapshots of Redis 7.4 and newer.
_VALKEY_TRIES = (9,)


def default_data_dir() -> Path:
    """$XDG_DATA_HOME/millrace, or ~/.local/share/millrace if the variable is not set.

    A relative path in it is ignored, as its specification says: another command that runs elsewhere would
    look for the operator's key in another folder.
    """
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else Path("~/.local/share").expanduser()) / "millrace"


class DataDir:
    """A data directory that is locked until every process that holds `lock_fd` has ended.

    The Redis server inherits the lock, so a second server never opens the directory while one still runs.
    What earlier versions wrote there for all users to read becomes private.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        if not is_unicode(str(self.path)):  # nor is the address of the socket in it
            raise CommandError(
                f"the data directory {readable(self.path)} is not UTF-8: choose another with --data-dir."
            )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(self.path)
            self.lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CommandError(
                f"the data directory {self.path} cannot be used: {error.strerror}; "
                "choose another with --data-dir."
            ) from error
        self._lock()

    def _lock(self) -> None:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = os.pread(self.lock_fd, 32, 0).decode(errors="replace").strip()
                # If the owner has ended, its Redis is about to stop, so wait briefly for the lock.
                if _alive(owner) or time.monotonic() > deadline:
                    os.close(self.lock_fd)
                    by = f" (process {owner})" if owner else ""
                    raise CommandError(
                        f"the data directory {self.path} is in use by another `millrace up`{by}: "
                        "stop it, or choose another with --data-dir."
                    ) from None
                time.sleep(0.05)
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Releases the lock, unless a server still holds it."""
        os.close(self.lock_fd)


def _make_private(directory: Path) -> None:
    """Takes the rights of other users away: of our files and, without any others in it, of the directory.

    A directory with other files may be there for other users, such as /tmp, so it stays as it is.
    """
    within = list(directory.iterdir())
    found = [path for path in within if _OURS(path.name)]
    if len(found) == len(within):
        found.append(directory)
    for path in [*found, *(directory / "appendonlydir").glob("*")]:
        about = path.lstat()
        mode = stat.S_IMODE(about.st_mode)
        if mode & 0o077 and about.st_uid == os.geteuid() and not stat.S_ISLNK(about.st_mode):
            path.chmod(mode & ~0o077)


def _alive(pid: str) -> bool:
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class EmbeddedRedis:
    """A server on a Unix socket for this user only, with an append-only file in the data directory.

    With `on_disk=False` there is no such file: queue, jobs and cache are lost when the server ends.
    """

    def __init__(self, binary: ServerBinary, data: DataDir, *, on_disk: bool = True) -> None:
        written = [path for path in map(data.path.joinpath, _WRITTEN) if path.exists()]
        if written and not on_disk:
            raise CommandError(
                f"{written[0]} holds texts of earlier runs, and --no-disk would leave it there: remove it, "
                "or choose another --data-dir."
            )
        if binary.version < (7,) and (data.path / "appendonlydir").exists():
            # Redis 6 would ignore the files of Redis 7 and silently start empty.
            raise CommandError(
                f"the data in {data.path} was written by Redis 7 or newer and {binary.path} is Redis "
                f"{binary.version[0]}: put the newer server on PATH, or choose another --data-dir."
            )
        files = data.path / "appendonlydir"
        written_to = any(file.stat().st_size for file in files.glob("*.incr.aof"))
        if written_to and not any(files.glob("*.manifest")):
            # Without its list of files, Redis would start empty beside them.
            raise CommandError(
                f"{files} has no manifest, so Redis would not read the data in it: copy all of the folder "
                "again, move it away, or choose another --data-dir."
            )
        self.binary = binary
        self.data = data
        self._writer = writer(data.path)
        self.on_disk = on_disk
        self.socket = _socket_path(data.path)
        self.url = f"unix://{quote(str(self.socket))}"
        self.log.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """The command line with all options: no configuration file, no snapshots, no eviction."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data.path),
            "logfile": str(self.log),
            "appendonly": "yes" if self.on_disk else "no",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        if self.binary.valkey and self.binary.version >= _VALKEY_TRIES:
            options["rdb-version-check"] = "relaxed"
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [str(self.binary.path), *flags]

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.data.path / "redis.log"

    def why_it_ended(self) -> str:
        """Why the server ended: the last warning in its log, and who wrote data that it may not read."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        warnings = [line.partition(" # ")[2] for line in lines if " # " in line]
        if not warnings:
            return ""
        reason = f"{warnings[-1].strip().rstrip('.')} ({self.log})"
        if self._writer is None or self.binary.reads(self._writer):
            return reason
        return (
            f"{reason}; the data was written by {self._writer.name} and {self.binary.path} is "
            f"{self.binary.name}: put the former on PATH, or choose another --data-dir"
        )

    def close(self) -> None:
        """Removes the socket and unlocks the data directory. The server must have ended."""
        self.socket.unlink(missing_ok=True)
        if self.socket.parent != self.data.path:
            self.socket.parent.rmdir()
        self.data.close()


def _socket_path(directory: Path) -> Path:
    """In the directory or, if that has too long a name, in a temporary one. Raises CommandError."""
    path = directory / "redis.sock"
    if _fits(path):
        return path
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108  # TMPDIR may have a long name, too
        if _fits(Path(base, "millrace-12345678", path.name)):
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="millrace-", dir=base)) / path.name
    raise CommandError(
        f"the path of the data directory {directory} is too long for a socket, and none can be made in a "
        "temporary directory: choose a shorter --data-dir."
    )


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= _SOCKET_PATH_MAX_BYTES
