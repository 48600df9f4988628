"""The model that a response names."""

from __future__ import annotations

from dataclasses import replace

from batcher.lookup.queue import MAX_MODELS, Models
from tests.unit.fakes import MODEL, OTHER_REVISION, REVISION, RUNNING, FakeHub


def publish(hub: FakeHub, name: str, revision: str) -> None:
    hub.snapshot = replace(RUNNING, model=replace(MODEL, name=name, revision=revision))


def test_a_result_of_the_model_before_keeps_its_name() -> None:
    """During a rollout from one model name to another, an old revision must not get the new name."""
    hub = FakeHub()
    models = Models(hub)
    publish(hub, "old", REVISION)
    assert models.revision == REVISION
    publish(hub, "new", OTHER_REVISION)
    assert models.revision == OTHER_REVISION
    assert models.header(REVISION) == b"old@a1b2c3d4e5f6"
    assert models.header(OTHER_REVISION) == b"new@ffeeddccbbaa"


def test_a_revision_that_nobody_published_has_the_name_that_its_result_says() -> None:
    hub = FakeHub()
    models = Models(hub)
    assert models.header(OTHER_REVISION) == b"@ffeeddccbbaa"
    assert models.header(OTHER_REVISION, "new, or so") == b"new__or_so@ffeeddccbbaa"
    publish(hub, "new", OTHER_REVISION)
    assert models.header(OTHER_REVISION) == b"new@ffeeddccbbaa"


def test_names_are_kept_of_so_many_revisions() -> None:
    hub = FakeHub()
    models = Models(hub)
    revisions = [f"{number:064d}" for number in range(3 * MAX_MODELS)]
    for number, revision in enumerate(revisions):
        publish(hub, f"m{number}", revision)
        assert models.revision == revision
        kept = [one for one in revisions if models.record(one)]
        assert kept == revisions[number - number % MAX_MODELS : number + 1]
        assert len(models._headers) == len(kept)
