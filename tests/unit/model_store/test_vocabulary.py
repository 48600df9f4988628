"""A tokenizer that does not belong to its model is refused: the model would answer nonsense to everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_store import load
from model_store.errors import ModelUnsupported
from model_store.vocabulary import check_tokenizer
from tests.unit.model_store.checkpoints import copy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def write_tokenizer(path: Path, pieces: list[str]) -> Path:
    """A WordPiece tokenizer of the special pieces and these."""
    named = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces]
    content: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: number for number, piece in enumerate(named)},
        },
    }
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_finding_06b_a_checkpoint_without_tokenizer_files_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    """AutoTokenizer made up a vocabulary of five pieces, and the service was ready without a warning."""
    path = copy(checkpoint, tmp_path / "model")
    (path / "tokenizer.json").unlink()
    with pytest.raises(ModelUnsupported, match=r"has no tokenizer: put its tokenizer\.json"):
        load(str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept")
    assert not list((tmp_path / "kept" / "artefacts").glob("model*"))


def test_finding_06b_a_tokenizer_much_smaller_than_the_vocabulary_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    path = copy(checkpoint, tmp_path / "model")
    write_tokenizer(path / "tokenizer.json", ["good", "bad"])
    with pytest.raises(ModelUnsupported, match="knows 6 pieces and the model 30522: they do not belong"):
        load(str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept")


def test_finding_06b_ids_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json", [f"word{number}" for number in range(20)])
    with pytest.raises(ModelUnsupported, match="ids up to 23 and the model knows ids below 20"):
        check_tokenizer(path, 20, 64)


def test_finding_06b_a_tokenizer_that_knows_no_word_is_refused(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json", [f"word{number}" for number in range(100)])
    with pytest.raises(ModelUnsupported, match="knows hardly any word"):
        check_tokenizer(path, 104, 64)


def test_a_tokenizer_of_one_language_other_than_english_is_fine(tmp_path: Path) -> None:
    words = ["еда", "была", "очень", "вкусной", "но", "официант", "забыл", "напитки"]
    check_tokenizer(write_tokenizer(tmp_path / "tokenizer.json", words), 12, 64)
    check_tokenizer(write_tokenizer(tmp_path / "tokenizer.json", words), None, 64)
