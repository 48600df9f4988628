"""A plugin of pytest that stops processes for a moment while tests run: `--pauses SEED`.

It finds tests, and code, that count on one process being faster than another. Stops are short, except in the
first second of a process: how long a start takes is what differs most between machines. A server of Redis
that does not answer for a second is an outage, so that all of its stops are short. A failed test shows what
was stopped. The seed and the name of a test decide how long stops are, but not what runs then.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Generator
from contextlib import suppress

import psutil
import pytest

# How old a process may be for a long stop, and how many of its stops are long.
START_S, LONG_SHARE = 1.0, 0.3
BETWEEN_S, SHORT_S, LONG_S = (0.0, 0.3), (0.05, 0.4), (0.4, 2.0)

_STATES = {psutil.STATUS_RUNNING, psutil.STATUS_SLEEPING, psutil.STATUS_DISK_SLEEP}


class Pauses(threading.Thread):
    """Stops one process at a time, of all below this one, and lets it go on; `said` has the stops."""

    def __init__(self, seed: str) -> None:
        super().__init__(daemon=True)
        self.said: list[str] = []
        self._random, self._began, self._over = random.Random(seed), time.monotonic(), threading.Event()
        # As they are before the test replaces anything.
        self._tests, self._lock, self._kill = psutil.Process(), threading.Lock(), os.kill
        self._stopped_by_test: set[int] = set()

    def kill(self, pid: int, number: int) -> None:
        """os.kill for the test: what it has stopped stays so."""
        with self._lock:
            self._kill(pid, number)
            if number == signal.SIGSTOP:
                self._stopped_by_test.add(pid)
            elif number == signal.SIGCONT:
                self._stopped_by_test.discard(pid)

    def run(self) -> None:
        while not self._over.wait(self._random.uniform(*BETWEEN_S)):
            with suppress(psutil.Error, ProcessLookupError):
                if below := self._tests.children(recursive=True):
                    self._pause(self._random.choice(below))

    def end(self) -> None:
        """Everything goes on, except what the test has stopped."""
        self._over.set()
        self.join()

    def _pause(self, process: psutil.Process) -> None:
        starts = time.time() - process.create_time() < START_S and not process.name().endswith("-server")
        long = starts and self._random.random() < LONG_SHARE
        seconds = self._random.uniform(*(LONG_S if long else SHORT_S))
        name, pid, at_s = " ".join(process.cmdline())[-80:], process.pid, time.monotonic() - self._began
        with self._lock:
            if process.status() not in _STATES:
                return
            self._kill(pid, signal.SIGSTOP)
        self.said.append(f"{at_s:.2f} s: {pid} for {seconds:.2f} s: {name}")
        try:
            self._over.wait(seconds)
        finally:
            with self._lock:
                if pid not in self._stopped_by_test:
                    self._kill(pid, signal.SIGCONT)


_PAUSES = pytest.StashKey[Pauses]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pauses", metavar="SEED", help="stop processes that tests have started for a moment")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if (seed := item.config.getoption("pauses")) is None:
        return (yield)
    pauses = item.stash[_PAUSES] = Pauses(f"{seed} {item.nodeid}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "kill", pauses.kill)
        pauses.start()
        try:
            return (yield)
        finally:
            pauses.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and (pauses := item.stash.get(_PAUSES, None)):
        report.sections.append(("what was stopped", "\n".join(pauses.said)))
    return report
