"""Builds an artefact from a Hugging Face directory: converts, checks, pins and then publishes it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from model_store import artefact
from model_store.artefact import Gate, Manifest
from model_store.calibration_texts import CALIBRATION_TEXTS
from model_store.checkpoint import CONFIG, Checkpoint, read_checkpoint, weight_files
from model_store.classifier import Engine, Weights
from model_store.drift_reference import REFERENCE
from model_store.errors import GateFailed, ModelCorrupt, ModelError, ModelUnsupported, first_line
from model_store.inputs import Inputs
from model_store.model_card import examples
from model_store.phases import phase
from model_store.probes import write_probes
from model_store.probing import compute_probes, gate_int8, sealed_probes
from model_store.rows import Tokenizer
from model_store.tokenizer_files import check_tokenizer, copy_tokenizer, require_vocabulary, write_tokenizer
from model_store.weights import Safetensors

log = logging.getLogger(__name__)
# Compares an unfinished artefact with the checkpoint it was built from.
Check = Callable[[Path, Manifest, Checkpoint], Gate]


def build(
    source: Path,
    out: Path,
    *,
    name: str,
    engine: Engine,
    weights: Weights = "float",
    content: str = "",
    check: Check | None = None,
    force: bool = False,
) -> Manifest:
    """Build the checkpoint at `source` into an artefact at `out`, which is created atomically.

    Raises ModelError if the checkpoint cannot be built, and GateFailed if int8 weights answer the sealed
    probes differently or `check` fails. With `force` the artefact is kept, and its manifest records the
    failure. `content` is the identity of the checkpoint that is meant, if it is known. The caller holds
    `prepare.locked(out)`.
    """
    checkpoint = read_checkpoint(source)
    require_vocabulary(source)
    tensors, named = Safetensors(source), content or artefact.identity(checkpoint.files())
    tensors.require_finite()
    scratch = out.parent / f".{out.name}.building"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        checkpoint, inputs = _write_files(checkpoint, scratch, engine, weights)
        if (source / REFERENCE).is_file():
            shutil.copyfile(source / REFERENCE, scratch / REFERENCE)
        manifest = Manifest(
            name=name,
            revision=artefact.revision(named, weights),
            identity=named,
            source=str(source),
            labels=checkpoint.labels,
            multi_label=checkpoint.multi_label,
            max_tokens=checkpoint.max_tokens,
            temperature=checkpoint.temperature,
            text_windows=checkpoint.text_windows,
            inputs=inputs,
            examples=examples(source),
            engine=engine,
            weights=weights,
            rows=checkpoint.packable,
            parameters=tensors.parameters,
            files={path.name: artefact.digest(path) for path in sorted(scratch.iterdir())},
        )
        artefact.write_manifest(scratch, manifest)
        if weights == "int8":
            manifest = gate_int8(scratch, manifest, force=force)
        if check:
            manifest = replace(manifest, gate=check(scratch, manifest, checkpoint))
            _require_passed(manifest, force=force)
            artefact.write_manifest(scratch, manifest)
        if artefact.identity(read_checkpoint(source).files()) != named:
            raise ModelCorrupt(
                f"{source} changed while it was being built; start again once its files are complete."
            )
        shutil.rmtree(out, ignore_errors=True)
        scratch.rename(out)
    except OSError as error:
        raise ModelError(f"{out} cannot be built: {error.strerror}: {error.filename}.") from error
    except ModelError:
        raise
    except Exception as error:  # libraries raise anything
        log.debug("a build failed", exc_info=error, extra={"action": "model.raised"})
        raise ModelUnsupported(
            f"{source}, a {checkpoint.architecture}, cannot be built for {engine} with {weights} weights "
            f"({first_line(error)}); MILLRACE_LOG_LEVEL=debug logs the traceback."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def require_replaceable(out: Path) -> None:
    """Raises ModelError if `out` is there and is neither an artefact nor an empty directory."""
    if not out.exists() and not out.is_symlink():
        return
    if (
        not out.is_dir()
        or out.is_symlink()
        or not ((out / artefact.MANIFEST).is_file() or not any(out.iterdir()))
    ):
        raise ModelError(f"{out} is not an artefact, so it is not replaced: choose another directory.")


def _require_passed(manifest: Manifest, *, force: bool) -> None:
    gate = manifest.gate
    if gate and not gate.passed and not force:
        raise GateFailed(
            f"{manifest.name} with {manifest.weights} weights on {manifest.engine} agrees with torch f32 on "
            f"{gate.agreement:.2%} of {gate.rows} texts, has an accuracy of {gate.accuracy:.2%} instead of "
            f"{gate.reference_accuracy:.2%}, and gives {gate.same_alone:.2%} the same label alone and in a "
            "batch, which is not accurate enough; --force keeps the artefact."
        )


def _write_files(
    checkpoint: Checkpoint, out: Path, engine: Engine, weights: Weights
) -> tuple[Checkpoint, Inputs]:
    """Write all files but the manifest. Returns the inputs, and the checkpoint with what its probes showed.

    A graph that needs neither texts nor torch is written beside the import of torch, which takes seconds.
    """
    beside = checkpoint.packable and engine == "openvino" and weights == "float"
    with ThreadPoolExecutor(1) as thread:
        arguments = out, engine, weights, Inputs(checkpoint.unnumbered)
        written = thread.submit(_write_model, checkpoint, *arguments) if beside else None
        checkpoint, inputs = _read_texts(checkpoint, out)
        if written and checkpoint.packable:
            written.result()
            return checkpoint, inputs
    phase(f"writing the model for {engine}")
    _write_model(checkpoint, out, engine, weights, inputs)
    return checkpoint, inputs


def _read_texts(checkpoint: Checkpoint, out: Path) -> tuple[Checkpoint, Inputs]:
    """Write the tokenizer and the probes. Returns the inputs, and the checkpoint with what these showed."""
    sealed, tokenizer = sealed_probes(checkpoint), out / artefact.TOKENIZER
    if sealed is not None and (checkpoint.path / artefact.TOKENIZER).is_file():
        types = None
        copy_tokenizer(checkpoint, out)
    else:
        types = write_tokenizer(checkpoint, out)
    check_tokenizer(tokenizer, checkpoint.vocabulary, checkpoint.max_tokens)
    # Graphs of packed rows have the sum of row 0.
    if types is not None and any((*types.before, types.own, *types.after)):
        checkpoint, sealed = replace(checkpoint, packable=False), None
    if sealed is None:
        probes, inputs = compute_probes(checkpoint, tokenizer, types)
    else:
        probes, inputs = sealed, Inputs(checkpoint.unnumbered)
    write_probes(out, probes)
    return replace(checkpoint, max_tokens=len(probes.tokens[-1])), inputs


def _write_model(checkpoint: Checkpoint, out: Path, engine: Engine, weights: Weights, inputs: Inputs) -> None:
    """Write the files that the engine loads."""
    if engine == "torch":
        for path in (checkpoint.path / CONFIG, *weight_files(checkpoint.path)):
            shutil.copyfile(path, out / path.name)
        return
    from model_store.engines.converter import convert

    needed = weights == "int8" or not checkpoint.packable
    tokens = Tokenizer(out / artefact.TOKENIZER, checkpoint.max_tokens)(CALIBRATION_TEXTS) if needed else []
    convert(checkpoint, out, inputs, weights=weights, calibration=tokens)
