"""Uploads a checkpoint to a model repository on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from model_store.checkpoint import CONFIG, TOKENIZER_FILES, read_checkpoint
from model_store.errors import PushFailed
from model_store.pull import one_sentence

# Files of a checkpoint that are uploaded beside its config, weights and tokenizer.
_OTHERS = ("README.md", "report.html", "metrics.json", "reference.json")


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
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise PushFailed(
            f"The hub does not let you write to {repository}: log in with `hf auth login`."
        ) from error
