"""A tokenizer that does not belong to its model is refused: the model would answer nonsense to everything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_store import load
from model_store.errors import ModelUnsupported
from model_store.tokenizer_files import check_tokenizer
from tests.unit.model_store.checkpoints import copy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

RUSSIAN = ["еда", "была", "очень", "вкусной", "но", "официант", "забыл", "напитки"]


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
    with pytest.raises(ModelUnsupported, match=r"ids up to 23 \('word19'\) and the model knows ids below 20"):
        check_tokenizer(path, 20, 64)


def test_finding_06b_a_tokenizer_that_knows_no_word_is_refused(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json", [f"word{number}" for number in range(100)])
    with pytest.raises(ModelUnsupported, match="knows hardly any word"):
        check_tokenizer(path, 104, 64)


def test_a_tokenizer_of_one_language_other_than_english_is_fine(tmp_path: Path) -> None:
    check_tokenizer(write_tokenizer(tmp_path / "tokenizer.json", RUSSIAN), 12, 64)
    check_tokenizer(write_tokenizer(tmp_path / "tokenizer.json", RUSSIAN), None, 64)


def test_an_added_token_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    """A text with its name was read beyond the table of embeddings, which ends a worker with a GPU."""
    path = write_tokenizer(tmp_path / "tokenizer.json", RUSSIAN)
    content = json.loads(path.read_text("utf-8"))
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [{"id": 12, "content": "[ADDED]", **added}]
    path.write_text(json.dumps(content), "utf-8")
    check_tokenizer(path, 13, 64)
    with pytest.raises(
        ModelUnsupported, match=r"ids up to 12 \('\[ADDED\]'\) and the model knows ids below 12"
    ):
        check_tokenizer(path, 12, 64)


@pytest.mark.parametrize("content", ["", "{", "{}", "[" * 100_000, "\x00"])
def test_a_broken_tokenizer_is_refused_in_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ModelUnsupported, match=r"The model's tokenizer\.json cannot be read: .*; copy it"):
        check_tokenizer(path, None, 64)


def test_a_limit_that_leaves_no_room_for_words_is_refused(checkpoint: Path) -> None:
    for limit in (1, 2):
        with pytest.raises(ModelUnsupported, match=f"can read {limit} tokens, and the tokenizer adds 2"):
            check_tokenizer(checkpoint / "tokenizer.json", None, limit)
    check_tokenizer(checkpoint / "tokenizer.json", None, 3)
