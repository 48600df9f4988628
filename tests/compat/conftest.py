"""One service for all clients of a test process, as none of them changes it for longer than its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.dialect_names import DIALECTS
from tests.compat.service import Service, running


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    settings = {"compat_models": "alias, default", "moderation_labels": "NEGATIVE=harassment"}
    with running(compat=",".join(DIALECTS), **settings) as made:
        yield made
