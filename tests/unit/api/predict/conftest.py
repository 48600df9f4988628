from __future__ import annotations

from collections.abc import Collection

import pytest

from api.parts import Capability


@pytest.fixture
def without() -> Collection[Capability]:
    return ("console",)
