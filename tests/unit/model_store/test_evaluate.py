"""Whether an artefact passes the check against torch f32, by the share of texts whose labels differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_store import evaluate
from model_store.artefact import Gate
from model_store.stub import LABELS, StubClassifier
from model_store.tokens import Tokens

TEXTS = 200


class Numbered(StubClassifier):
    """Gives the first label to each text but some first ones."""

    def __init__(self, wrong: int) -> None:
        super().__init__()
        self._wrong = wrong

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [Tokens([int(text)], 0, 0) for text in texts]

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        return [[0.3, 0.7] if tokens.ids[0] < self._wrong else [0.7, 0.3] for tokens in batch]


@pytest.mark.parametrize(
    ("weights", "arithmetic", "reference_wrong", "wrong", "passed"),
    [
        ("float", "f32", 0, 0, True),
        ("float", "f32", 1, 0, False),
        ("float", "bf16", 1, 0, True),
        ("float", "bf16", 2, 0, False),
        ("int8", "f32", 2, 0, True),
        ("int8", "f32", 3, 0, False),
        ("int8", "f32", 0, 1, True),
        ("int8", "f32", 0, 2, False),
    ],
)
def test_how_many_labels_may_differ_is_a_matter_of_the_precision_and_how_many_right_ones_is_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    arithmetic: Any,
    reference_wrong: int,
    wrong: int,
    passed: bool,
) -> None:
    data = tmp_path / "data.tsv"
    data.write_text("".join(["text\tlabel\n", *(f"{number}\t{LABELS[0]}\n" for number in range(TEXTS))]))

    def opened(path: Path, *_: object, arithmetic: str) -> Numbered:
        return Numbered(wrong if path == tmp_path else reference_wrong)

    monkeypatch.setattr(evaluate, "build", lambda *_, **__: None)
    monkeypatch.setattr(evaluate, "verify", lambda path: None)
    monkeypatch.setattr(evaluate, "open_verified", opened)
    manifest: Any = SimpleNamespace(name="m", labels=LABELS, multi_label=False, weights=weights)
    checkpoint: Any = SimpleNamespace(path=tmp_path / "checkpoint")
    gate = evaluate.check_accuracy(data, arithmetic, tmp_path, manifest, checkpoint)
    assert gate == Gate(
        rows=TEXTS,
        agreement=1 - (wrong + reference_wrong) / TEXTS,
        accuracy=1 - wrong / TEXTS,
        reference_accuracy=1 - reference_wrong / TEXTS,
        same_alone=1.0,
        passed=passed,
    )
