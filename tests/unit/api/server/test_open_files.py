"""How many connections the limit of open files allows, and who is warned."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LIMITED = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0})); "
API = "from millrace.__main__ import main; sys.argv = ['millrace', 'api', '--port', '0']; sys.exit(main())"
COUNT = "import logging; logging.basicConfig(); from api.server.run import _connections as allowed; "
COUNT += "print(allowed(10_000))"


def python(code: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env=given, capture_output=True, text=True, timeout=120
    )


def test_with_256_open_files_one_connection_was_served_and_the_rest_closed_without_a_word() -> None:
    done = python(LIMITED.format(256) + API)
    assert done.returncode == 3
    assert "the limit of 256 open files leaves 0 for connections" in done.stderr
    assert "ulimit -n 10320" in done.stderr


@pytest.mark.parametrize(("limit", "allowed"), [(400, 80), (336, 16)])
def test_fewer_connections_than_the_setting_are_a_warning(limit: int, allowed: int) -> None:
    done = python(LIMITED.format(limit) + COUNT)
    assert done.stdout == f"{allowed}\n"
    assert f"the limit of {limit} open files allows {allowed} connections" in done.stderr


def test_enough_open_files_are_no_warning() -> None:
    if not hard_limit_is_at_least(10_320):
        pytest.skip("this machine allows fewer open files")
    done = python("import sys; " + COUNT)
    assert (done.stdout, done.stderr) == ("10000\n", "")


def hard_limit_is_at_least(files: int) -> bool:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard == resource.RLIM_INFINITY or hard >= files
