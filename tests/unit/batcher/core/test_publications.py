"""What operators publish of a model, as one process after the other changes it."""

from __future__ import annotations

import pytest

from batcher.core.publications import Published


@pytest.fixture
def published() -> Published:
    """Of which publication 1 answers and 2 has just been published."""
    return Published().publish("first").move(1).publish("second")


@pytest.mark.parametrize("number", [0, 1, 3])
def test_only_a_publication_that_is_kept_and_does_not_answer_can_be_tried_out(
    published: Published, number: int
) -> None:
    assert published.try_out(2).previous == 1
    with pytest.raises(LookupError):
        published.try_out(number)


def test_a_name_moves_only_to_a_publication_that_is_kept(published: Published) -> None:
    moved = published.move(2)
    assert (moved.current, moved.previous, dict(moved.references)) == (2, 1, {1: "first", 2: "second"})
    assert moved.move(2) == moved
    assert moved.publish("third").references.keys() == {2, 3}
    with pytest.raises(LookupError):
        moved.publish("third").move(1)
