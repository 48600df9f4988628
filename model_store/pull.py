"""Fetches a pinned checkpoint from the Hugging Face Hub: only the files needed, every digest compared.

In order: the hub names the commit and the digest of each file; files go to a hidden folder beside the
target, where an interrupted pull goes on; the digests are compared and recorded in SHA256SUMS; the folder
gets its name. So a folder with the target's name is always complete.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get

# Its HTTP client under the name it had in every version; not re-exported for type checkers.
from huggingface_hub.utils import build_hf_headers, httpx  # type: ignore[attr-defined]

from model_store.artefact import check_seal, seal
from model_store.checkpoint import CONFIG, PICKLES, TOKENIZER_FILES, WEIGHTS, WEIGHTS_INDEX, read_checkpoint
from model_store.errors import ModelError, PullFailed
from model_store.pickles import convert_pickle

ORIGIN = "origin.json"
COMMIT = re.compile(r"[0-9a-f]{40}")

_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository at one commit. `sha256` for large files; others have git's blob digest only."""

    name: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A repository at one commit."""

    repository: str
    commit: str
    files: tuple[HubFile, ...]

    @property
    def reference(self) -> str:
        return f"{self.repository}@{self.commit}"


def resolve(repository: str, revision: str) -> Snapshot:
    """Ask the hub which commit `revision` is and what it holds. Raises PullFailed."""
    with _one_sentence(repository, revision):
        commit = _full_hash(repository, revision)
        info = HfApi().model_info(repository, revision=commit, files_metadata=True)
    files = tuple(
        HubFile(
            sibling.rfilename,
            (sibling.lfs.size if sibling.lfs else sibling.size) or 0,
            sibling.lfs.sha256 if sibling.lfs else None,
            sibling.blob_id,
        )
        for sibling in info.siblings or ()
    )
    if not info.sha or not COMMIT.fullmatch(info.sha):
        raise PullFailed(f"The hub did not say which commit {repository}@{revision} is.")
    return Snapshot(repository, info.sha, files)


def _full_hash(repository: str, revision: str) -> str:
    """A shortened commit hash in full; anything else as it is."""
    if not _SHORT_COMMIT.fullmatch(revision):
        return revision
    commits = [commit.commit_id for commit in HfApi().list_repo_commits(repository)]
    return next((commit for commit in commits if commit.startswith(revision)), revision)


def pull(snapshot: Snapshot, to: Path, *, convert: bool = False) -> None:
    """Put the needed files of `snapshot` into the folder `to`. Goes on where an earlier pull stopped.

    With `convert`, a repository that has only a pickle is converted to safetensors. Raises PullFailed,
    ModelUnsupported where the files are no classifier, and ModelError where `to` holds something else.
    """
    if to.exists():
        if _origin(to) != snapshot.reference:
            raise ModelError(f"{to} exists and does not hold {snapshot.reference}.")
        check_seal(to)
        return
    files = _needed(snapshot, convert=convert)
    scratch = to.parent / f".{to.name}.part"
    scratch.mkdir(parents=True, exist_ok=True)
    for file in files:
        _fetch(snapshot, file, scratch / file.name)
    if any(file.name in PICKLES for file in files):
        convert_pickle(scratch)
        for file in files:
            if file.name.endswith((".bin", ".bin.index.json")):
                (scratch / file.name).unlink()
    checkpoint = read_checkpoint(scratch)
    (scratch / ORIGIN).write_text(json.dumps({"source": snapshot.reference}) + "\n", "utf-8")
    seal(scratch, [path.name for path in checkpoint.files()] + [ORIGIN])
    scratch.rename(to)


def _needed(snapshot: Snapshot, *, convert: bool) -> list[HubFile]:
    """Config, tokenizer and weights; of the weights one kind only."""
    by_name = {file.name: file for file in snapshot.files}
    if CONFIG not in by_name:
        raise PullFailed(f"{snapshot.reference} has no {CONFIG}: it is no transformers model.")
    small = [by_name[name] for name in (CONFIG, *TOKENIZER_FILES) if name in by_name]
    if WEIGHTS in by_name:
        return [*small, by_name[WEIGHTS]]
    if WEIGHTS_INDEX in by_name:
        return [*small, by_name[WEIGHTS_INDEX], *_shards(snapshot, "safetensors")]
    pickles = [by_name[name] for name in PICKLES if name in by_name]
    if not pickles:
        raise PullFailed(f"{snapshot.reference} has no weights that this program knows.")
    if not convert:
        raise PullFailed(
            f"{snapshot.reference} has only a pickle checkpoint, which can run code when it is loaded; "
            "add --convert-pickle to convert it to safetensors in a process of its own."
        )
    return [*small, *pickles, *_shards(snapshot, "bin")]


def _shards(snapshot: Snapshot, suffix: str) -> Iterator[HubFile]:
    return (file for file in snapshot.files if _SHARD.fullmatch(file.name) and suffix in file.name)


def _fetch(snapshot: Snapshot, file: HubFile, path: Path) -> None:
    """Download one file unless it is here already. Raises PullFailed where it is not what was promised."""
    if path.exists() and _is_intact(file, path):
        return
    part = path.with_name(f"{path.name}.part")
    url = hf_hub_url(snapshot.repository, file.name, revision=snapshot.commit)
    with _one_sentence(snapshot.repository, snapshot.commit, file.name), part.open("ab") as target:
        http_get(
            url,
            target,
            resume_size=target.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.name,
        )
    if not _is_intact(file, part):
        part.unlink()
        raise PullFailed(f"{file.name} of {snapshot.reference} is not what the hub described; pull again.")
    part.rename(path)


def _is_intact(file: HubFile, path: Path) -> bool:
    content = path.stat().st_size
    if content != file.size:
        return False
    if file.sha256:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
    blob = hashlib.sha1(f"blob {content}\0".encode() + path.read_bytes(), usedforsecurity=False)
    return blob.hexdigest() == file.blob


def _origin(path: Path) -> str | None:
    try:
        content: dict[str, Any] = json.loads((path / ORIGIN).read_text("utf-8"))
        return str(content["source"])
    except (OSError, ValueError, KeyError):
        return None


@contextmanager
def _one_sentence(repository: str, revision: str, file: str | None = None) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    what = f"{file} of {repository}" if file else repository
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PullFailed(f"{what} cannot be fetched: HF_HUB_OFFLINE is set.") from error
    except GatedRepoError as error:
        raise PullFailed(
            f"{repository} asks for an accepted licence: log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise PullFailed(f"{repository} has no revision {revision}.") from error
    except RepositoryNotFoundError as error:
        raise PullFailed(f"The hub has no model {repository}, or it is private.") from error
    except RemoteEntryNotFoundError as error:
        raise PullFailed(f"{repository}@{revision} has no file {file}.") from error
    except HFValidationError as error:
        raise PullFailed(f"{repository} is not a repository name: write org/name.") from error
    except HfHubHTTPError as error:
        raise PullFailed(f"The hub answered {error.response.status_code} for {what}.") from error
    except (httpx.ConnectError, httpx.TimeoutException) as error:
        raise PullFailed(f"{what} cannot be fetched: the hub does not answer.") from error
    except (httpx.HTTPError, OSError) as error:
        raise PullFailed(
            f"{what} arrived incomplete ({error.__class__.__name__}); pull again to go on."
        ) from error
