"""The parts of an application are made in whatever order they are asked for."""

from __future__ import annotations

from functools import cached_property

import pytest

from api.parts import Backends, Parts
from api.settings import ApiSettings
from tests.unit.fakes import FakeCache, FakeHub

NAMES = [name for name, value in vars(Parts).items() if isinstance(value, cached_property)]


def made() -> Parts:
    return Parts(ApiSettings(cascades="quick=stub:sure:0.5"), Backends(FakeHub(), FakeCache()))


@pytest.mark.parametrize("name", NAMES)
def test_each_part_can_be_the_first_one_asked_for(name: str) -> None:
    """Two parts whose constructors asked for each other would never end."""
    parts = made()
    assert getattr(parts, name) is getattr(parts, name)


def test_parts_share_what_they_have_in_common() -> None:
    parts = made()
    assert parts.models.first.handler is parts.predict
    assert parts.models.first.lookup is parts.lookup
    assert parts.dialects.service.models is parts.models


def test_two_applications_share_nothing() -> None:
    assert all(getattr(made(), name) is not getattr(made(), name) for name in NAMES)
