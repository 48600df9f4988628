"""Texts that need no normaliser go without: their tokens are the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE, Unigram
from tokenizers.pre_tokenizers import ByteLevel, Metaspace
from tokenizers.processors import TemplateProcessing

import model_store
from model_store import rows
from model_store.rows import Tokenizer, is_plain

DEFAULT = Path(model_store.__file__).parent / "default/tokenizer.json"
MOST = 12

ours = Tokenizer(DEFAULT, MOST)
full = RustTokenizer.from_file(str(DEFAULT))
full.no_padding()
full.enable_truncation(MOST)
whole = RustTokenizer.from_file(str(DEFAULT))
whole.no_padding()
whole.no_truncation()

texts = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126)),
    st.text(st.characters(max_codepoint=0x250)),
    st.text(),
    st.lists(
        st.sampled_from(["Good", "don't", "[MASK]", "[sep]", "naïve", "x\ty", "\x7f", "日本", "A.B.", " "])
    ).map(" ".join),
)


@given(st.lists(texts, max_size=6))
def test_tokens_are_those_of_the_whole_tokenizer(batch: list[str]) -> None:
    expected = full.encode_batch(batch)
    found = ours(batch)
    assert [list(tokens.ids) for tokens in found] == [one.ids for one in expected]
    left_out = [len(whole.encode(text).ids) - len(one.ids) for text, one in zip(batch, expected, strict=True)]
    assert [tokens.truncated for tokens in found] == left_out


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Good, isn't it?", True),
        ("", True),
        ("naïve", False),
        ("a\tb", False),
        ("\x7f", False),
        ("a [MASK]", False),
    ],
)
def test_plain_is_what_a_normaliser_only_lowers(text: str, plain: bool) -> None:
    assert is_plain(text) == plain


def changed(folder: Path, **parts: object) -> Tokenizer:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(DEFAULT.read_text()) | parts))
    return Tokenizer(path, MOST)


def test_a_normaliser_that_keeps_case_keeps_it(tmp_path: Path) -> None:
    normalizer = json.loads(DEFAULT.read_text())["normalizer"] | {"lowercase": False, "strip_accents": False}
    cased = changed(tmp_path, normalizer=normalizer)
    assert cased(["Good"])[0].unknown == 1, "the vocabulary has no capitals"
    assert cased(["good"])[0].unknown == 0


@pytest.mark.parametrize("normalizer", [None, {"type": "Lowercase"}, {"type": "Prepend", "prepend": "not "}])
def test_of_another_normaliser_nothing_is_left_out(tmp_path: Path, normalizer: object) -> None:
    other = changed(tmp_path, normalizer=normalizer)
    rust = RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [list(one.ids) for one in other(["good"])] == [rust.encode("good").ids]


def test_a_special_token_without_brackets_is_found_in_every_text(tmp_path: Path) -> None:
    (mask,) = [one for one in json.loads(DEFAULT.read_text())["added_tokens"] if one["content"] == "[MASK]"]
    added = [*json.loads(DEFAULT.read_text())["added_tokens"], mask | {"content": "Good", "id": 30522}]
    other = changed(tmp_path, added_tokens=added)
    rust = RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [list(one.ids) for one in other(["a Good film"])] == [rust.encode("a Good film").ids]


def test_the_tokenizer_has_threads_beside_a_card_only_unless_the_environment_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """256 texts took 12 ms beside a card that classifies them in one or two."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "")  # which each tokenizer sets
    for chosen, threads, expected in ((None, True, "true"), (None, False, "false"), ("false", True, "false")):
        monkeypatch.setattr(rows, "_PARALLELISM", chosen)
        Tokenizer(DEFAULT, MOST, threads=threads)
        assert os.environ["TOKENIZERS_PARALLELISM"] == expected


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("I hate you.", False),
        ("", False),
        ("\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", True),
        ("\uc548\ub155\ud558\uc138\uc694", True),
        ("hello \u05e9\u05dc\u05d5\u05dd", False),
        ("hello \u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", True),
        ("[UNK] [UNK]", True),
        ("[MASK] [MASK] [MASK] [UNK]", True),
    ],
)
def test_a_text_is_foreign_if_more_than_half_of_its_own_pieces_are_unknown(text: str, foreign: bool) -> None:
    assert ours([text])[0].foreign == foreign


def unigram() -> RustTokenizer:
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("\u2581", -2.0), ("\u2581good", -1.0), ("\u2581day", -1.0)]
    tokenizer = RustTokenizer(Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def test_sentences_of_unknown_characters_looked_half_known_because_of_their_spaces(tmp_path: Path) -> None:
    """Such tokenizers have a piece for the space before a word, and name their unknown piece by number."""
    unigram().save(str(path := tmp_path / "tokenizer.json"))
    tokens = Tokenizer(path, MOST)(["good day", "\u05e9\u05dc \u05e2", "good \u05e9\u05dc"])
    assert [one.unknown for one in tokens] == [0, 2, 1]
    assert [one.foreign for one in tokens] == [False, True, False]


def test_a_tokenizer_that_reads_bytes_knows_every_text(tmp_path: Path) -> None:
    tokenizer = RustTokenizer(BPE({piece: number for number, piece in enumerate(ByteLevel.alphabet())}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.save(str(path := tmp_path / "tokenizer.json"))
    (tokens,) = Tokenizer(path, MOST)(["\u05e9\u05dc"])
    assert (tokens.unknown, tokens.foreign) == (0, False)
