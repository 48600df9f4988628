"""Sentences are held out with all their phrases, and dev sentences are never trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from default_model.corpus import Row, read_rows, split_rows

SENTENCES = [Row(f"{word} film number {number}", 1.0) for number, word in enumerate("abcdefghij")]
PHRASES = [
    *(Row(f"film number {number}", 1.0) for number in range(10)),
    *(Row(row.text, row.positive) for row in SENTENCES),
    Row("film", 1.0),
    Row("film number", 0.0),
    Row("unrelated words", 0.0),
]


def test_no_phrase_of_a_held_out_sentence_stays() -> None:
    split = split_rows(PHRASES, SENTENCES, held_out=3, seed=1)
    assert len(split.held_out) == 3
    assert len(split.sentences) == 7
    for phrase in split.phrases:
        if " " in phrase.text:
            assert not any(f" {phrase.text} " in f" {row.text} " for row in split.held_out)
    kept = {row.text for row in split.phrases}
    assert {"film", "unrelated words"} <= kept
    assert "film number" not in kept


def test_a_full_sentence_is_not_also_a_phrase() -> None:
    split = split_rows(PHRASES, SENTENCES, held_out=0, seed=1)
    assert not {row.text for row in split.phrases} & {row.text for row in split.sentences}


def test_excluded_texts_are_nowhere() -> None:
    excluded = ["unrelated  words", SENTENCES[0].text]
    split = split_rows(PHRASES, SENTENCES, held_out=0, seed=1, excluded=excluded)
    left = {row.text for row in (*split.phrases, *split.sentences)}
    assert "unrelated words" not in left
    assert SENTENCES[0].text not in left


def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\nfine\t1\nodd\t2\n")
    with pytest.raises(ValueError, match=r"train\.tsv:3: the label must be 0 or 1"):
        read_rows(path)
    path.write_text("fine\t1\n")
    with pytest.raises(ValueError, match="first line"):
        read_rows(path)
