"""An artefact: a directory with a model prepared for one engine, and a manifest that pins every file.

    manifest.json    format, revision, labels, engine, ..., SHA-256 and size of each other file
    tokenizer.json   the model's tokenizer
    probes.json      texts and their expected answers, on which each worker proves its engine
    openvino: model.xml, model.bin       torch: config.json, model.safetensors

A manifest with other values than its dataclass says is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, TypeAdapter

from model_store.classifier import Engine, Verdict, Weights
from model_store.errors import ModelCorrupt, ModelUnsupported, invalid, shown
from model_store.inputs import PLAIN, Inputs

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
PROBES = "probes.json"
TOKENIZER = "tokenizer.json"
# Increase this when the same checkpoint is built into different files.
FORMAT = 6
# Increase this when an artefact built from the same checkpoint gives different answers.
ANSWERS = 3

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]

_REQUIRED: dict[Engine, tuple[str, ...]] = {
    "openvino": ("model.xml", "model.bin", TOKENIZER, PROBES),
    "torch": ("config.json", TOKENIZER, PROBES),
}
# Bytes of a model's name in the name of its directory, which has 40 more while it is built.
_MAX_NAME = 200
# A line of `sha256sum`, which marks binary files with a star.
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
# Types of files that an engine may open on its own, even if they are not in the manifest.
_READ_BY_ENGINES = (".json", ".safetensors", ".bin", ".xml", ".pt", ".model", ".txt")


@dataclass(frozen=True, slots=True)
class FileDigest:
    sha256: Sha256
    size: Count


@dataclass(frozen=True, slots=True)
class Gate:
    """Outcome of the accuracy gate on labelled texts: how closely the artefact follows torch f32.

    `agreement` and `accuracy` are the lower of two runs, each text alone and all texts in batches;
    `same_alone` is the share of texts that have the same label in both.
    """

    rows: int
    agreement: float
    accuracy: float
    reference_accuracy: float
    same_alone: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """Describes an artefact. `rows` says that its graph accepts packed rows (see `model_store.rows`).

    `identity` is the digest of the checkpoint's files; `revision` also covers the kind of weights. `proof`
    is the outcome of the gate on the sealed probes, which every int8 build must pass. `text_windows` is the
    setting in the model's config (see `model_store.windows`), and `examples` are texts of its card.
    """

    name: str
    revision: Sha256
    identity: Sha256
    source: str
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    multi_label: bool
    max_tokens: Annotated[int, Field(gt=0)]
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    engine: Engine
    weights: Weights
    rows: bool
    parameters: Count
    files: dict[str, FileDigest]
    gate: Gate | None = None
    proof: Verdict | None = None
    text_windows: str = ""
    inputs: Inputs = PLAIN
    examples: tuple[str, ...] = ()
    format: int = FORMAT


_MANIFEST = TypeAdapter(Manifest)


def digest(path: Path) -> FileDigest:
    """SHA-256 and size of a file. Raises ModelCorrupt if it cannot be read."""
    try:
        with path.open("rb") as file:
            return FileDigest(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
    except OSError as error:
        raise ModelCorrupt(f"{path} is missing or cannot be read: {error.strerror}.") from error


def identity(files: Iterable[Path]) -> str:
    """The digest of a checkpoint's files, which identifies the model regardless of engine and precision."""
    return _digest_of({path.name: digest(path).sha256 for path in files})


def revision(identity: str, weights: Weights) -> str:
    """The digest that identifies an artefact's answers; engines and arithmetics that agree share it."""
    return _digest_of({"answers": ANSWERS, "weights": weights, "checkpoint": identity})


def revision_in(revision: str, arithmetic: str) -> str:
    """The revision for an arithmetic whose answers differ by more than `proof.SAME_ANSWERS`."""
    return _digest_of({"revision": revision, "arithmetic": arithmetic})


def _digest_of(named: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def file_name(name: str) -> str:
    """A model's name as the first part of a directory's name, of which file systems take 255 bytes."""
    slug = name.replace("/", "--")
    if len(whole := os.fsencode(slug)) <= _MAX_NAME:
        return slug
    return f"{whole[: _MAX_NAME - 13].decode('utf-8', 'ignore')}-{hashlib.sha256(whole).hexdigest()[:12]}"


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest into the artefact directory `path`."""
    (path / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", "utf-8")


def has_manifest(path: Path) -> bool:
    """Whether `path` has an artefact of this format; one of another format must be built again."""
    try:
        content = json.loads((path / MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError, RecursionError):
        return True  # reading it later reports what is wrong
    return not isinstance(content, dict) or content.get("format") == FORMAT


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the artefact at `path`. Raises ModelCorrupt or ModelUnsupported."""
    try:
        raw = (path / MANIFEST).read_bytes()
        content = json.loads(raw)
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise ModelUnsupported(
                f"{path} has artefact format {shown(content['format'])}, not {FORMAT}: build it again with "
                "python -m model_store build."
            )
        return _MANIFEST.validate_json(raw, strict=True)
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(path, f"{path / MANIFEST} cannot be read: {invalid(error)}") from error


def verify(path: Path) -> Manifest:
    """Check every file of the artefact at `path`. Raises ModelCorrupt naming the first one that differs.

    The manifest must list every file that its engine reads, and no file outside the directory.
    """
    manifest = read_manifest(path)
    try:
        for name in _missing(manifest):
            raise ModelCorrupt(f"{path / MANIFEST} does not list {name}: the artefact is incomplete.")
        for name, expected in manifest.files.items():
            check(inside(path, name), expected.sha256)
    except ModelCorrupt as error:
        raise _broken(path, str(error).removesuffix(".")) from error
    for found in sorted(path.iterdir()):
        if found.suffix in _READ_BY_ENGINES and found.name not in {*manifest.files, MANIFEST}:
            raise ModelCorrupt(f"{found} is not in the manifest: remove it, or build the artefact again.")
    return manifest


def _broken(path: Path, seen: str) -> ModelCorrupt:
    return ModelCorrupt(f"{seen}; remove {path}: it is built again, by the next start or model_store build.")


def _missing(manifest: Manifest) -> Iterator[str]:
    yield from (name for name in _REQUIRED[manifest.engine] if name not in manifest.files)
    if manifest.engine == "torch" and not any(name.endswith(".safetensors") for name in manifest.files):
        yield "model.safetensors"


def inside(path: Path, name: str) -> Path:
    """The file `name` in the directory `path`. Raises ModelCorrupt for a name that points outside it."""
    if Path(name).name != name or name in ("", "..") or "\\" in name or "\0" in name:
        raise ModelCorrupt(f"{path} names a file outside its directory: {name!r}.")
    return path / name


def check(path: Path, sha256: str) -> None:
    """Raise ModelCorrupt, naming the file, if its digest differs from `sha256`."""
    if digest(path).sha256 != sha256:
        raise ModelCorrupt(f"{path} is corrupt: its SHA-256 is not the recorded one.")


def seal(path: Path, names: Iterable[str]) -> None:
    """Write SHA256SUMS for files of `path`, in the format of sha256sum, for `check_seal`."""
    lines = [f"{digest(path / name).sha256}  {name}\n" for name in sorted(names)]
    (path / SUMS).write_text("".join(lines), "utf-8")


def check_seal(path: Path) -> list[str]:
    """Check every file that SHA256SUMS lists, and return their names; an empty list without SHA256SUMS.

    Raises ModelCorrupt naming the first file that differs.
    """
    sums, names = path / SUMS, list[str]()
    if not sums.exists():
        return names
    try:
        lines = sums.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ModelCorrupt(f"{sums} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not (found := _SUM.fullmatch(line)):
            raise ModelCorrupt(
                f"{sums}, line {number}, is not a SHA-256, two spaces and a name: write the file again with "
                "python -m model_store seal."
            )
        check(inside(path, found[2]), found[1].lower())
        names.append(found[2])
    return names
