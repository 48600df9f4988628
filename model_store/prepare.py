"""Finds the artefact for a reference on this machine, or builds it once and keeps it.

The artefact directory contains:
    artefacts/<name>-<engine>-<weights>-<revision>/   what `load` built from a checkpoint
    hub/<org>/<name>@<commit>/                        what `pull` fetched
    choices/<revision>-<engine>-<processor>.json      the arithmetic chosen for a kind of processor
    choices/<revision>-proven-<setup>.json            the outcome of the whole proof of a setting
    choices/<revision>-<engine>-refused-<setup>.json  why int8 weights failed their gate with these libraries
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from model_store import artefact, hardware
from model_store.artefact import Manifest
from model_store.checkpoint import Checkpoint, read_checkpoint
from model_store.classifier import Engine, Weights
from model_store.errors import EXTRAS, EngineUnavailable, GateFailed, ModelError, ModelNotFound

log = logging.getLogger(__name__)

EngineChoice = Literal["auto", "torch", "openvino"]
PrecisionChoice = Literal["auto", "f32", "bf16", "int8"]

# What decides how int8 weights are made and computed, beside the processor.
_LIBRARIES = ("openvino", "nncf", "torch", "transformers", "tokenizers")
DEFAULT = Path(__file__).parent / "default"
_HUB_REFERENCE = re.compile(r"(?P<org>[\w.-]+)/(?P<name>[\w.-]+)@(?P<commit>[0-9a-f]{7,40})")


def locate(reference: str, artefact_dir: Path) -> tuple[str, Path]:
    """The model's name and directory. Raises ModelNotFound, which says what to do."""
    if reference == "default":
        if not DEFAULT.is_dir():
            raise ModelNotFound(
                "The default model is not installed: install millrace-server-model, or choose another model."
            )
        return "default", DEFAULT
    path = Path(reference).expanduser()
    if path.is_dir():
        return path.resolve().name, path
    hub = _HUB_REFERENCE.fullmatch(reference)
    if hub:
        return f"{hub['org']}/{hub['name']}", _pulled(reference, hub, artefact_dir)
    pull = "`millrace pull"
    if "@" in reference:
        raise ModelNotFound(
            f"{reference} is not a pinned reference: write org/name@ and a commit hash; "
            f"{pull} {reference}` prints it."
        )
    advice = ""
    if reference[:1] not in ("/", ".", "~"):
        repository = reference if "/" in reference else f"ORG/{reference}"
        advice = f" A model of the Hugging Face Hub is fetched with {pull} {repository}@main`."
    raise ModelNotFound(
        f"{reference} is not a directory, and not default, stub or org/name@commit either.{advice}"
    )


def check_source(reference: str, artefact_dir: Path) -> Path:
    """The directory of a model, after the checks that need neither its weights nor an engine.

    Raises ModelError.
    """
    from model_store.tokenizer_files import require_vocabulary  # imports tokenizers

    _, path = locate(reference, artefact_dir)
    if not (path / artefact.MANIFEST).is_file():
        read_checkpoint(path)
        require_vocabulary(path)
    return path


def hub_directory(artefact_dir: Path, repository: str, commit: str) -> Path:
    """The default directory of a repository that `pull` has fetched at a commit."""
    return artefact_dir / "hub" / f"{repository}@{commit}"


def prepare(reference: str, engine: EngineChoice, precision: PrecisionChoice, artefact_dir: Path) -> Path:
    """The artefact for `reference`. A checkpoint is built into an artefact the first time.

    Safe if several processes start at once: one builds, and the others wait for it. Raises ModelError, and
    GateFailed without building again if these weights failed their gate before with the same libraries.
    """
    name, path = locate(reference, artefact_dir)
    if (path / artefact.MANIFEST).is_file():
        _check_choice(path, artefact.read_manifest(path), engine, precision)
        return path
    artefact.check_seal(path)
    checkpoint = read_checkpoint(path)
    chosen, weights = choose(engine, precision)
    content = artefact.identity(checkpoint.files())
    named = artefact.revision(content, weights)
    out = artefact_dir / "artefacts" / f"{artefact.file_name(name)}-{chosen}-{weights}-{named[:12]}"
    if artefact.has_manifest(out):
        return out
    with locked(out):
        if not artefact.has_manifest(out):
            if (out / artefact.MANIFEST).is_file():
                log.warning("%s has another format: building it again", out, extra={"action": "model.build"})
            with _gate_remembered(_refusal(artefact_dir, named, chosen)):
                _build(checkpoint, out, name, chosen, weights, content)
    return out


def choose(engine: EngineChoice, precision: PrecisionChoice) -> tuple[Engine, Weights]:
    """The engine that `auto` selects here, and the weights of a precision; f32 and bf16 share weights.

    Raises EngineUnavailable if the engine or the precision is not available.
    """
    if engine == "auto":
        openvino = find_spec("openvino") or not find_spec("torch")
        engine = "openvino" if openvino and (precision == "int8" or not hardware.card()) else "torch"
    if not find_spec(engine):
        raise EngineUnavailable(
            f"{engine} is not installed: pip install 'millrace-server[{EXTRAS[engine]}]'."
        )
    if engine == "torch" and precision == "int8":
        raise EngineUnavailable(
            "The torch engine does not support int8; use engine openvino, or precision bf16 or f32."
        )
    return engine, weights_of(precision)


def weights_of(precision: PrecisionChoice) -> Weights:
    """How an artefact for this precision stores its weights."""
    return "int8" if precision == "int8" else "float"


def _check_choice(path: Path, manifest: Manifest, engine: EngineChoice, precision: PrecisionChoice) -> None:
    fits = precision == "auto" or weights_of(precision) == manifest.weights
    if engine not in ("auto", manifest.engine) or not fits:
        raise EngineUnavailable(
            f"{path} was built for {manifest.engine} with {manifest.weights} weights, "
            f"not for {engine} {precision}."
        )


def _build(
    checkpoint: Checkpoint, out: Path, name: str, engine: Engine, weights: Weights, content: str
) -> None:
    missing = [package for package in _needed(checkpoint, engine, weights) if not find_spec(package)]
    if missing:
        raise EngineUnavailable(
            f"{checkpoint.path} has not been built for {engine} with {weights} weights, and this machine "
            f"lacks {' and '.join(missing)} to build it: pip install 'millrace-server[build]' "
            "(in a checkout: `make install`), or run `python -m model_store build` on another one."
        )
    from model_store.build import build

    # The directory of one revision must not get the model of another: `build` compares.
    build(checkpoint.path, out, name=name, engine=engine, weights=weights, content=content)


def _needed(checkpoint: Checkpoint, engine: Engine, weights: Weights) -> list[str]:
    """The packages that a build needs and a worker does not."""
    from model_store.probing import sealed_probes

    needed = ["nncf"] if weights == "int8" else []
    if engine == "torch" or not checkpoint.packable or sealed_probes(checkpoint) is None:
        return [*needed, "torch", "transformers"]
    return needed if (checkpoint.path / artefact.TOKENIZER).is_file() else [*needed, "transformers"]


def _pulled(reference: str, hub: re.Match[str], artefact_dir: Path) -> Path:
    prefix = hub_directory(artefact_dir, f"{hub['org']}/{hub['name']}", hub["commit"])
    found = sorted(prefix.parent.glob(f"{prefix.name}*"))
    if not found:
        raise ModelNotFound(
            f"{reference} has not been pulled; run: millrace pull {reference} --artefact-dir {artefact_dir}"
        )
    if len(found) > 1:
        raise ModelNotFound(f"{reference} matches {len(found)} pulled commits; give more of the hash.")
    return found[0]


def remember(path: Path, content: Mapping[str, object]) -> None:
    """Writes a JSON file atomically, so that the next start need not find out again.

    Ignores a read-only directory.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(content), "utf-8")
        scratch.replace(path)


def remembered(path: Path) -> Any:
    """What `remember` has written; None if there is nothing, or it is damaged."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_text("utf-8"))


def _refusal(artefact_dir: Path, named: str, engine: Engine) -> Path:
    """The file that exists if int8 weights of this revision failed their gate on such a machine."""
    setup = [hardware.processor()]
    for library in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            setup.append(f"{library} {version(library)}")
    kind = sha256("\n".join(setup).encode()).hexdigest()[:12]
    return artefact_dir / "choices" / f"{named[:12]}-{engine}-refused-{kind}.json"


@contextmanager
def _gate_remembered(refusal: Path) -> Iterator[None]:
    """Raises the GateFailed that `refusal` contains, or stores there the one that is raised."""
    match remembered(refusal):
        case {"reason": str(known)}:
            log.info("not built again: %s", known, extra={"action": "model.refused", "file": str(refusal)})
            raise GateFailed(known)
    try:
        yield
    except GateFailed as error:
        remember(refusal, {"reason": str(error)})
        raise


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of one artefact, which the kernel releases if this process dies."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = (out.parent / f".{out.name}.lock").open("w")
    except OSError as error:
        raise ModelError(
            f"{out.parent} cannot be written to: {error.strerror}; "
            "MILLRACE_ARTEFACT_DIR or --artefact-dir names another directory."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
