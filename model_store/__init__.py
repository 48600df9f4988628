"""The model: found, pinned, verified, prepared, run. Knows nothing of queues or HTTP."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from model_store.classifier import Classifier, Layout, ModelInfo, Precision, Tokens
from model_store.errors import ModelError, ModelNotFound

__all__ = ["Classifier", "Layout", "ModelError", "ModelInfo", "Precision", "Tokens", "load"]

DEFAULT = Path(__file__).parent / "default"


def load(
    reference: str,
    *,
    engine: Literal["auto", "torch", "openvino", "stub"] = "auto",
    precision: Literal["auto", "f32", "bf16", "int8"] = "auto",
    threads: int = 0,
    artefact_dir: Path = Path("~/.cache/millrace"),
    stub_batch_ms: float = 0.0,
    stub_token_ms: float = 0.0,
) -> Classifier:
    """Load what `reference` names.

    `default` is the embedded model, `stub` a classifier without a model; otherwise a directory (a Hugging
    Face one or a built artefact) or `org/name@revision`, which must have been pulled. `threads` 0 means the
    cores this process may use. Raises a ModelError of one sentence where that is not possible.
    """
    if reference == "stub" or engine == "stub":
        from model_store.stub import StubClassifier

        return StubClassifier(batch_ms=stub_batch_ms, token_ms=stub_token_ms)

    from model_store.engines.pytorch import TorchClassifier
    from model_store.hardware import cores, has_bf16

    path = DEFAULT if reference == "default" else Path(reference).expanduser()
    if not path.is_dir():
        raise ModelNotFound(f"There is no directory {path}.")
    digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    chosen: Precision = ("bf16" if has_bf16() else "f32") if precision == "auto" else precision
    return TorchClassifier(
        path, name=path.name, revision=digest, precision=chosen, threads=threads or cores()
    )
