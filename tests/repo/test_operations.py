"""The operations of a model that benchmarks count are those that torch counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.random_model import write_random
from tests.lazy import Lazy, require_modules, torch, transformers

require_modules("torch", "transformers")
operations, flop_counter = Lazy("benchmarks.operations"), Lazy("torch.utils.flop_counter")


@pytest.mark.parametrize("length", [8, 300])
def test_operations_of_a_text_are_those_that_torch_counts(length: int, tmp_path: Path) -> None:
    write_random("tiny", tmp_path / "model")
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(tmp_path / "model", attn_implementation="eager")  # torch counts no other one
    with flop_counter.FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.ones(2, length, dtype=torch.long))
    counted = operations.Shape.of(str(tmp_path / "model")).operations([length] * 2, whole=True)
    head = 2 * 2 * (32 * 32 + 32 * 2)
    assert counter.get_total_flops() == counted + head


def test_the_last_layer_is_counted_for_first_tokens_only() -> None:
    """Its keys and values are of all tokens: 2 of 12 parts of a layer, with queries and the rest of one."""
    shape = operations.Shape(layers=1, wide=4, inner=16)
    assert shape.operations([10], whole=True) == 2 * (4 * 16 + 2 * 4 * 16) * 10 + 4 * 4 * 100
    assert shape.operations([10]) == 2 * 2 * 16 * 10 + 2 * (2 * 16 + 2 * 4 * 16) + 4 * 4 * 10


def test_a_precision_without_instructions_is_a_share_of_the_peak_of_f32() -> None:
    peaks = operations.Peaks({"f32": 100.0, "bf16": 400.0})
    assert [peaks.share(precision, 50.0) for precision in ("f32", "bf16", "int8")] == [0.5, 0.125, 0.5]
