"""Forked processes: each has its own session, environment, output and exit status."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from millrace.settings_loader import free_port
from tests.service import ForkedProcess, millrace


def test_a_command_says_what_is_wrong_with_its_environment_and_ends(tmp_path: Path) -> None:
    wrong, right = (
        ForkedProcess(port, millrace("api"), {"MILLRACE_PORT": port}, tmp_path)
        for port in ("none", str(free_port()))
    )
    assert wrong.wait() == 2
    assert "MILLRACE_PORT" in wrong.said()
    assert right.running
    assert os.getsid(right.pid) == right.pid != os.getsid(0)
    wrong.close()
    right.close()


def test_the_signal_that_ended_one_is_its_status(tmp_path: Path) -> None:
    killed = ForkedProcess("jobs", millrace("jobs"), {"MILLRACE_JOBS_PORT": str(free_port())}, tmp_path)
    assert killed.running
    killed.kill()
    assert not killed.running
    assert killed.wait() == -signal.SIGKILL
    killed.close()
