"""How many connections the limit of open files allows, and who is warned."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LIMITED = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0})); "
API = "from millrace.__main__ import main; sys.argv = ['millrace', 'api', '--port', '0']; sys.exit(main())"
LIMITS = (400, 336)
# One process for all of them, each of which is lower than the one before: importing takes a second.
COUNT = f"""
import logging, resource, sys
from api.server.run import _connections
logging.basicConfig()
for limit in (0, *{LIMITS}):
    if limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    print(_connections(10_000))
    print("end", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def counted() -> dict[int, tuple[str, str]]:
    """How many connections each limit allows, 0 being that of this machine, and what is said of it."""
    done = python(COUNT)
    assert done.returncode == 0, done.stderr
    return dict(
        zip(
            (0, *LIMITS), zip(done.stdout.splitlines(), done.stderr.split("end\n"), strict=False), strict=True
        )
    )


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
def test_fewer_connections_than_the_setting_are_a_warning(
    counted: dict[int, tuple[str, str]], limit: int, allowed: int
) -> None:
    count, said = counted[limit]
    assert count == f"{allowed}"
    assert f"the limit of {limit} open files allows {allowed} connections" in said


def test_enough_open_files_are_no_warning(counted: dict[int, tuple[str, str]]) -> None:
    if not hard_limit_is_at_least(10_320):
        pytest.skip("this machine allows fewer open files")
    assert counted[0] == ("10000", "")


def hard_limit_is_at_least(files: int) -> bool:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard == resource.RLIM_INFINITY or hard >= files
