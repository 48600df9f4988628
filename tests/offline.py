"""Processes in a network namespace that has a loopback and no route, and what they look for outside.

Names are asked of a resolver on its loopback, which writes down every one and knows none. Addresses have no
route, and the kernel counts the attempts. The files that could answer instead, such as /etc/hosts, know
localhost only. As a program, this module is the resolver; the namespace lasts as long as it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from tests.forked import Fork, Forker

ROOT = Path(__file__).parents[1]
NAMES = "names"
_UNSHARE = ["unshare", "--net", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
_ENTER = ["nsenter", "--net", "--mount", *(["--user", "--preserve-credentials"] if os.geteuid() else [])]
_FILES = {
    "resolv.conf": "nameserver 127.0.0.1\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "hosts: files dns\n",
}
# In CI, openvino_telemetry and others are silent by themselves. Proxies and hubs are a matter of each test.
_SILENT = re.compile(
    r"CI|TF_BUILD|JENKINS_URL|(DO_NOT|DISABLE)_.*|HF_.*|TRANSFORMERS_.*|OTEL_.*|.*_proxy", re.IGNORECASE
)
_ENDED_S = 60.0
_UNKNOWN = 0x8183  # the flags of an answer NXDOMAIN
_SET_FLAGS, _UP = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP


def unavailable() -> str:
    """Why namespaces cannot be made here; empty if they can."""
    for tool in ("unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"no `{tool}` (util-linux)"
    done = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True)
    return f"no network namespaces: {done.stderr.strip()}" if done.returncode else ""


class Namespace:
    """One namespace; `folder` is the home of its processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._etc = folder / "etc"
        self._etc.mkdir()
        self._resolver = subprocess.Popen(
            [*_UNSHARE, sys.executable, "-P", __file__, str(self._etc)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._resolver.stdout is not None
        assert self._resolver.stdout.readline() == b"ready\n", "the resolver has not started"

    def command(self, *words: str) -> list[str]:
        """The command line that runs this inside."""
        return [*_ENTER, f"--target={self._resolver.pid}", "env", f"--chdir={self.folder}", *words]

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """That of a person who has configured only `settings`, and whose home is empty."""
        kept = {name: value for name, value in os.environ.items() if not _SILENT.fullmatch(name)}
        return {**kept, "HOME": str(self.folder), "PYTHONPATH": str(ROOT), **settings}

    def processes(self) -> dict[int, str]:
        """The command lines of all processes inside, except the resolver."""
        here = os.readlink(f"/proc/{self._resolver.pid}/ns/net")
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if os.readlink(process / "ns/net") == here:
                    found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        del found[self._resolver.pid]
        return found

    def run(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, and to that of the processes that it leaves."""

        def start(said: IO[bytes]) -> subprocess.Popen[bytes]:
            command, environment = self.command(*words), self.environment(settings)
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )

        return self._end(start, words)

    def fork(self, forker: Forker, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs a module with further words as `run` does, in a process that `forker` forks inside."""
        return self._end(lambda said: forker.fork([*words], self.environment(settings), said), words)

    def _end(
        self, start: Callable[[IO[bytes]], subprocess.Popen[bytes] | Fork], words: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        before = self.processes().keys()
        with (self.folder / "said").open("wb") as said:  # a pipe would have no end while a child lives
            status = start(said).wait()
        done = subprocess.CompletedProcess(words, status, (self.folder / "said").read_text())
        deadline = time.monotonic() + _ENDED_S
        while left := self.processes().keys() - before:
            assert time.monotonic() < deadline, f"{words} leaves {left}"
            time.sleep(0.02)
        return done

    def looked_for(self) -> list[str]:
        """Each name that was asked for, once, and how many packets had no route."""
        found = list(dict.fromkeys((self._etc / NAMES).read_text().split()))
        network = Path(f"/proc/{self._resolver.pid}/net")
        rows = [
            line.split() for line in (network / "snmp").read_text().splitlines() if line.startswith("Ip:")
        ]
        old = int(dict(zip(*rows, strict=True))["OutNoRoutes"])
        new = int(re.search(r"^Ip6OutNoRoutes\s+(\d+)", (network / "snmp6").read_text(), re.MULTILINE)[1])
        return [*found, f"{old + new} packets to other addresses"] if old + new else found

    def close(self) -> None:
        """Ends the resolver; the namespace ends with the last of its processes."""
        self._resolver.communicate()


def _resolve(folder: Path) -> None:
    with socket.socket() as some:
        fcntl.ioctl(some, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
    for name, content in _FILES.items():
        (folder / name).write_text(content)
        subprocess.run(["mount", "--bind", folder / name, f"/etc/{name}"], check=True)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    with (folder / NAMES).open("w") as names:
        print("ready", flush=True)
        while sys.stdin not in (ready := select.select([server, sys.stdin], [], [])[0]):
            assert ready
            query, client = server.recvfrom(4096)
            name, end = _question(query)
            print(name, file=names, flush=True)
            server.sendto(query[:2] + struct.pack("!HHHHH", _UNKNOWN, 1, 0, 0, 0) + query[12:end], client)


def _question(query: bytes) -> tuple[str, int]:
    """The name that a query asks for, and where its question ends."""
    labels, at = [], 12
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode("ascii", "replace"))
        at += 1 + size
    return ".".join(labels), at + 5


if __name__ == "__main__":
    _resolve(Path(sys.argv[1]))
