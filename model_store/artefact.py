"""An artefact: a directory with a model prepared for one engine, and a manifest that pins every byte of it.

    manifest.json    format, revision, labels, engine, ..., SHA-256 and size of each other file
    tokenizer.json   the model's tokenizer
    openvino: model.xml, model.bin       torch: config.json, model.safetensors

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from model_store.classifier import Engine, Precision
from model_store.errors import ModelCorrupt, ModelUnsupported

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
# Raised when the same checkpoint would be built into different bytes.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class FileDigest:
    """What one file must be."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Gate:
    """Outcome of the accuracy gate: how far the artefact follows the checkpoint in torch f32."""

    rows: int
    agreement: float
    accuracy: float
    reference_accuracy: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artefact is. `rows` says that its graph takes packed rows (see `model_store.rows`)."""

    name: str
    revision: str
    source: str
    labels: tuple[str, ...]
    multi_label: bool
    max_tokens: int
    temperature: float
    engine: Engine
    precision: Precision
    rows: bool
    parameters: int
    tolerance: float
    files: dict[str, FileDigest]
    gate: Gate | None = None
    format: int = FORMAT


def digest(path: Path) -> FileDigest:
    """SHA-256 and size of a file. Raises ModelCorrupt where it cannot be read."""
    try:
        with path.open("rb") as file:
            return FileDigest(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
    except OSError as error:
        raise ModelCorrupt(f"{path} is missing or cannot be read: {error.strerror}.") from error


def revision(files: Iterable[Path], engine: str, precision: str) -> str:
    """The digest that names an artefact: of the checkpoint's bytes and of how they are prepared."""
    sources = {path.name: digest(path).sha256 for path in files}
    named = {"format": FORMAT, "engine": engine, "precision": precision, "files": sources}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest into the artefact directory `path`."""
    (path / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", "utf-8")


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the artefact at `path`. Raises ModelCorrupt or ModelUnsupported."""
    try:
        content: dict[str, Any] = json.loads((path / MANIFEST).read_text("utf-8"))
        if content["format"] != FORMAT:
            raise ModelUnsupported(
                f"{path} has artefact format {content['format']}, not {FORMAT}: build it again."
            )
        known = {field.name for field in fields(Manifest)}
        values = {key: value for key, value in content.items() if key in known}
        values["labels"] = tuple(values["labels"])
        values["files"] = {name: FileDigest(**pinned) for name, pinned in values["files"].items()}
        values["gate"] = Gate(**values["gate"]) if values.get("gate") else None
        return Manifest(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{path / MANIFEST} cannot be read: {error}.") from error


def verify(path: Path) -> Manifest:
    """Check every byte of the artefact at `path`. Raises ModelCorrupt naming the first file that differs."""
    manifest = read_manifest(path)
    for name, expected in manifest.files.items():
        check(path / name, expected.sha256)
    return manifest


def check(path: Path, sha256: str) -> None:
    """Raise ModelCorrupt, naming the file, if its bytes are not those with this digest."""
    if digest(path).sha256 != sha256:
        raise ModelCorrupt(f"{path} is corrupt: its SHA-256 is not the recorded one.")


def seal(path: Path, names: Iterable[str]) -> None:
    """Write SHA256SUMS (as sha256sum does) over files of `path`, for `check_seal`."""
    lines = [f"{digest(path / name).sha256}  {name}\n" for name in sorted(names)]
    (path / SUMS).write_text("".join(lines), "utf-8")


def check_seal(path: Path) -> list[str]:
    """Check every file that SHA256SUMS lists, and return their names: none where there is no such file.

    Raises ModelCorrupt naming the first file that differs.
    """
    if not (path / SUMS).exists():
        return []
    lines = [line.partition("  ") for line in (path / SUMS).read_text("utf-8").splitlines()]
    for sha256, _, name in lines:
        check(path / name, sha256)
    return [name for _, _, name in lines]
