"""Millrace's processes, forked from one that has imported their code.

Importing takes an API a second of processor time, and most tests start several processes. A forked one has
a session, a separate environment and output, and can be killed or stopped. Tests of how a command starts,
such as tests/e2e/test_up.py, and of an interpreter with a separate environment run it as people do.

As a program, this module is the process that forks; it imports nothing of the tests. Its arguments are the
number of a socket, and the modules.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

# What the commands import, some of it only while they run.
MODULES = (
    "millrace.api",
    "millrace.worker",
    "millrace.jobs",
    "api.server.run",
    "batcher.__main__",
    "batcher.jobs.main",
)


class Fork:
    """A forked process, used like `subprocess.Popen`."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status once it has ended. Raises TimeoutExpired after `timeout` seconds."""
        if (status := self._look(timeout)) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Nothing, once it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            said = os.read(self._status, 16)
            os.close(self._status)
            assert said, "the process that forks is gone"
            self.returncode = os.waitstatus_to_exitcode(int(said))
        return self.returncode


class Forker:
    """The process that forks, seen from the tests.

    `command` runs words where that process is to be, with its environment.
    """

    def __init__(
        self,
        modules: Sequence[str] = MODULES,
        command: Callable[..., list[str]] = lambda *words: [*words],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                command(sys.executable, "-P", __file__, str(theirs.fileno()), *modules),
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )

    def fork(self, words: list[str], environment: Mapping[str, str], log: IO[bytes]) -> Fork:
        """A child that runs the module `words[0]` with the other words, and writes to `log`."""
        status, theirs = os.pipe()
        request = json.dumps([words, dict(environment)]).encode() + b"\n"
        with self._lock:
            sent = socket.send_fds(self._control, [request], [log.fileno(), theirs])
            self._control.sendall(request[sent:])
            pid = self._control.recv(16)
        os.close(theirs)
        assert pid, "the process that forks is gone"
        return Fork(int(pid), status)

    def close(self) -> None:
        """Ends it; its children live on."""
        self._control.close()
        self._process.wait(timeout=10)


@functools.cache
def forker() -> Forker:
    """The one of this process, started when it is first asked for."""
    made = Forker()
    atexit.register(made.close)
    return made


def serve(control: socket.socket) -> list[str]:
    """Forks as it is asked to, until the tests end. Returns in the children only: what each is to run."""
    ours, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno())
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, ours], [], [])
        if ours in ready:
            ours.recv(4096)
            reap(children)
        if control not in ready:
            continue
        request, files, _, _ = socket.recv_fds(control, 65_536, 2)
        if not request:
            sys.exit()
        while not request.endswith(b"\n"):
            request += control.recv(65_536)
        words, environment = json.loads(request)
        log, status = files
        if not (pid := os.fork()):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            begin(environment, log)
            control.sendall(str(os.getpid()).encode())
            for end in (control, ours, wakes):
                end.close()
            for one in (status, *children.values()):
                os.close(one)
            return words
        os.close(log)
        children[pid] = status


def reap(children: dict[int, int]) -> None:
    """Writes how each child that has ended did so."""
    for pid in list(children):
        ended, how = os.waitpid(pid, os.WNOHANG)
        if ended:
            status = children.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(status, str(how).encode())
            os.close(status)


def begin(environment: Mapping[str, str], log: int) -> None:
    """Makes the child a separate process, as if it had been started."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()


if __name__ == "__main__":
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    program, *arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv[1:] = arguments
    runpy.run_module(program, run_name="__main__", alter_sys=True)
