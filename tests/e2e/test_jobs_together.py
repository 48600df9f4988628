"""The short form of `make jobs`: jobs of many clients, two that cannot go on, and kills."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.jobs_together import CLIENTS, WORKERS, run, settings
from tests.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.redis]


@pytest.mark.timeout(400)
def test_every_job_of_many_clients_ends_with_its_results(start_service: Callable[..., Service]) -> None:
    report = run(start_service(workers=WORKERS, **settings(token_ms=0.1)), seconds=5, large=3000)
    print(report)
    assert report.faults == []
    assert len(report.small_s) >= CLIENTS
    assert report.beside_s
    assert report.kills >= 2
