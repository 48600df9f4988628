"""Fetches pinned checkpoints from the Hugging Face Hub, only the required files, and uploads checkpoints.


The hub states the commit and the digest of each file. Files are downloaded to a hidden folder next to the
target, where an interrupted pull resumes. Then the digests are compared and recorded in SHA256SUMS, and the
folder is renamed, so a folder with the target's name is always complete.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, errors, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling

# The hub's HTTP client is available under this name in every version, but not exported to type checkers.
from huggingface_hub.utils import build_hf_headers, httpx  # type: ignore[attr-defined]

from model_store.artefact import FileDigest, check_seal, digest, seal
from model_store.checkpoint import CONFIG, PICKLES, TOKENIZER_FILES, WEIGHTS, WEIGHTS_INDEX, read_checkpoint
from model_store.errors import ModelError, PullFailed, PushFailed
from model_store.model_card import CARD
from model_store.pickles import convert_pickle

ORIGIN = "origin.json"
COMMIT = re.compile(r"[0-9a-f]{40}")

_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")
# Files of a checkpoint that are uploaded beside its config, weights and tokenizer.
_OTHERS = (CARD, "report.html", "metrics.json", "reference.json")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit, and its files by name. Only large ones, in `lfs`, have a SHA-256."""

    repository: str
    commit: str
    files: Mapping[str, RepoSibling]

    @property
    def reference(self) -> str:
        return f"{self.repository}@{self.commit}"


def resolve(repository: str, revision: str) -> Snapshot:
    """Ask the hub for the commit of `revision` and its files. Raises PullFailed."""
    with one_sentence(repository, revision):
        commit = _full_hash(repository, revision)
        info = HfApi().model_info(repository, revision=commit, files_metadata=True)
    if not info.sha or not COMMIT.fullmatch(info.sha):
        raise PullFailed(f"The hub did not return the commit of {repository}@{revision}.")
    return Snapshot(repository, info.sha, {file.rfilename: file for file in info.siblings or ()})


def _full_hash(repository: str, revision: str) -> str:
    """Expands an abbreviated commit hash; returns anything else unchanged."""
    if not _SHORT_COMMIT.fullmatch(revision):
        return revision
    commits = [commit.commit_id for commit in HfApi().list_repo_commits(repository)]
    return next((commit for commit in commits if commit.startswith(revision)), revision)


def pull(snapshot: Snapshot, to: Path, *, convert: bool = False) -> None:
    """Download the required files of `snapshot` to the folder `to`. Resumes an interrupted pull.

    With `convert`, a repository that has only a pickle is converted to safetensors. Raises PullFailed,
    ModelUnsupported if the files are not a classifier, and ModelError if `to` contains something else.
    """
    if to.exists():
        if _origin(to) != snapshot.reference:
            raise ModelError(
                f"{to} exists and does not contain {snapshot.reference}: choose another with --to."
            )
        check_seal(to)
        return
    names = _needed(snapshot, convert=convert)
    scratch = to.parent / f".{to.name}.part"
    scratch.mkdir(parents=True, exist_ok=True)
    for name in names:
        _fetch(snapshot, name, scratch / name)
    if not {*PICKLES}.isdisjoint(names):
        convert_pickle(scratch)
        for name in names:
            if name.endswith((".bin", ".bin.index.json")):
                (scratch / name).unlink()
    checkpoint = read_checkpoint(scratch)
    (scratch / ORIGIN).write_text(json.dumps({"source": snapshot.reference}) + "\n", "utf-8")
    seal(scratch, [path.name for path in checkpoint.files()] + [ORIGIN])
    scratch.rename(to)


def _needed(snapshot: Snapshot, *, convert: bool) -> list[str]:
    """The names of the config, the tokenizer files, the card and one kind of weights."""
    if CONFIG not in snapshot.files:
        raise PullFailed(f"{snapshot.reference} has no {CONFIG}, so it is not a transformers model.")
    small = [name for name in (CONFIG, *TOKENIZER_FILES, CARD) if name in snapshot.files]
    if WEIGHTS in snapshot.files:
        return [*small, WEIGHTS]
    if WEIGHTS_INDEX in snapshot.files:
        return [*small, WEIGHTS_INDEX, *_shards(snapshot, "safetensors")]
    pickles = [name for name in PICKLES if name in snapshot.files]
    if not pickles:
        raise PullFailed(
            f"{snapshot.reference} has neither {WEIGHTS} nor {PICKLES[0]}, in one file or several."
        )
    if not convert:
        raise PullFailed(
            f"{snapshot.reference} has only a pickle checkpoint, which can run code when it is loaded; "
            "add --convert-pickle to convert it to safetensors in a separate process."
        )
    return [*small, *pickles, *_shards(snapshot, "bin")]


def _shards(snapshot: Snapshot, suffix: str) -> Iterator[str]:
    return (name for name in snapshot.files if _SHARD.fullmatch(name) and suffix in name)


def _fetch(snapshot: Snapshot, name: str, path: Path) -> None:
    """Download one file unless it exists already. Raises PullFailed if its digest is wrong."""
    file = snapshot.files[name]
    if path.exists() and _is_intact(file, path):
        return
    part = path.with_name(f"{path.name}.part")
    url = hf_hub_url(snapshot.repository, name, revision=snapshot.commit)
    with one_sentence(snapshot.repository, snapshot.commit, name), part.open("ab") as target:
        http_get(
            url,
            target,
            resume_size=target.tell(),
            headers=build_hf_headers(),
            expected_size=(file.lfs or file).size,
            displayed_filename=name,
        )
    if not _is_intact(file, part):
        part.unlink()
        raise PullFailed(f"{name} of {snapshot.reference} has the wrong size or digest; pull again.")
    part.rename(path)


def _is_intact(file: RepoSibling, path: Path) -> bool:
    found = digest(path)
    if file.lfs:
        return found == FileDigest(file.lfs.sha256, file.lfs.size)
    blob = hashlib.sha1(f"blob {found.size}\0".encode() + path.read_bytes(), usedforsecurity=False)
    return found.size == file.size and blob.hexdigest() == file.blob_id


def _origin(path: Path) -> str | None:
    try:
        content: dict[str, Any] = json.loads((path / ORIGIN).read_text("utf-8"))
        return str(content["source"])
    except (OSError, ValueError, KeyError):
        return None


@contextmanager
def one_sentence(
    repository: str, revision: str, file: str | None = None, *, upload: bool = False
) -> Iterator[None]:
    """Turn errors of the hub's client into PullFailed with one sentence."""
    what = f"{file} of {repository}" if file else repository
    cannot = f"{what} cannot be {'pushed' if upload else 'fetched'}"
    try:
        yield
    except (errors.HFValidationError, httpx.HTTPError, OSError) as error:
        doing, again = ("upload", "push again") if upload else ("download", "pull again to resume it")
        status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
        said: Mapping[Any, str] = {
            errors.OfflineModeIsEnabled: f"{cannot}: HF_HUB_OFFLINE is set.",
            errors.GatedRepoError: (
                f"{repository} requires you to accept its licence: log in with `hf auth login`."
            ),
            errors.RevisionNotFoundError: f"{repository} has no revision {revision}.",
            errors.RepositoryNotFoundError: f"The hub has no model {repository}, or the model is private.",
            errors.RemoteEntryNotFoundError: f"{repository}@{revision} has no file {file}.",
            errors.HFValidationError: f"{repository} is not a repository name: write org/name.",
            errors.HfHubHTTPError: f"The hub answered {status} for {what}.",
            (httpx.ConnectError, httpx.TimeoutException): f"{cannot}: the hub does not answer.",
            Exception: f"the {doing} of {what} was interrupted ({type(error).__name__}); {again}.",
        }
        raise PullFailed(next(text for kind, text in said.items() if isinstance(error, kind))) from error


def push(directory: Path, repository: str, *, private: bool = False) -> str:
    """Upload the checkpoint in `directory` as one commit to `repository` (org/name), created if necessary.

    Returns the reference `org/name@commit`, which `pull` accepts. Raises ModelError.
    """
    names = [path.name for path in read_checkpoint(directory).files()]
    allowed = [CONFIG, *TOKENIZER_FILES, *_OTHERS, *names]
    try:
        with one_sentence(repository, "main", upload=True):
            _create(repository, private=private)
            commit = HfApi().upload_folder(
                repo_id=repository,
                folder_path=directory,
                allow_patterns=allowed,
                commit_message=f"Upload {directory.resolve().name}",
            )
    except ValueError as error:
        raise PushFailed(f"{repository} did not accept the upload: {error}.") from error
    return f"{repository}@{commit.oid}"


def _create(repository: str, *, private: bool) -> None:
    try:
        HfApi().create_repo(repository, private=private, exist_ok=True)
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise PushFailed(
            f"The hub does not let you write to {repository}: log in with `hf auth login`."
        ) from error
