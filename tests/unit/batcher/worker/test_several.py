"""The workers of one process."""

from __future__ import annotations

from typing import Any

from batcher.worker.several import SeveralWorkers


class Fake:
    warmed = 0

    def warm_up(self) -> None:
        self.warmed += 1


def test_the_cost_of_every_model_is_measured() -> None:
    workers: list[Any] = [Fake(), Fake()]
    SeveralWorkers(workers).warm_up()
    assert [worker.warmed for worker in workers] == [1, 1]
