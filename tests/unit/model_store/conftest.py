"""A checkpoint as the Hugging Face Hub has it, written once for each module."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.unit.model_store.checkpoints import write_checkpoint  # brings torch along

    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny")
