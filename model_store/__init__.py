"""Finds, pins, verifies, prepares and runs models. Independent of the queue and of HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model_store import phases, telemetry  # noqa: F401  # telemetry before any library of models
from model_store.abstain import Abstaining
from model_store.classifier import Classifier, Layout, ModelInfo, Precision, Verdict
from model_store.errors import ModelError
from model_store.tokens import Tokens
from model_store.windows import MAX_TOKENS, MAX_WINDOWS, Windows, read_windows

if TYPE_CHECKING:
    from model_store.rows import RowClassifier

__all__ = [
    "Classifier",
    "Layout",
    "ModelError",
    "ModelInfo",
    "Precision",
    "Tokens",
    "Verdict",
    "Windows",
    "load",
]


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
    abstain: float = 0.0,
    text_windows: str = "",
    max_windows: int = MAX_WINDOWS,
    max_tokens: int = MAX_TOKENS,
    name: str = "",
    on_phase: Callable[[str], None] | None = None,
) -> Classifier:
    """Load the model that `reference` names, after verifying the digest of each of its files.

    `default` is the embedded model, and `stub` a classifier without a model (`stub@NAME` has another
    revision). Any other reference is a directory (from Hugging Face, or a built artefact) or
    `org/name@commit`, which must have been pulled. A checkpoint is built into an artefact under
    `artefact_dir` the first time it is loaded. With `threads=0`, all cores that this process may use are
    used. The engine must pass its proof on the artefact's probes with these threads; `info` says which
    arithmetic passed (see `model_store.choosing`). With `abstain` above 0.5, a third label has the highest
    score if neither of the two reaches it (see `model_store.abstain`). `text_windows` says how long texts are
    read, instead of the model's config (see `model_store.windows`), and of others at most `max_tokens` are
    read. `name` replaces that of the model.
    `on_phase` is called with what the loading does next. Raises ModelError, in one sentence, if any step
    fails.
    """
    phases.begin(on_phase)
    kind, _, variant = reference.partition("@")
    if kind == "stub" or engine == "stub":
        from model_store.stub import StubClassifier

        variant = variant if kind == "stub" else ""
        classifier: StubClassifier | RowClassifier = StubClassifier(
            batch_ms=stub_batch_ms, token_ms=stub_token_ms, variant=variant
        )
    else:
        from model_store.choosing import LoadOptions, load_proven

        options = LoadOptions(reference, engine, precision, layout, threads, artefact_dir.expanduser())
        classifier = load_proven(options)
    classifier.limit(max_tokens)
    setting = text_windows or classifier.text_windows
    if windows := read_windows(setting, most=max_windows, max_tokens=classifier.info.max_tokens):
        classifier.read_in(windows, evaluated=setting == classifier.text_windows)
    elif classifier.text_windows:  # the reference for drift is without long texts
        classifier.info = replace(classifier.info, reference=None)
    if name:
        classifier.info = replace(classifier.info, name=name)
    return Abstaining(classifier, abstain) if abstain else classifier
