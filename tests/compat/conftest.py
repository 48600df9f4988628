"""One service for all clients of a test process, as none of them changes it for longer than its test.

With ALL_CLIENTS in the environment, as in `make other-clients`, a test that is left out fails.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from api.dialect_names import DIALECTS
from tests.compat.service import Service, running


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("ALL_CLIENTS") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"left out: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_skipped(report)
    return report


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    settings = {"compat_models": "alias, default", "moderation_labels": "NEGATIVE=harassment"}
    with running(compat=",".join(DIALECTS), **settings) as made:
        yield made
