"""Starts Millrace or one of the peers, alone on this machine, and stops all of its processes."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers.catalogue import MODEL, PEERS, SERVERS
from benchmarks.peers.environments import version
from benchmarks.peers.results import commit
from benchmarks.service import build_model, process
from millrace.settings_loader import free_port

LISTENS_S = 180.0
# Two rows of Millrace: as it is installed, and with the engine of the peers.
MILLRACE: dict[str, tuple[str, dict[str, str]]] = {
    "millrace": ("OpenVINO, auto", {}),
    "millrace-torch": ("torch f32", {"engine": "torch", "precision": "f32"}),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A service that was started. `form` names the shape of its requests and answers in load.js."""

    url: str
    form: str
    version: str
    engine: str
    log: Path
    pid: int = 0

    def check(self) -> None:
        """Raises RuntimeError with the end of its log if the service has ended."""
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            raise RuntimeError(f"it ended: {self.said()}")

    def said(self) -> str:
        """The end of its log, in one line."""
        return " ".join(self.log.read_text(errors="replace")[-300:].split())


@contextmanager
def running(name: str, folder: Path) -> Iterator[Target]:
    """A service that accepts connections. Raises RuntimeError with the end of its log if it does not."""
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="peers-") as work:
        log = Path(work) / "server.log"
        if name in MILLRACE:
            engine, chosen = MILLRACE[name]
            # Building the model for an engine takes minutes on a busy machine, the first time.
            build_model("default", chosen)
            env = {f"MILLRACE_{setting.upper()}": value for setting, value in chosen.items()}
            words = [
                sys.executable,
                "-m",
                "millrace",
                "up",
                "--port",
                str(port),
                "--data-dir",
                f"{work}/data",
            ]
            target = Target(f"http://127.0.0.1:{port}/predict", "predictions", commit(), engine, log)
        else:
            peer = next(peer for peer in PEERS if peer.name == name)
            env = peer.env | {"MODEL": str(MODEL), "HF_HUB_OFFLINE": "1"}
            # Servers start programs of their environment, and import the files beside them.
            env |= {"PATH": f"{folder / name / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(SERVERS)}
            words = ["env", f"--chdir={SERVERS}", *peer.words(folder, port)]
            url = f"http://127.0.0.1:{port}{peer.path}"
            target = Target(url, peer.form, version(peer, folder), peer.engine, log)
        with _group(words, env, log) as pid:
            target = replace(target, pid=pid)
            _listens(target, port)
            yield target


@contextmanager
def _group(words: list[str], env: dict[str, str], log: Path) -> Iterator[int]:
    """Runs a command meanwhile, and ends what it has started and left behind as well; its process id."""
    with ExitStack() as stack:
        pid = stack.enter_context(process(["setsid", *words], env, log))
        try:
            yield pid
        finally:
            stack.close()
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _listens(target: Target, port: int) -> None:
    """Waits until the port is open."""
    deadline = time.monotonic() + LISTENS_S
    while True:
        target.check()
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"no open port after {LISTENS_S:g} s: {target.said()}")
        time.sleep(0.2)
