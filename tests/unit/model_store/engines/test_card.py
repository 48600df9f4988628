"""Passes on a card: what a fake of CUDA can show without one. The others are in tests/gpu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from batcher.worker.inference import warm_up
from model_store.rows import FILLER, Rows, arrange, plan
from model_store.stub import StubClassifier
from model_store.tokens import Tokens
from tests.lazy import Lazy, inference_mode, require_modules, torch
from tests.unit.model_store.checkpoints import write_checkpoint

require_modules("torch")
card: Any = Lazy("model_store.engines.card")
encoder: Any = Lazy("model_store.engines.encoder")
pytorch: Any = Lazy("model_store.engines.pytorch")


class Graph:
    """Replays by calling the module, as a recording would run its kernels."""

    def __init__(self, module: Any, inputs: Any, shape: card.Shape, logits: Any) -> None:
        self._run = lambda: logits.copy_(module(*card.parts(inputs, shape)))

    def replay(self) -> None:
        self._run()


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return encoder.packed_encoder(pytorch.read_model(write_checkpoint(tmp_path_factory.mktemp("checkpoint"))))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[card.Shape]:
    """The shapes that were recorded, by a fake."""
    shapes: list[card.Shape] = []

    def record(self: card.CardPasses, shape: card.Shape) -> Any:
        shapes.append(shape)
        rows, length, texts = shape
        inputs = torch.zeros(3 * rows * length + texts, dtype=torch.int32)
        logits = torch.full((texts, 2), torch.nan)
        return inputs, Graph(self._module, inputs, shape, logits), logits

    monkeypatch.setattr(card.CardPasses, "_record", record)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    return shapes


def texts(*lengths: int) -> list[Tokens]:
    return [
        Tokens([101, *range(1000 + at, 998 + at + length), 102], 0, 0) for at, length in enumerate(lengths)
    ]


def inputs(rows: Rows) -> tuple[Any, ...]:
    return tuple(map(torch.from_numpy, rows.inputs))


BATCHES = [texts(5), texts(20, 3, 60), texts(*range(3, 60)), texts(128, 128, 7), texts(*[19] * 70)]


@inference_mode
def test_room_around_the_rows_changes_no_logits(module: Any, recorded: list[card.Shape]) -> None:
    passes = card.CardPasses(module, recorded=True)
    for batch in BATCHES:
        rows = arrange(batch, "packed")
        wanted, got = module(*inputs(rows)), passes(*inputs(rows))
        assert torch.allclose(got[: len(batch)], wanted[: len(batch)], atol=1e-6)
    assert len(recorded) == len(BATCHES)


@inference_mode
def test_a_shape_is_recorded_once_and_the_longest_unused_recording_goes(
    module: Any, recorded: list[card.Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.engines.card._RECORDINGS", 2)
    passes = card.CardPasses(module, recorded=True)
    for length in (
        5,
        20,
        6,
        40,
        7,
        21,
    ):  # the third takes the first one's; the fourth replaces the second one
        passes(*inputs(arrange(texts(length), "packed")))
    assert [shape[1] for shape in recorded] == [16, 32, 48, 32]


@inference_mode
def test_large_batches_and_padded_models_run_without_a_recording(
    module: Any, recorded: list[card.Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.engines.card._RECORDED_TOKENS", 64)
    for batch, records in ((texts(20, 60), True), (texts(20), False)):
        rows = arrange(batch, "packed")
        shapes: list[Any] = []

        def run(*arrays: Any, shapes: list[Any] = shapes) -> Any:
            shapes += [array.shape for array in arrays]
            return module(*arrays)

        got = card.CardPasses(run, recorded=records)(*inputs(rows))
        assert shapes == [array.shape for array in rows.inputs], "without room"
        assert torch.allclose(got, module(*inputs(rows)), atol=1e-6)
    assert recorded == []
    card.CardPasses(module, recorded=True)(*inputs(arrange(texts(20, 40), "packed")))
    assert recorded == [(1, 64, 8)], "as many as are recorded"


def test_shapes_are_few_and_have_room() -> None:
    """With steps of 16 tokens and single rows, a worker compiled attention for 0.1 s in each other batch."""
    made = {
        card.roomy(rows, length, 1 + rows * length // 20) for rows in range(1, 65) for length in (112, 128)
    }
    assert len(made) == 12
    assert len({card.roomy(1, length, 1) for length in range(1, 513)}) == 10
    for rows in range(1, 100):
        for length in range(16, 513, 16):
            for texts in (1, 9, rows * length // 3):
                more, longer, room = card.roomy(rows, length, texts)
                assert more >= rows
                assert longer >= length
                assert room >= texts
                assert more <= 1.5 * rows
                assert longer <= max(1.5 * length, 128)


def test_room_belongs_to_no_text(module: Any) -> None:
    rows = arrange(texts(5, 9), "packed")
    flat = card.laid_out(*inputs(rows), (2, 48, 8))
    ids, _, segments, first = card.parts(flat, (2, 48, 8))
    assert (segments[ids == 0] == FILLER).all()
    assert ids.flatten()[first[:2]].tolist() == [101, 101]


@pytest.mark.parametrize("most", [2, 8, 40, 120])
def test_warming_up_meets_the_shapes_of_nearly_all_batches(most: int) -> None:
    """Two of three batches of a few texts, and half of the single ones, waited for a shape to be compiled."""
    warm = StubClassifier()
    warm.info = replace(warm.info, device="NVIDIA H100")
    met: set[card.Shape] = set()
    draw = Random(most)

    def shape(lengths: list[int]) -> card.Shape:
        laid = plan(lengths, "packed")
        return card.roomy(len(laid.rows), laid.length, len(lengths))

    def classify(batch: Sequence[Tokens]) -> list[list[float]]:
        met.add(shape([len(text) for text in batch]))
        return [[0.5, 0.5] for _ in batch]

    warm.classify = classify  # type: ignore[method-assign]
    warm_up(warm)
    drawn = [
        [min(2 + int(draw.expovariate(1 / 18)), 512) for _ in range(draw.randint(1, most))]
        for _ in range(300)
    ]
    assert sum(shape(lengths) not in met for lengths in drawn) < 0.1 * len(drawn)
