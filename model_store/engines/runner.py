"""Opens an artefact in its engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from model_store.artefact import TOKENIZER, Manifest
from model_store.classifier import Arithmetic, ModelInfo
from model_store.drift_reference import read_reference
from model_store.errors import EXTRAS, EngineUnavailable
from model_store.hardware import cores
from model_store.probes import read_probes
from model_store.proof import BATCH_TOKENS, limits
from model_store.rows import RowClassifier, Runner, Tokenizer

# Tokens of a full batch on a card, which takes as long for a few as for these.
CARD_TOKENS = 4096
LayoutChoice = Literal["auto", "packed", "padded"]


def open_verified(
    path: Path,
    manifest: Manifest,
    *,
    arithmetic: Arithmetic,
    layout: LayoutChoice = "auto",
    threads: int = 0,
) -> RowClassifier:
    """Load an artefact that `verify` has already checked, without a proof. Raises ModelError."""
    if layout == "packed" and not manifest.rows:
        raise EngineUnavailable(
            f"{manifest.name} cannot be packed: its architecture supports only padded rows."
        )
    if layout == "auto":
        layout = "packed" if manifest.rows else "padded"
    runner = make_runner(path, manifest, threads or cores(), arithmetic)
    probes = read_probes(path)
    info = ModelInfo(
        name=manifest.name,
        revision=manifest.revision,
        labels=manifest.labels,
        max_tokens=manifest.max_tokens,
        multi_label=manifest.multi_label,
        engine=manifest.engine,
        precision="int8" if manifest.weights == "int8" else arithmetic,
        layout=layout,
        parameters=manifest.parameters,
        tolerance=limits(manifest.weights, arithmetic, probes.rounding).batched,
        identity=manifest.identity,
        arithmetic=arithmetic,
        reference=read_reference(path),
        device=runner.device,
        full_tokens=CARD_TOKENS if runner.device else BATCH_TOKENS,
        examples=manifest.examples,
    )
    tokenizer = Tokenizer(path / TOKENIZER, manifest.max_tokens, threads=bool(runner.device))
    return RowClassifier(info, tokenizer, runner, probes, manifest)


def make_runner(path: Path, manifest: Manifest, threads: int, arithmetic: Arithmetic) -> Runner:
    """Open an artefact in its engine. Raises EngineUnavailable if the engine is not installed."""
    try:
        if manifest.engine == "openvino":
            from model_store.engines.openvino_ir import OpenVinoRunner

            return OpenVinoRunner(path, manifest, threads=threads, arithmetic=arithmetic)
        from model_store.engines.pytorch import TorchRunner

        return TorchRunner(path, manifest, threads=threads, arithmetic=arithmetic)
    except ImportError as error:
        extra = EXTRAS[manifest.engine]
        raise EngineUnavailable(
            f"{path} needs {error.name}, which is not installed: pip install 'millrace-server[{extra}]'."
        ) from error
