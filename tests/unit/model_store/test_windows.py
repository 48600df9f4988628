"""Long texts in windows: all tokens are read, neighbours change no scores, what is left out is counted."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer

import model_store
from model_store import ModelError, load
from model_store.measuring import Measuring, write_reference
from model_store.rows import Tokenizer
from model_store.stub import StubClassifier
from model_store.windows import MAX_WINDOWS, Join, Windows, joined, read_windows
from tests.unit.model_store.checkpoints import copy

DEFAULT = Path(model_store.__file__).parent / "default/tokenizer.json"
WINDOW, OVERLAP = 20, 5
WORDS = "the plot goes nowhere and the actors know it but what a warm and funny evening it was for all of us"
LONG = f"{WORDS} " * 9
SHORT = ["Good.", "", "never again!", "a long and warm evening"]


def windows(join: Join = "mean", most: int = MAX_WINDOWS, overlap: int = OVERLAP) -> Windows:
    return Windows(WINDOW, overlap, join, most)


@cache
def untruncated() -> RustTokenizer:
    rust = RustTokenizer.from_file(str(DEFAULT))
    rust.no_truncation()
    return rust


def whole(text: str) -> list[int]:
    """The ids of the whole text, without special tokens."""
    ids: list[int] = untruncated().encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("overlap", [0, 1, 5, 10])
@pytest.mark.parametrize("words", [17, 18, 19, 20, 31, 32, 33, 34, 100])
def test_windows_cover_the_whole_text(overlap: int, words: int) -> None:
    tokenizer = Tokenizer(DEFAULT, 512)
    tokenizer.read_in(windows(overlap=overlap))
    text = " ".join((WORDS.split() * 9)[:words])
    (tokens,) = tokenizer([text])
    assert tokens.truncated == 0
    read = whole(text)
    if len(read) <= WINDOW - 2:
        assert (tokens.windows, list(tokens.ids[1:-1])) == ((), read)
        return
    assert sum(map(len, tokens.windows)) == len(tokens)
    pieces = [list(window.ids[1:-1]) for window in tokens.windows]
    assert all(len(piece) == WINDOW - 2 for piece in pieces[:-1])
    assert sum(([*piece[overlap:]] for piece in pieces[1:]), pieces[0]) == read
    assert {(window.ids[0], window.ids[-1]) for window in tokens.windows} == {(tokens.ids[0], tokens.ids[-1])}


@pytest.mark.parametrize("most", [1, 2, 3, 100])
@pytest.mark.parametrize("join", ["mean", "first_last"])
def test_tokens_that_are_left_out_are_counted(join: Join, most: int) -> None:
    tokenizer = Tokenizer(DEFAULT, 512)
    tokenizer.read_in(windows(join, most))
    for words in (25, 40, 60, 90):
        text = " ".join((WORDS.split() * 9)[:words])
        (tokens,) = tokenizer([text])
        total, step, size = len(whole(text)), WINDOW - 2 - OVERLAP, WINDOW - 2
        count = 1 + math.ceil((total - size) / step)
        if join == "mean":
            assert len(tokens.windows) == min(most, count)
            assert tokens.truncated == max(total - size - (min(most, count) - 1) * step, 0)
        else:
            last = total - (count - 1) * step
            assert len(tokens.windows) == 2
            assert tokens.truncated == (0 if count == 2 else total - size - last)


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("join", ["mean", "first_last"])
def test_texts_of_the_length_that_is_published_were_cut(join: Join, most: int) -> None:
    """It counted tokens once for each window that has them, which clients cannot."""
    tokenizer = Tokenizer(DEFAULT, 512)
    tokenizer.read_in(windows(join, most))
    longest = windows(join, most).most_tokens - 2
    fits, too_long = tokenizer([" ".join((WORDS.split() * 9)[: longest + more]) for more in (0, 1)])
    assert (fits.truncated, too_long.truncated > 0) == (0, True)


def test_a_first_and_a_last_window_that_overlap_leave_nothing_out() -> None:
    """With an overlap of half a window, they left out -2 tokens of a text with three windows."""
    tokenizer = Tokenizer(DEFAULT, 512)
    tokenizer.read_in(Windows(16, 8, "first_last", MAX_WINDOWS))
    size, step = 14, 6
    for words in range(15, 40):
        (tokens,) = tokenizer([" ".join((WORDS.split() * 9)[:words])])
        last = math.ceil((words - size) / step) * step
        assert len(tokens.windows) == 2
        assert tokens.truncated == max(last - size, 0)


@pytest.mark.parametrize("overlap", [0, 1, 5, 10])
def test_special_tokens_that_a_text_contains_are_tokens_like_others(overlap: int) -> None:
    """At every length around the ends of windows, alone and next to other texts."""
    tokenizer = Tokenizer(DEFAULT, 512)
    tokenizer.read_in(windows(overlap=overlap))
    typed = ["[SEP]", "good", "[CLS]", "[PAD]", "[PAD]", "[MASK]", "[UNK]", "</s>", "<s>", "film", "[PAD]"]
    texts = [" ".join((typed * 6)[:words]) for words in range(60)]
    for text, tokens in zip(texts, tokenizer(texts), strict=True):
        assert tokenizer([text]) == [tokens]
        read, size = whole(text), WINDOW - 2
        starts = range(0, max(len(read) - overlap, 1), size - overlap) if len(read) > size else [0]
        parts = [list(part.ids[1:-1]) for part in tokens.windows or [tokens]]
        assert parts == [read[start : start + size] for start in starts]
        assert tokens.truncated == 0


def test_a_text_that_is_cut_without_windows_says_by_how_much() -> None:
    (tokens,) = Tokenizer(DEFAULT, 12)([LONG])
    assert (len(tokens), tokens.truncated) == (12, len(whole(LONG)) - 10)


LOGITS = np.array([[2.0, -1.0, 0.5], [-3.0, 4.0, 0.0], [30.0, -30.0, 1.0]])


def softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("join", ["mean", "first_last"])
def test_the_mean_is_that_of_the_logits(join: Join) -> None:
    mean = LOGITS.mean(axis=0)
    assert np.allclose(joined(softmax(LOGITS).tolist(), windows(join), multi_label=False), softmax(mean))
    sigmoid = 1 / (1 + np.exp(-LOGITS))
    got = joined(sigmoid.tolist(), windows(join), multi_label=True)
    assert np.allclose(got, 1 / (1 + np.exp(-mean)), atol=1e-3)


def test_the_maximum_is_that_of_each_label() -> None:
    rows = [[0.9, 0.1], [0.3, 0.7]]
    assert joined(rows, windows("max"), multi_label=True) == [0.9, 0.7]
    assert joined(rows, windows("max"), multi_label=False) == pytest.approx([0.9 / 1.6, 0.7 / 1.6])


def test_saturated_scores_have_a_mean() -> None:
    assert joined([[1.0, 0.0], [0.0, 1.0]], windows(), multi_label=False) == pytest.approx([0.5, 0.5])
    assert joined(np.eye(3).tolist(), windows(), multi_label=False) == pytest.approx([1 / 3] * 3)
    assert joined([[1.0], [0.0]], windows(), multi_label=True) == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", None),
        ("off", None),
        ("126", Windows(126, 31, "mean", 9)),
        ("62:0", Windows(62, 0, "mean", 9)),
        ("512:128:max", Windows(512, 128, "max", 9)),
        ("126:31:mean:0.6", Windows(126, 31, "mean", 9, 0.6)),
    ],
)
def test_a_setting_is_read(setting: str, expected: Windows | None) -> None:
    assert read_windows(setting, most=9, max_tokens=512) == expected


@pytest.mark.parametrize(
    "setting",
    ["x", "15", "513", "126:64", "126:-1", "126:31:median", "126:31:mean:0", "126:31:mean:1:1", ":"],
)
def test_a_wrong_setting_is_refused_with_the_right_form(setting: str) -> None:
    with pytest.raises(ModelError, match="TOKENS"):
        read_windows(setting, most=9, max_tokens=512)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_long_text_gets_the_same_scores_in_any_company(
    engine: Any, layout: Any, checkpoint: Path, kept: Path
) -> None:
    model = load(
        str(checkpoint), engine=engine, precision="f32", layout=layout, threads=1, artefact_dir=kept,
        text_windows=f"{WINDOW}:{OVERLAP}",
    )  # fmt: skip
    (tokens,) = model.tokenize([LONG])
    assert len(tokens.windows) > 9
    alone = np.array(model.classify([tokens])[0])
    one_by_one = [model.classify([window])[0] for window in tokens.windows]
    assert model.info.windows is not None
    assert np.abs(joined(one_by_one, model.info.windows, multi_label=False) - alone).max() < 1e-4
    for neighbours in (SHORT, [LONG], [*SHORT, LONG] * 3):
        for place in range(len(neighbours) + 1):
            texts = [*neighbours[:place], LONG, *neighbours[place:]]
            got = model.classify(model.tokenize(texts))
            assert len(got) == len(texts)
            assert np.abs(np.array(got[place]) - alone).max() < 1e-4
    model.close()


def test_windows_have_their_own_revision_and_short_texts_their_old_scores(
    checkpoint: Path, kept: Path
) -> None:
    def opened(**settings: Any) -> Any:
        return load(str(checkpoint), engine="torch", precision="f32", artefact_dir=kept, **settings)

    plain = opened()
    revisions, identities = {plain.info.revision}, {plain.info.identity}
    for settings in (
        {"text_windows": "20:5"}, {"text_windows": "20:6"}, {"text_windows": "21:5"},
        {"text_windows": "20:5:max"}, {"text_windows": "20:5", "max_windows": 3},
        {"text_windows": "20:5:mean:0.5"},
    ):  # fmt: skip
        model = opened(**settings)
        revisions.add(model.info.revision)
        identities.add(model.info.identity)
        assert model.info.reference is None
        texts = model.tokenize(SHORT)
        assert np.allclose(model.classify(texts), plain.classify(plain.tokenize(SHORT)), atol=1e-6)
    assert (len(revisions), len(identities)) == (7, 7)


def test_a_config_asks_for_windows_and_a_setting_overrides_it(checkpoint: Path, tmp_path: Path) -> None:
    path = copy(checkpoint, tmp_path / "model")
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"text_windows": "24:6"}), "utf-8")
    found = {
        setting: load(
            str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept", text_windows=setting
        ).info.windows
        for setting in ("", "off", "20:5:max")
    }
    assert found == {
        "": Windows(24, 6, "mean", MAX_WINDOWS),
        "off": None,
        "20:5:max": Windows(20, 5, "max", MAX_WINDOWS),
    }


def test_an_answer_of_uncertain_is_the_same_window_by_window(checkpoint: Path, kept: Path) -> None:
    model = load(
        str(checkpoint), engine="torch", precision="f32", artefact_dir=kept, abstain=0.9,
        text_windows="20:5:mean:0.5",
    )  # fmt: skip
    (tokens,) = model.tokenize([LONG])
    assert model.info.windows is not None
    rows = [model.classify([window])[0] for window in tokens.windows]
    together = model.classify([tokens])[0]
    assert np.allclose(joined(rows, model.info.windows, multi_label=False), together, atol=1e-6)
    with pytest.raises(ModelError, match="joined by max"):
        load(str(checkpoint), engine="torch", artefact_dir=kept, abstain=0.9, text_windows="20:5:max")


def test_windows_are_surer_by_their_temperature_and_short_texts_are_not(checkpoint: Path, kept: Path) -> None:
    def margins(setting: str) -> list[float]:
        model = load(
            str(checkpoint), engine="torch", precision="f32", artefact_dir=kept, text_windows=setting
        )
        rows = model.classify(model.tokenize([LONG, *SHORT]))
        model.close()
        return [math.log(row[1] / row[0]) for row in rows]

    plain, sharp = margins("20:5"), margins("20:5:mean:0.5")
    assert sharp == pytest.approx([2 * plain[0], *plain[1:]], abs=1e-4)


def test_drift_is_measured_with_the_windows_of_the_config_only(checkpoint: Path, tmp_path: Path) -> None:
    """It was not measured with any, so a default with windows would have had none."""
    path = copy(checkpoint, tmp_path / "model")
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"text_windows": "24:6"}), "utf-8")
    measuring = Measuring(load(str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept"))
    measuring.classify(measuring.tokenize([*SHORT * 50, LONG]))
    reference = measuring.reference()
    assert reference.texts == 200
    write_reference(reference, path)
    found = {
        setting: load(
            str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "new", text_windows=setting
        ).info.reference
        for setting in ("", "24:6", "20:5", "off")
    }
    assert found == {"": reference, "24:6": reference, "20:5": None, "off": None}


def test_the_stub_reads_windows_too() -> None:
    stub = StubClassifier()
    stub.read_in(windows())
    (tokens,) = stub.tokenize(["word " * 100])
    assert (len(tokens.windows), tokens.truncated) == (8, 0)
    assert len(stub.classify([tokens, *stub.tokenize(SHORT)])) == 5
