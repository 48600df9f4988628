"""Whether enough workers serve a publication."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from api.admin.publications import check_workers
from api.errors import Problem


def models(workers: dict[str, int]) -> Any:
    """Models whose publications so many workers serve, by the name of their queue."""
    return SimpleNamespace(snapshot=lambda queue: SimpleNamespace(workers=workers[queue]))


@pytest.mark.parametrize(
    ("ready", "answering", "said"),
    [(0, 0, "0 of 1 "), (0, 1, "0 of 1 "), (1, 2, "1 of 2 "), (1, 0, ""), (1, 1, ""), (2, 2, ""), (3, 2, "")],
)
def test_a_publication_needs_as_many_workers_as_the_one_that_answers(
    ready: int, answering: int, said: str
) -> None:
    found = models({"topics@7": ready, "topics@2": answering})
    if not said:
        return check_workers(found, "topics", 7, 2)
    with pytest.raises(Problem) as caught:
        check_workers(found, "topics", 7, 2)
    assert (caught.value.status, caught.value.code) == (409, "revision_not_ready")
    assert str(caught.value.detail).startswith(f"{said}workers serve publication 7: wait for the others")
