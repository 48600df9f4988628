"""The model: found, pinned, verified, prepared, run. Knows nothing of queues or HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from model_store.classifier import Classifier, Layout, ModelInfo, Precision, Tokens, Verdict
from model_store.errors import ModelError

__all__ = ["Classifier", "Layout", "ModelError", "ModelInfo", "Precision", "Tokens", "Verdict", "load"]


def load(
    reference: str,
    *,
    engine: Literal["auto", "torch", "openvino", "stub"] = "auto",
    precision: Literal["auto", "f32", "bf16", "int8"] = "auto",
    layout: Literal["auto", "packed", "padded"] = "auto",
    threads: int = 0,
    artefact_dir: Path = Path("~/.cache/millrace"),
    stub_batch_ms: float = 0.0,
    stub_token_ms: float = 0.0,
) -> Classifier:
    """Load what `reference` names, verified to the last byte.

    `default` is the embedded model and `stub` a classifier without a model (`stub@NAME`: under another
    revision); otherwise a directory (a Hugging Face one or a built artefact) or `org/name@commit`, which
    must have been pulled. What is not an artefact yet is built into one under `artefact_dir` the first
    time. `threads` 0 means the cores this process may use. The engine proves itself on the artefact's
    probes, with these threads; `info` says with which arithmetic it did (see `model_store.choosing`). Raises
    a ModelError of one sentence where any of this is not possible.
    """
    kind, _, variant = reference.partition("@")
    if kind == "stub" or engine == "stub":
        from model_store.stub import StubClassifier

        variant = variant if kind == "stub" else ""
        return StubClassifier(batch_ms=stub_batch_ms, token_ms=stub_token_ms, variant=variant)

    from model_store.choosing import Wanted, load_proven

    wanted = Wanted(reference, engine, precision, layout, threads, artefact_dir.expanduser())
    return load_proven(wanted)
