"""`millrace push` against a hub on the loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from model_store.errors import PullFailed
from model_store.hub import push
from tests.integration.hugging_face import COMMIT, Hub, running
from tests.unit.model_store.checkpoints import copy


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(Hub({})) as hub:
        yield hub


def _push(directory: Path, hub: Hub, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millrace", "push", str(directory), "org/name"]
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_test"}
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("exists", [False, True])
def test_a_checkpoint_is_pushed_and_nothing_else_of_its_directory(
    checkpoint: Path, hub: Hub, tmp_path: Path, exists: bool
) -> None:
    hub.exists = exists
    model = copy(checkpoint, tmp_path / "topics")
    (model / "README.md").write_text("# topics\n")
    (model / "private.txt").write_text("not for others")
    done = _push(model, hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"pushed as org/name@{COMMIT}\n"
    assert hub.uploaded == {
        path.name: path.read_bytes() for path in model.iterdir() if path.name != "private.txt"
    }


def test_a_push_without_permission_is_one_sentence(checkpoint: Path, hub: Hub, tmp_path: Path) -> None:
    hub.writable = False
    done = _push(checkpoint, hub, tmp_path / "home")
    assert done.returncode == 2
    assert done.stderr == (
        "millrace push: The hub does not let you write to org/name: log in with `hf auth login`.\n"
    )
    assert hub.uploaded == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ReadError("reset"), "the upload of org/name was interrupted (ReadError); push again."),
        (httpx.ConnectError("refused"), "org/name cannot be pushed: the hub does not answer."),
    ],
)
def test_an_upload_that_fails_is_not_called_a_download(
    error: Exception, said: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HfApi, "create_repo", Mock(side_effect=error))
    with pytest.raises(PullFailed, match=re.escape(said)):
        push(checkpoint, "org/name")
