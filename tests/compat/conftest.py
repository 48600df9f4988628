"""One service for all clients of a test process, as none of them changes it for longer than its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.compat.service import Service, running


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    with running(compat_models="alias, default", moderation_labels="NEGATIVE=harassment") as made:
        yield made
