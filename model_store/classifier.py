"""The interface between the worker and an engine: one prediction per text, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Literal, Protocol, Self

from model_store.drift_reference import DriftReference
from model_store.tokens import Tokens
from model_store.windows import Windows

Engine = Literal["torch", "openvino"]
Precision = Literal["f32", "bf16", "int8"]
# How an artefact stores its weights, and the arithmetic in which an engine computes.
Weights = Literal["float", "int8"]
Arithmetic = Literal["f32", "bf16"]
Layout = Literal["packed", "padded"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of a proof: `reason` says what failed, and is empty if the proof passed.

    `answers` is the largest difference of a score from the sealed answers, and `batched` from the score of
    the same text alone. `agreement` is the share of answers with the sealed label, and `flips` counts
    labels that changed beyond the margin.
    """

    batches: int
    answers: float
    batched: float
    agreement: float
    flips: int
    seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Describes a loaded model.

    `revision` is the digest that identifies its answers (usually shown as the first 12 hex digits), and
    `identity` that of the checkpoint and of settings that change answers, regardless of engine and precision.
    `tolerance` is the largest difference in a score that other texts of a batch may cause. `layout` says how
    a batch is laid out:
    `packed` end to end in rows (the cost follows the sum of the lengths), or `padded` to the longest text
    (the cost follows count x longest). `precision` is int8 for int8 weights, otherwise the arithmetic.
    `fallback_reason` says why the requested setting is not used; it is empty if it is. `proof` is the outcome
    of the proof. `reference` is the distribution of texts and predictions of its evaluation, if there is one.
    `windows` says how longer texts are read; None: they are cut at `max_tokens`. `device` names the card that
    computes; it is empty for the processor. A batch of `full_tokens` tokens is large enough to use it well.
    `examples` are texts to try it with.
    """

    name: str
    revision: str
    labels: tuple[str, ...]
    max_tokens: int
    multi_label: bool
    engine: Engine | Literal["stub"]
    precision: Precision
    layout: Layout
    parameters: int
    tolerance: float
    identity: str
    arithmetic: Arithmetic = "f32"
    fallback_reason: str = ""
    proof: Verdict | None = None
    reference: DriftReference | None = None
    windows: Windows | None = None
    device: str = ""
    full_tokens: int = 512
    examples: tuple[str, ...] = ()

    def under(self, setting: str, **changes: Any) -> Self:
        """This model under a setting that changes its answers: another revision of another identity."""
        revision, identity = (
            sha256(f"{digest} {setting}".encode()).hexdigest() for digest in (self.revision, self.identity)
        )
        return replace(self, revision=revision, identity=identity, **changes)


class Classifier(Protocol):
    """A loaded, verified model. `classify` is not thread-safe, but `tokenize` may run at the same time."""

    @property
    def info(self) -> ModelInfo: ...

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, truncated to `info.max_tokens`. Releases the GIL."""

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """Run one forward pass. Returns scores of shape (len(batch), len(info.labels)), in order.

        Scores are a softmax over the labels, or a sigmoid of each if `info.multi_label`. An empty batch
        returns []. The caller chooses which texts share a batch (see `batcher.worker.inference`).
        """

    def close(self) -> None:
        """Free the engine's resources. Idempotent."""
