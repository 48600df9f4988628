"""The parts of an application are made in whatever order they are asked for."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property

import pytest

from api.parts import Backends, Parts
from api.settings import ApiSettings
from batcher.core.publications import Publications
from tests.unit.fakes import RUNNING, FakeCache, FakeHub

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


async def test_what_was_read_late_is_known_no_longer_than_if_it_had_been_read_at_once() -> None:
    """A process that had stood still read a reply from before a move, and trusted it for four seconds."""
    hub = FakeHub(snapshot=RUNNING)
    models = Parts(ApiSettings(), Backends(hub, FakeCache())).models
    await models.start()
    hub.on_sweep()
    assert models.known_until > time.monotonic()
    hub.swept_s_ago = 60.0
    hub.on_sweep()
    assert models.known_until < time.monotonic()
    await models.stop()


async def test_each_sweep_says_which_moves_this_process_answers_by() -> None:
    """It is what the console waits for after a move."""
    hub, confirmed = FakeHub(snapshot=RUNNING), list[int]()
    models = Parts(ApiSettings(), Backends(hub, FakeCache())).models
    models.on_sweep = confirmed.append
    await models.start()
    hub.snapshot = replace(RUNNING, publications=Publications(moves=3))
    hub.on_sweep()
    await models.stop()
    assert confirmed == [0, 3]


async def test_the_queues_of_all_models_but_the_first_are_closed_with_them() -> None:
    first, hubs, caches = FakeHub(snapshot=replace(RUNNING, models=("topics",))), [FakeHub()], [FakeCache()]
    backends = Backends(first, FakeCache(), connect=lambda name: (hubs[0], caches[0]))
    models = Parts(ApiSettings(), backends).models
    await models.start()
    assert [one.queue for one in models.every] == ["", "topics"]
    assert hubs[0].running
    await models.stop()
    assert not hubs[0].running
    assert caches[0].closed
    assert [one.queue for one in models.every] == [""]
    first.on_sweep()
    assert [one.queue for one in models.every] == [""], "it follows the workers no more"
