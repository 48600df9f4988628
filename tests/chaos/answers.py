"""What is right: a direct call of the model that the workers run, within the tolerance of its engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from batcher.messages import fragment
from model_store import load
from tests.signing import SIGNED, Checker, Revision, Said, names_in, rows_of

# The precision of a score in HTTP, which has six digits.
ROUNDING = 1e-6


class Answers:
    """Knows the answer to every text. `model` is a reference; a model that is not built yet is built here.

    One thread with a separate core asks it, and each text alone. Answers of a stub that signs are checked as
    such.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._classifier = load(model, threads=1)
        tolerance = self._classifier.info.tolerance
        self._tolerance = tolerance + ROUNDING if tolerance else 0.0
        self._known: dict[str, list[dict[str, Any]]] = {}
        signs = model.startswith(SIGNED)
        self._checker = Checker([Revision(model)]) if signs else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")

    async def wrong(self, texts: Sequence[str], got: Any, named: str = "") -> list[tuple[Any, Any]]:
        """Pairs (got, right) for each text that was not answered right; `got` is a list of predictions.

        `named` is what the header X-Model says. With a stub that signs, `right` says what is wrong.
        """
        if self._checker is not None and isinstance(got, list):
            said = Said(texts, rows_of(got), names_in(named))
            return [(got, what) for what in self._checker.wrong(said)]
        right = await asyncio.get_running_loop().run_in_executor(self._thread, self._answers, texts)
        if not isinstance(got, list) or len(got) != len(right):
            return [(got, right)]
        return [pair for pair in zip(got, right, strict=True) if not self._same(*pair)]

    def close(self) -> None:
        """Ends the thread and frees the model."""
        self._thread.shutdown()
        self._classifier.close()

    def _answers(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        for text in texts:
            if text not in self._known:
                (row,) = self._classifier.classify(self._classifier.tokenize([text]))
                self._known[text] = json.loads(fragment(self._classifier.info.labels, row))
        return [self._known[text] for text in texts]

    def _same(self, got: Any, right: list[dict[str, Any]]) -> bool:
        return [score["label"] for score in got] == [score["label"] for score in right] and all(
            abs(one["score"] - other["score"]) <= self._tolerance
            for one, other in zip(got, right, strict=True)
        )
