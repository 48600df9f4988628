"""The Python client against a service of real processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from millrace_client import Client, Options, Progress, Unavailable

from tests.mill import Mill

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

WORDS = [f"text {number}" for number in range(300)]


def test_requests_and_a_job_give_the_same_results(mill: Callable[..., Mill]) -> None:
    running = mill()
    running.start_jobs()
    with Client(running.base_url) as client:
        found = list(client.classify(WORDS))
    assert [set(one.scores) for one in found] == [{"NEGATIVE", "POSITIVE"}] * 300
    seen: list[Progress] = []
    with Client(running.base_url, options=Options(job_from=300)) as client:
        assert list(client.classify(WORDS, progress=seen.append)) == found
    assert seen[-1].job is not None
    assert (seen[-1].done, seen[-1].job.status) == (300, "finished")
    running.api.kill()
    with Client(running.base_url, options=Options(budget_s=0.5)) as client, pytest.raises(Unavailable):
        list(client.classify(["a"]))
