"""docs/files.md and docs/jobs.md: their commands run as pasted, and RQ's own tool sees the worker."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from batcher.jobs.main import NICENESS
from tests.servers import as_user
from tests.service import Service, millrace, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("files.md", "jobs.md")]


def test_every_command_of_the_pages_runs_as_pasted(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = start_service()
    service.start_jobs()
    blocks = [
        block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    assert len(blocks) == 7
    script = "echo; echo ---\n".join(blocks).replace(
        "localhost:8000", service.base_url.removeprefix("http://")
    )
    ours = shlex.join([*millrace("classify"), "--url", service.base_url])
    script = script.replace("millrace classify", ours).replace("curl -s", "curl --fail-with-body -sS")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files, several, handed_in, followed, fetched, joined, _ = done.stdout.split("---\n")
    assert files.splitlines()[0] == "id,text,label,score,error"
    assert several.splitlines()[0] == "id;text;label;score;error"
    names = sorted(path.name for path in (tmp_path / "labelled").iterdir())
    assert names == ["other-labelled.csv", "reviews-labelled.csv"]
    assert handed_in.count('"id":') == 3
    assert "event: end" in followed
    page, _, rest = fetched.partition("]}")
    assert json.loads(page + "]}")["done"] == 2
    assert "index,label,score,error" in rest
    assert "id,text,label,score,error" in joined


def test_rqs_own_tool_shows_the_worker(start_service: Callable[..., Service]) -> None:
    service = start_service(workers=0)
    jobs = service.start_jobs()
    rq = Path(sys.executable).parent / "rq"
    words = [str(rq), "info", "--url", as_user(service.redis.url, "jobs"), "--raw"]

    def shown() -> str:
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout

    wait_until(lambda: "idle millrace-jobs:default" in shown(), "the worker to be listed as idle")
    assert f"-{jobs.pid}-" in shown()


def test_the_process_that_runs_jobs_has_a_lower_priority(start_service: Callable[..., Service]) -> None:
    service = start_service(workers=0)
    jobs = service.start_jobs()
    wait_until(lambda: "jobs.ready" in jobs.said(), "the start of the jobs worker")
    assert psutil.Process(jobs.pid).nice() == min(psutil.Process(service.api.pid).nice() + NICENESS, 19)
