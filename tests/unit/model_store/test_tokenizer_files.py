"""Texts are read as transformers reads them, whichever of a checkpoint's files says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer

from model_store import load
from model_store.__main__ import main as model_store
from model_store.artefact import identity
from model_store.checkpoint import TOKENIZER_FILES, VOCABULARIES, read_checkpoint
from model_store.errors import ModelUnsupported
from model_store.inputs import TokenTypes
from model_store.rows import Tokenizer
from model_store.tokenizer_files import (
    check_tokenizer,
    copy_tokenizer,
    read_token_types,
    read_tokenizer,
    require_same,
    require_vocabulary,
    write_tokenizer,
)
from tests.families.tokenizers import KINDS
from tests.families.tokenizers import write_tokenizer as write_small
from tests.lazy import transformers
from tests.unit.model_store.checkpoints import copy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MOST = 24
TEXTS = [
    "A good film", "I HATE it, naïve élève", "", "x [MASK] <mask> y", "[PAD] a [NEW] [SEP]b",
    " a <s> b</s> <pad><new>",
    "it begins well " * 9 + "and ends badly",
]  # fmt: skip
ADDED = {
    "content": "[NEW]", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False,
    "special": True,
}  # fmt: skip


def small(path: Path, kind: str, **edited: Any) -> Path:
    """A checkpoint without weights, and tokenizer_config.json as a person edits it."""
    path.mkdir()
    family = {"wordpiece": "Bert", "bpe": "Roberta"}[kind]
    write_small(path, kind)
    config = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    config |= {"tokenizer_class": f"{family}Tokenizer", "model_max_length": MOST, **edited}
    (path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    model = {
        "architectures": [f"{family}ForSequenceClassification"], "model_type": family.lower(),
        "vocab_size": 600,
        "max_position_embeddings": 64, **KINDS[kind].ids(),
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(model), "utf-8")
    (path / "model.safetensors").touch()
    return path


def ids_of_transformers(path: Path) -> list[list[int]]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    limit = min(tokenizer.model_max_length, 62)
    return [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize(
    ("kind", "edited"),
    [
        ("wordpiece", {}),
        ("bpe", {}),
        ("wordpiece", {"truncation_side": "left"}),
        ("bpe", {"truncation_side": "left"}),
        ("wordpiece", {"do_lower_case": False}),
        ("wordpiece", {"do_lower_case": True, "strip_accents": False}),
        ("wordpiece", {"tokenize_chinese_chars": False}),
        ("bpe", {"add_prefix_space": True}),
        ("bpe", {"model_max_length": 9}),
        ("wordpiece", {"pad_token": "[MASK]"}),
        ("wordpiece", {"unk_token": "[PAD]"}),
        ("wordpiece", {"cls_token": "[MASK]"}),
        ("wordpiece", {"sep_token": "[MASK]"}),
        ("bpe", {"sep_token": "<mask>"}),
        ("wordpiece", {"added_tokens_decoder": {"599": ADDED}}),
    ],
)
def test_a_setting_in_tokenizer_config_was_ignored_beside_a_tokenizer_json(
    kind: str, edited: dict[str, Any], tmp_path: Path
) -> None:
    path = small(tmp_path / "model", kind, **edited)
    wanted = ids_of_transformers(path)
    checkpoint = read_checkpoint(path)
    write_tokenizer(checkpoint, tmp_path)
    found = Tokenizer(tmp_path / "tokenizer.json", checkpoint.max_tokens)(TEXTS)
    assert [list(tokens.ids) for tokens in found] == wanted


def test_a_setting_that_tokenizer_json_cannot_have_is_refused_with_a_text(tmp_path: Path) -> None:
    path = small(tmp_path / "model", "wordpiece", split_special_tokens=True)
    with pytest.raises(ModelUnsupported, match=r"transformers reads 'a \[\w+\] b"):
        write_tokenizer(read_checkpoint(path), tmp_path)


def test_a_tokenizer_that_cuts_another_end_of_a_long_text_is_refused(tmp_path: Path) -> None:
    """Where the limit is beyond all other texts that are compared."""
    path = small(tmp_path / "model", "wordpiece", model_max_length=500)
    config = json.loads((path / "config.json").read_text("utf-8")) | {"max_position_embeddings": 512}
    (path / "config.json").write_text(json.dumps(config), "utf-8")
    checkpoint = read_checkpoint(path)
    write_tokenizer(checkpoint, tmp_path)
    tokenizer = read_tokenizer(checkpoint)
    require_same(checkpoint, tokenizer, tmp_path / "tokenizer.json")
    tokenizer.truncation_side = "left"
    with pytest.raises(ModelUnsupported, match="transformers reads 'first half"):
        require_same(checkpoint, tokenizer, tmp_path / "tokenizer.json")


def test_special_tokens_after_a_text_may_have_another_type_than_the_text() -> None:
    def tokenizer(text: str) -> dict[str, list[int]]:
        words = [*range(5, 5 + len(text.split()))]
        types = [3, *[1 for _ in words], 0, 2]
        return {"input_ids": [1, *words, 2, 4], "token_type_ids": types}

    assert read_token_types(tokenizer) == TokenTypes((3,), 1, (0, 2))


def test_a_tokenizer_that_gives_the_tokens_of_one_text_several_types_is_refused() -> None:
    def tokenizer(text: str) -> dict[str, list[int]]:
        ids = [1, *range(5, 5 + len(text.split())), 2]
        return {"input_ids": ids, "token_type_ids": [number % 2 for number in ids]}

    with pytest.raises(ModelUnsupported, match="gives the tokens of one text several types"):
        read_token_types(tokenizer)


def test_an_unknown_side_of_truncation_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(small(tmp_path / "model", "wordpiece", truncation_side="middle"))
    with pytest.raises(ModelUnsupported, match="has truncation_side 'middle'; it must be left or right"):
        copy_tokenizer(checkpoint, tmp_path)


def with_dropout(path: Path, dropout: float) -> Path:
    """A checkpoint whose BPE leaves out this share of its merges, as transformers reads it."""
    small(path, "bpe", tokenizer_class="PreTrainedTokenizerFast")
    content = json.loads((path / "tokenizer.json").read_text("utf-8"))
    content["model"]["dropout"] = dropout
    (path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    return path


@pytest.mark.parametrize("dropout", [0.1, 1e-6])
def test_random_tokens_were_put_down_to_tokenizer_config_or_accepted_by_chance(
    dropout: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_dropout(tmp_path / "model", dropout)
    with pytest.raises(ModelUnsupported, match=rf"dropout of {dropout}, .* set model\.dropout in it to null"):
        write_tokenizer(read_checkpoint(path), tmp_path)
    with pytest.raises(ModelUnsupported, match=f"dropout of {dropout}, "):
        check_tokenizer(path / "tokenizer.json", None, MOST)  # as a sealed one is copied
    assert model_store(["seal", str(path), "--probes"]) == 2
    assert f"has a dropout of {dropout}, " in capsys.readouterr().err


@pytest.mark.parametrize("dropout", [0, 0.0])
def test_without_a_share_of_merges_to_leave_out_tokens_are_those_of_transformers(
    dropout: float, tmp_path: Path
) -> None:
    path = with_dropout(tmp_path / "model", dropout)
    write_tokenizer(read_checkpoint(path), tmp_path)
    found = Tokenizer(tmp_path / "tokenizer.json", MOST)(TEXTS)
    assert [list(tokens.ids) for tokens in found] == ids_of_transformers(path)


def test_edits_change_what_is_read(tmp_path: Path) -> None:
    """Otherwise the test above would compare the same ids each time."""
    plain = ids_of_transformers(small(tmp_path / "plain", "wordpiece"))
    for number, edited in enumerate(
        (
            {"truncation_side": "left"},
            {"do_lower_case": False},
            {"strip_accents": False},
            {"model_max_length": 9},
        )
    ):
        assert ids_of_transformers(small(tmp_path / str(number), "wordpiece", **edited)) != plain, edited


def test_truncation_on_the_left_kept_the_beginning(checkpoint: Path, tmp_path: Path) -> None:
    path = copy(checkpoint, tmp_path / "model")
    config = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    (path / "tokenizer_config.json").write_text(json.dumps(config | {"truncation_side": "left"}), "utf-8")
    text = "I love this film and it is great. " + "the queue waits for the worker " * 30 + "I hate you"
    pipeline = transformers.pipeline("text-classification", model=str(path), device="cpu", top_k=None)
    (scores,) = pipeline(text, truncation=True, max_length=128)
    wanted = {one["label"]: one["score"] for one in scores}
    for sealed in (False, True):  # which is built without transformers
        if sealed:
            assert model_store(["seal", str(path), "--probes"]) == 0
        kept = tmp_path / f"kept-{sealed}"
        model = load(str(path), engine="openvino", precision="f32", threads=1, artefact_dir=kept)
        (tokens,) = model.tokenize([text])
        assert tokens.truncated > 50
        found = dict(zip(model.info.labels, model.classify([tokens])[0], strict=True))
        model.close()
        assert found == pytest.approx(wanted, abs=1e-4)


def test_a_tokenizer_json_that_transformers_reads_otherwise_is_not_sealed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy(checkpoint, tmp_path / "model")
    config = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    changed = config | {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}
    (path / "tokenizer_config.json").write_text(json.dumps(changed), "utf-8")
    assert model_store(["seal", str(path), "--probes"]) == 2
    message = capsys.readouterr().err
    assert "transformers reads 'A' as" in message
    assert "save the tokenizer again with transformers' save_pretrained" in message


def test_a_tokenizer_that_only_python_has_is_refused_by_name(tmp_path: Path) -> None:
    path = small(tmp_path / "model", "wordpiece", tokenizer_class="CanineTokenizer")
    with pytest.raises(ModelUnsupported, match=r"transformers reads with CanineTokenizer in Python"):
        write_tokenizer(read_checkpoint(path), tmp_path)


def test_a_text_without_a_token_was_an_error(tmp_path: Path) -> None:
    from tests.families.checkpoints import write_family

    path = write_family(tmp_path / "model", "qwen2")
    model = load(str(path), engine="torch", precision="f32", threads=1, artefact_dir=tmp_path / "kept")
    empty, other = model.tokenize(["", "a good film"])
    padding = json.loads((path / "config.json").read_text("utf-8"))["pad_token_id"]
    assert (list(empty.ids), padding) == ([padding], 1)
    assert not RustTokenizer.from_file(str(path / "tokenizer.json")).encode("").ids
    alone = [model.classify([text])[0] for text in (empty, other)]
    assert np.abs(np.array(model.classify([empty, other])) - alone).max() < 1e-4
    model.close()


def published(path: Path, kind: str) -> list[str]:
    """Replaces tokenizer.json by what repositories have instead. Returns the names of these files."""
    tokenizer = json.loads((path / "tokenizer.json").read_text("utf-8"))
    (path / "tokenizer.json").unlink()
    vocabulary = tokenizer["model"]["vocab"]
    if kind == "wordpiece":
        pieces = sorted(vocabulary, key=lambda piece: vocabulary[piece])
        (path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")
        return ["vocab.txt"]
    (path / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in tokenizer["model"]["merges"]]
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return ["vocab.json", "merges.txt"]


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_tokenizer_as_it_is_published_is_read_as_transformers_reads_it(
    kind: str, added: bool, tmp_path: Path
) -> None:
    """vocab.txt alone, and vocab.json with merges.txt, each also with added_tokens.json."""
    path = small(tmp_path / "model", kind)
    names = published(path, kind)
    if added:
        (path / "added_tokens.json").write_text(json.dumps({"[NEW]": 600}), "utf-8")
        config = json.loads((path / "config.json").read_text("utf-8")) | {"vocab_size": 601}
        (path / "config.json").write_text(json.dumps(config), "utf-8")
        names.append("added_tokens.json")
    checkpoint = read_checkpoint(path)
    assert {*names} <= {file.name for file in checkpoint.files()}
    wanted = ids_of_transformers(path)
    assert any(600 in ids for ids in wanted) == added
    write_tokenizer(checkpoint, tmp_path)
    found = Tokenizer(tmp_path / "tokenizer.json", checkpoint.max_tokens)(TEXTS)
    assert [list(tokens.ids) for tokens in found] == wanted


@pytest.mark.parametrize("name", TOKENIZER_FILES)
def test_every_file_of_a_tokenizer_is_a_part_of_the_revision(name: str, tmp_path: Path) -> None:
    path = small(tmp_path / "model", "wordpiece")
    before = identity(read_checkpoint(path).files())
    with (path / name).open("ab") as file:
        file.write(b" ")
    assert identity(read_checkpoint(path).files()) != before


# The tokenizer whose vocabulary each file is.
CLASSES = {
    "spm.model": "DebertaV2Tokenizer", "spiece.model": "AlbertTokenizer",
    "sentencepiece.model": "RemBertTokenizer", "sentencepiece.bpe.model": "XLMRobertaTokenizer",
    "tokenizer.model": "LlamaTokenizer",
}  # fmt: skip


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_broken_tokenizer_is_refused_by_the_name_of_its_file(name: str, tmp_path: Path) -> None:
    """Also if the package that reads it is missing, which is then named."""
    own = {"tokenizer_class": CLASSES[name]} if name in CLASSES else {}
    path = small(tmp_path / "model", "wordpiece", **own)
    (path / "tokenizer.json").unlink()
    with pytest.raises(ModelUnsupported, match=name.replace(".", r"\.")):
        require_vocabulary(path)
    (path / name).write_bytes(b"\xff\xfe\x00 no vocabulary")
    require_vocabulary(path)
    with pytest.raises(ModelUnsupported) as refused:
        write_tokenizer(read_checkpoint(path), tmp_path)
    said = str(refused.value)
    assert name in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("missing", "named"), [("sentencepiece", True), ("google.protobuf", True), ("", False)]
)
def test_packages_are_named_if_one_of_them_is_missing(
    missing: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path / "model", "wordpiece", tokenizer_class="DebertaV2Tokenizer")
    (path / "tokenizer.json").unlink()
    (path / "spm.model").write_bytes(b"\xff\xfe\x00 no vocabulary")
    monkeypatch.setattr(
        "model_store.tokenizer_files.find_spec", lambda name: None if name == missing else name
    )
    with pytest.raises(ModelUnsupported) as refused:
        write_tokenizer(read_checkpoint(path), tmp_path)
    assert ("pip install sentencepiece protobuf" in str(refused.value)) is named


def test_a_sentencepiece_model_alone_is_read_or_its_packages_are_named(tmp_path: Path) -> None:
    """It was `has no tokenizer`, or a traceback of the package that converts it."""
    path = small(tmp_path / "model", "wordpiece", tokenizer_class="DebertaV2Tokenizer")
    (path / "tokenizer.json").unlink()
    pieces = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    from model_store.calibration_texts import CALIBRATION_TEXTS

    pieces.SentencePieceTrainer.train(
        sentence_iterator=iter(CALIBRATION_TEXTS * 20), model_prefix=str(tmp_path / "made"), vocab_size=300,
        hard_vocab_limit=False, minloglevel=2, pad_id=0, bos_id=1, eos_id=2, unk_id=3,
        pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]",
        user_defined_symbols=["[MASK]"],
    )  # fmt: skip
    (tmp_path / "made.model").rename(path / "spm.model")
    wanted = ids_of_transformers(path)
    write_tokenizer(read_checkpoint(path), tmp_path)
    found = Tokenizer(tmp_path / "tokenizer.json", MOST)(TEXTS)
    assert [list(tokens.ids) for tokens in found] == wanted
