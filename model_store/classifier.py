"""The protocol between the worker and whatever runs a model: one prediction a text, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from model_store.drift_reference import DriftReference

Engine = Literal["torch", "openvino", "stub"]
Precision = Literal["f32", "bf16", "int8"]
# How an artefact keeps its weights, and what an engine computes in.
Weights = Literal["float", "int8"]
Arithmetic = Literal["f32", "bf16"]
Layout = Literal["packed", "padded"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of a proof: `reason` says what failed, and is empty where nothing did.

    `answers` is the largest difference of a score from the sealed answers, `company` from the same text
    alone; `agreement` the share of answers with the sealed label, `flips` the other labels beyond the margin.
    """

    passes: int
    answers: float
    company: float
    agreement: float
    flips: int
    seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a loaded model.

    `revision` is the digest that names its answers (first 12 hex digits are shown to people), `identity`
    the digest of the checkpoint, whatever it is computed with. `tolerance` is the largest difference of a
    score that batch mates may cause with this engine;
    `layout` says how a forward pass lays out its texts: `packed` end to end in one row (no padding,
    cost follows the sum of the lengths) or `padded` to the longest (cost follows count x longest).
    `precision` is that of the weights where they are int8, else that of the arithmetic. `fallback_reason`
    says why this is not the setting that was asked for; it is empty when it is. `proof` is how it was proven.
    `reference` says what texts and answers looked like when the model was evaluated, if that is known.
    """

    name: str
    revision: str
    labels: tuple[str, ...]
    max_tokens: int
    multi_label: bool
    engine: Engine
    precision: Precision
    layout: Layout
    parameters: int
    tolerance: float
    identity: str
    arithmetic: Arithmetic = "f32"
    fallback_reason: str = ""
    proof: Verdict | None = None
    reference: DriftReference | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the model reads it: token ids including the special ones, at most `max_tokens` of them."""

    ids: Sequence[int]
    truncated: bool
    unknown: int

    def __len__(self) -> int:
        return len(self.ids)


class Classifier(Protocol):
    """A loaded, verified model. Not thread-safe in `classify`; `tokenize` may run beside it."""

    @property
    def info(self) -> ModelInfo: ...

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, truncated to `info.max_tokens`. Releases the GIL."""

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """One forward pass: scores of shape (len(batch), len(info.labels)), in order.

        Softmax over labels, or a sigmoid each when `info.multi_label`. An empty batch gives [].
        The caller chooses which texts share a pass (see `batcher.worker.batching`).
        """

    def close(self) -> None:
        """Free what the engine holds. Idempotent."""
